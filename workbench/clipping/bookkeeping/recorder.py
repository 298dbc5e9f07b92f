"""Runs a model with its layers watched, so that their gradients can be told apart by record.

A layer with trainable parameters runs with stand-ins for them: copies that autograd does not
follow, or, in a normalisation, one copy for each row. Only the stand-ins and the layer's output are
watched. A parameter that is used past its layer's back, or in a layer without a rule, still gets an
ordinary gradient; that is how the engine notices, and takes it record by record.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from workbench.clipping.bookkeeping.contributions import Use, wide
from workbench.clipping.bookkeeping.habits import Habits
from workbench.clipping.bookkeeping.isolation import (
    NOT_RECORDS,
    Signature,
    Tap,
    Trial,
    Uses,
    signature_of,
    weighted_losses,
)
from workbench.clipping.bookkeeping.layer import Layer, NoRuleError
from workbench.clipping.bookkeeping.provenance import Provenance, counts_up

Receive = Callable[[nn.Parameter, Use], None]
# How a layer is run: takes the recorder, the layer and the call's arguments.
Way = Callable[..., Any]


class UnexpectedError(Exception):
    """What was learnt of a model does not hold in this pass, which has to be made anew."""


class Recorder:
    """While entered, layers run in their ways and are watched; ``backward`` hands on the yield.

    ``batch`` is how many records the losses will have, if known; else the first layer's rows count.
    With ``provenance``, what is shared by all records is seen to be made of none.
    """

    def __init__(
        self,
        ways: list[tuple[Layer, Way]],
        habits: Habits,
        batch: int | None = None,
        provenance: Provenance | None = None,
    ) -> None:
        self.habits, self.batch, self.taps = habits, batch, list[Tap]()
        self.repeated: dict[Signature, Layer] = {}  # whose rows were repeated for each record
        self.keeps_graph = habits.has_strays
        self.left_alone = list[Tap]()  # calls on what is made of watched tensors
        self.verified = list[Tap]()  # the taps in which a trial saw records stay apart
        self.kept_graph = self.is_narrow = False
        self._ways, self._provenance = ways, provenance
        self._arrived: Callable[[Tap, Tensor], None] | None = None

    def __enter__(self) -> Self:
        for layer, way in self._ways:
            vars(layer.module)["forward"] = partial(self._call, way, layer)
        return self

    def __exit__(self, *_: object) -> None:
        for layer, _way in self._ways:
            if layer.forward_is_its_own:
                vars(layer.module)["forward"] = layer.forward
            else:
                del vars(layer.module)["forward"]

    def forget(self) -> None:
        """Let go of autograd's graph, whose hooks hold this recorder: else both would stay."""
        for tap in (*self.taps, *self.left_alone):
            tap.node = tap.source = None

    def uneven(self) -> list[Tap]:
        """The taps whose rows cannot be the records."""
        return [
            tap for tap in self.taps if self.batch and tap.rows % self.batch and not tap.only_looks
        ]

    def untried(self) -> bool:
        """Whether there is a kind of call of which no earlier trial tells.

        Rows that are some positions of each record, but not all, may be others in every pass.
        """
        batch, tried = self.batch or 1, self.habits.tried
        whole = {1, *(tap.positions for tap in self.taps if tap.rows == batch)}
        calls = {tap.call(batch) for tap in self.taps}
        return batch > 1 and any(c not in tried or c[1] not in whole for c in calls)

    def trial(self, losses: Tensor) -> Trial:
        """Try out which rows each loss reaches; the graph is kept for `backward`."""
        weights, total = weighted_losses(losses, seed=self.habits.passes)
        trial = Trial(weights, [])

        def arrived(tap: Tap, gradient: Tensor) -> None:
            tap.call(len(losses))
            trial.arrivals.append(tap.sums(gradient, len(losses)))

        self._arrived = arrived
        total.backward(retain_graph=True)
        return trial

    def backward(self, losses: Tensor, receive: Receive, trial: Trial | None) -> list[Tap]:
        """One backward pass of the sum of ``losses``; ``receive`` gets the uses as they arise.

        Returns the taps that disagree with the trial or, without one, were never seen to agree.
        """
        batch, known = len(losses), self.habits.by_record
        arrivals = iter(trial.arrivals if trial else ())
        strangers = []

        def arrived(tap: Tap, gradient: Tensor) -> None:
            call = tap.call(batch)
            if trial:
                self.habits.tried.add(call)
                if not trial.agrees(tap.sums(gradient, batch), next(arrivals)):
                    strangers.append(tap)
                    return
                self.verified.append(tap)
                if gradient.any():
                    known.add(call)
            elif batch > 1 and call not in known and gradient.any():
                strangers.append(tap)
                return
            uses, tap.uses = tap.uses, None  # lets go of the layer's input
            if uses and not strangers:
                for parameter, use in uses(by_record(gradient, batch)):
                    receive(parameter, use)

        self._arrived = arrived
        # Under autocast, products of the norms and sums would be rounded to its narrow type.
        self.kept_graph = self.keeps_graph  # which a layer in a checkpoint may ask for too late
        with torch.autocast(losses.device.type, enabled=False):
            losses.sum().backward(retain_graph=self.kept_graph)
        if trial:
            self.habits.tried.update(tap.call(batch) for tap in self.taps)
            self.habits.most_records_tried = max(batch, self.habits.most_records_tried)
        return strangers

    def apart(self, losses: Tensor, parameters: list[nn.Parameter]) -> list[Tensor]:
        """Each record's gradients (batch, …) of some parameters, by a backward pass a record."""
        self._arrived = lambda *_: None
        shapes = [(len(losses), *p.shape) for p in parameters]
        gradients = [
            torch.zeros(shape, dtype=wide(p).dtype, device=p.device)
            for shape, p in zip(shapes, parameters, strict=True)
        ]
        with torch.autocast(losses.device.type, enabled=False):
            for index, loss in enumerate(losses):
                for p in parameters:
                    p.grad = None
                # Not autograd.grad, through which reentrant checkpoints cannot be passed.
                loss.backward(retain_graph=True)
                for gradient, p in zip(gradients, parameters, strict=True):
                    if p.grad is not None:
                        gradient[index] = p.grad.to_dense()
        return gradients

    def watch(
        self,
        layer: Layer,
        tensor: Tensor,
        signature: Signature,
        uses: Callable[[Tensor], Uses] | None,
        *,
        can_be_shared: bool = False,
        source: Tensor | None = None,
        is_copy: bool = False,
    ) -> Tensor:
        """Have ``uses`` called with the gradient of ``tensor`` (rows, …), which is to be used on.

        ``source`` is what it was made from. Without ``uses`` it is only seen whether records stay
        apart. A layer that runs again within the backward pass, because activations were not kept,
        is watched like any other, and forgotten with its output.
        """
        if tensor.dtype == torch.float16:
            raise layer.refusal(
                "it computes in float16, whose small numbers lose digits that clipping needs",
                "use bfloat16 or float32",
            )
        self.is_narrow |= tensor.dtype == torch.bfloat16
        if not tensor.requires_grad or (tensor._is_view() and tensor.grad_fn is not None):
            # A tensor that may be changed in place without its hook being lost.
            tensor = tensor.requires_grad_().clone()
        tap = Tap(layer, signature, tensor.shape, uses, can_be_shared, only_looks=uses is None)
        tap.is_copy = is_copy
        if self._arrived is None:
            tap.node, tap.source = tensor.grad_fn, None if source is None else source.grad_fn
            self.taps.append(tap)
        if tensor.grad_fn is None:
            tensor.register_hook(lambda gradient: self._arrives(tap, gradient))
        else:
            place = tensor.output_nr
            tensor.grad_fn.register_prehook(lambda found: self._arrives(tap, found[place]))
        return tensor

    def look_at(self, layer: Layer, tensor: Tensor, what: str) -> Tensor:
        """See only whether records stay apart in this tensor, unless it is one for them all."""
        signature = (f"{layer.name} {what}", tensor.ndim, False)
        if len(tensor) <= 1 or self._leaves_alone(layer, tensor, signature):
            return tensor
        # A tensor of our own: no hook must be left on the caller's or the model's, nor be added to
        # the same one again where a checkpoint runs the layer again.
        ours = tensor.clone() if tensor.requires_grad else tensor.detach()
        return self.watch(layer, ours, signature, None, source=tensor)

    def repeats(self, layer: Layer, x: Tensor) -> None:
        """Note that rows which all records share are repeated, for a layer's input ``x``."""
        signature = signature_of(layer, x)
        if not (self._is_of_no_record(x, signature) or counts_up(x)):
            raise layer.refusal(
                "its input's single row is made of the records, which it does not keep apart",
                "give it a row for each record",
            )
        self.repeated[signature] = layer

    def _is_of_no_record(self, x: Tensor, signature: Signature) -> bool:
        """Whether an input is made of no record; what only counts needs no look in every pass."""
        known = self.habits.made_of_none
        if self._arrived is not None:  # a layer in a checkpoint runs again
            return signature in known
        if self._provenance is None:
            if not counts_up(x) and signature not in known:
                self.habits.careful = True
                raise UnexpectedError
            return True
        if self._provenance.is_of_no_record(x):
            known.add(signature)
            return True
        known.discard(signature)
        return False

    def leaves_alone(self, layer: Layer, x: object) -> bool:
        """Whether a call was found to be of those that are left as they are."""
        if not isinstance(x, Tensor) or not x.ndim:
            return False
        alone = not len(x) or self._leaves_alone(layer, x, signature_of(layer, x))
        self.keeps_graph |= alone
        return alone

    def _leaves_alone(self, layer: Layer, x: Tensor, signature: Signature) -> bool:
        if signature in self.habits.of_no_record:
            alone = self._is_of_no_record(x, signature)
        elif signature in self.habits.of_watched:
            alone = x.requires_grad
            if self._arrived is None:
                self.left_alone.append(Tap(layer, signature, x.shape, None, source=x.grad_fn))
        else:
            return False
        if not alone:
            raise layer.refusal(*NOT_RECORDS)
        return True

    def _arrives(self, tap: Tap, gradient: Tensor | None) -> None:
        if self._arrived is not None and gradient is not None:
            self._arrived(tap, gradient)
        elif self._arrived is None and torch.is_grad_enabled() and not tap.only_looks:
            # What the losses owe to the weights through such a gradient would be left out.
            raise NoRuleError(tap.layer)

    def _call(self, way: Way, layer: Layer, /, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return layer.forward(*args, **kwargs)
        if torch._C._functorch.peek_interpreter_stack() is not None:  # type: ignore[attr-defined]
            # Within a transform of torch.func nothing can be watched.
            self.keeps_graph = True
            return layer.forward(*args, **kwargs)
        return way(self, layer, *args, **kwargs)


def by_record(tensor: Tensor, batch: int) -> Tensor:
    """(rows, …) as (batch, rows/batch, …)."""
    rows = len(tensor)
    if rows == batch:
        return tensor.unsqueeze(1)
    return tensor.reshape(batch, rows // batch, *tensor.shape[1:])
