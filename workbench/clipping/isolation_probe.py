"""Looks whether the loss of a record depends on other records, whatever the engine.

No engine clips such losses: their gradients belong to the whole batch, and one record more or less
moves the sum by many C. Now and then, after an engine's own work, ``record_losses`` is called again
with half of the records replaced by one of the others. The losses of the rest must stay as they
were, and with them their gradient. Records are replaced in every tensor that comes from outside the
model and has a dimension as long as the batch: torch shows each operation to the probe before it is
done. So detached statistics, token counts and orders are seen as well, which no gradient shows.

Records that come packed into tensors without such a dimension, or in a tensor each, cannot be
exchanged. There the losses are multiplied by weights of their own: a number of the data that
reaches one loss alone has its gradient multiplied by that loss's weight. What the data reach
without a gradient is then not seen.

Never seen are records mixed before ``record_losses`` is called, and what mixes only other batches
than those that were looked at.
"""

import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.linalg import vector_norm

from workbench.clipping.clipped_sum import (
    RecordLosses,
    gradients_kept,
    now_and_then,
    trainable,
    widest,
)
from workbench.clipping.record_exchange import Entries, Exchange, Way
from workbench.errors import InputError

T = TypeVar("T")

_MOST_PROBED: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()  # records


class MixedRecordsError(InputError):
    """The loss of a record depends on other records."""


def probe_is_due(model: nn.Module, batch: int, *, call: int) -> bool:
    """At calls 1, 4, 16, 64 … and for far larger batches, as few records may mix unseen."""
    return batch > 1 and (now_and_then(call) or batch > 2 * _MOST_PROBED.get(model, 1))


def refuse_mixing(
    model: nn.Module,
    record_losses: RecordLosses,
    *,
    call: int,
    gradients: bool,
    batch: int | None = None,
) -> None:
    """Raise `MixedRecordsError` where the loss of a record is seen to depend on other records.

    Without ``gradients`` losses alone are compared, which takes little memory beside the sum, and
    with a known ``batch`` three forward passes.
    Whatever chance torch, numpy and Python lend to ``record_losses`` is the same in every call, and
    is left as it was found.
    """
    with _same_draws(model) as again:
        look = _Look(model, record_losses, again, gradients=gradients, batch=batch)
        batch = look.batch
        if batch < 2:
            return
        order = torch.randperm(batch, generator=torch.Generator().manual_seed(call))
        halves = order[: batch // 2], order[batch // 2 :]
        if not look.isolated(halves):
            if not look.repeats(halves[0]):
                raise InputError(
                    "record_losses gives other losses when it is called again, so that nothing "
                    "tells whether they depend on other records; draw what is random before "
                    "the call, or with torch's own generator."
                )
            raise MixedRecordsError(
                "record_losses cannot be clipped: the loss of a record changes with other "
                "records of the batch, and so no bound holds for what one of them adds; "
                "compute each record's loss from that record alone, and make what all records "
                "share a buffer of the model."
            )
        _MOST_PROBED[model] = max(batch, _MOST_PROBED.get(model, 1))


class _Look:
    """Calls of one ``record_losses`` that differ in nothing but the records."""

    def __init__(
        self,
        model: nn.Module,
        record_losses: RecordLosses,
        again: Callable[[], None],
        *,
        gradients: bool,
        batch: int | None,
    ) -> None:
        self.model, self.record_losses, self.again = model, record_losses, again
        self.gradients = self.followed = gradients
        self.batch = self._counted() if batch is None else batch
        self._unchanged: tuple[Tensor, Exchange] | None = None

    def _counted(self) -> int:
        def count() -> int:
            self.again()
            with _followed(self.followed):
                return len(self.record_losses())

        return self._followed_if_need_be(count)

    def _followed_if_need_be(self, call: Callable[[], T]) -> T:
        """Without gradients, unless ``record_losses`` takes some of its own."""
        try:
            return call()
        except RuntimeError as error:
            if self.followed or isinstance(error, torch.OutOfMemoryError):
                raise
            self.followed = True
            return call()

    def isolated(self, halves: tuple[Tensor, Tensor]) -> bool:
        """Whether losses stay where other records are replaced or, if need be, by their weights."""
        _, found = self._before(halves[0])
        if not found.tensors:
            return self.weighs()
        if self._stay(halves, "first") or (found.ambiguous and self._stay(halves, "last")):
            return True
        if found.elsewhere and (not found.rows or self._stay(halves, "rows")):
            return self.weighs()  # features, say, that are as many as records by chance
        # Lengths that no longer fit what is packed, say, or a tensor for each record, of which one
        # has as many rows by chance.
        return found.without_records and self.weighs(one_record_each=found.rows_of_data)

    def _stay(self, halves: tuple[Tensor, Tensor], way: Way) -> bool:
        for kept in halves:
            before, seen = self._before(kept)
            try:
                sources = _sources(kept, self.batch)
                after, then = self._of(kept, Exchange(self.model, self.batch, sources, way))
            except (RuntimeError, ValueError, IndexError, TypeError) as error:
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                return False
            if not _alike(before, after, max(seen.rounding, then.rounding)):
                return False
        return True

    def repeats(self, kept: Tensor) -> bool:
        """Whether a second call gives the same losses."""
        first, seen = self._of(kept, Exchange(self.model, self.batch))
        second, _ = self._of(kept, Exchange(self.model, self.batch))
        return _alike(first, second, seen.rounding)

    def weighs(self, *, one_record_each: bool = False) -> bool:
        """Whether each number of the data, or each tensor, reaches one loss alone by gradients."""
        self.again()
        mode = Entries(self.model)
        with mode:
            losses = self.record_losses()
        if not mode.entries or not losses.requires_grad:
            return True
        powers = torch.randperm(self.batch, generator=torch.Generator().manual_seed(self.batch))
        weights = torch.exp2(powers % 16 - 8.0).to(losses)
        plain, weighted = (
            torch.autograd.grad(total, mode.entries, retain_graph=True, allow_unused=True)
            for total in (losses.sum(), (losses * weights).sum())
        )
        return all(
            one is None or other is None or _is_weighted(one, other, once=one_record_each)
            for one, other in zip(plain, weighted, strict=True)
        )

    def _before(self, kept: Tensor) -> tuple[list[Tensor], Exchange]:
        """The same of the data as they are; losses alone are of all records at once."""
        if self.gradients:
            return self._of(kept, Exchange(self.model, self.batch))
        if self._unchanged is None:
            everything = torch.arange(self.batch)
            (losses,), mode = self._followed_if_need_be(
                lambda: self._of(everything, Exchange(self.model, self.batch))
            )
            self._unchanged = losses, mode
        losses, mode = self._unchanged
        return [losses[kept.to(losses.device)]], mode

    def _of(self, kept: Tensor, mode: Exchange) -> tuple[list[Tensor], Exchange]:
        """The losses of some records and, where asked for, what tells of their gradient."""
        self.again()
        parameters = list(trainable(self.model).values()) if self.gradients else []
        with gradients_kept(parameters), _followed(self.followed):
            with mode:
                losses = self.record_losses()
            losses = losses[kept.to(losses.device)]
            seen = [losses.detach().to(widest(losses.device))]
            if self.gradients and losses.requires_grad:
                total = losses.sum()
                with mode:  # layers that are run again within the backward pass
                    total.backward()
                seen.append(_traits([p.grad for p in parameters if p.grad is not None]))
        return seen, mode


def _sources(kept: Tensor, batch: int) -> Tensor:
    """Where each record's rows are taken from: from itself, or all from one that is kept."""
    sources = kept[:1].expand(batch).clone()
    sources[kept] = kept
    return sources


def _traits(gradients: list[Tensor]) -> Tensor:
    """Of each gradient its norm and its sum over √n, which is at most the norm; (2, gradients)."""
    norms, sums = [], []
    for gradient in gradients:
        values = gradient.coalesce().values() if gradient.is_sparse else gradient
        wide = widest(gradient.device)
        norms.append(vector_norm(values.flatten(), dtype=wide))
        sums.append(values.sum(dtype=wide) / gradient.numel() ** 0.5)
    return torch.stack([torch.stack(norms), torch.stack(sums)])


def _alike(before: list[Tensor], after: list[Tensor], rounding: float) -> bool:
    """Whether both are the same but for rounding of their largest; true of what is not finite."""
    for one, other in zip(before, after, strict=True):
        if one.shape != other.shape:
            return False
        if not one.numel() or not one.isfinite().all():
            continue  # the norms will tell
        largest = one.abs().max()
        if not bool(((one - other).abs() <= rounding * largest + 1e-30).all()):
            return False
    return True


def _is_weighted(plain: Tensor, weighted: Tensor, *, once: bool) -> bool:
    """Whether each number of ``weighted`` is that of ``plain`` times a power of two, or all are."""
    if not (plain.isfinite().all() and weighted.isfinite().all()):
        return True  # the norms will tell
    plain, weighted = (g.to(widest(g.device)) for g in (plain, weighted))
    powers = (weighted / plain).abs().log2().nan_to_num(0, 0, 0).round().clamp(-8, 7)
    if once:
        powers = powers.flatten()[plain.abs().argmax()]
    off = (weighted - torch.exp2(powers) * plain).abs()
    # What is far smaller than the rest is rounding, where terms cancel.
    return bool((off <= 1e-3 * weighted.abs() + 1e-6 * weighted.abs().max()).all())


@contextmanager
def _followed(by_autograd: bool) -> Iterator[None]:
    """With gradients or without, of whose want checkpointing need not warn."""
    with warnings.catch_warnings(), torch.set_grad_enabled(by_autograd):
        if not by_autograd:
            warnings.filterwarnings("ignore", message="None of the inputs have requires_grad")
        yield


@contextmanager
def _same_draws(model: nn.Module) -> Iterator[Callable[[], None]]:
    """Hands out what puts the global generators back to where they stand now, and does so last."""
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    ours = torch.get_rng_state()
    theirs = {device: torch.cuda.get_rng_state(device) for device in devices}
    numpys, pythons = np.random.get_state(), random.getstate()

    def again() -> None:
        torch.set_rng_state(ours)
        for device, state in theirs.items():
            torch.cuda.set_rng_state(state, device)
        np.random.set_state(numpys)
        random.setstate(pythons)

    try:
        yield again
    finally:
        again()
