"""The forward pass: what a model says of every predicted token of every row of tokens.

Log-probabilities are float32 at least, whatever the weights are. Rows go through in batches of like
length, and padding on the right changes nothing before it.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from workbench.audit.cache import ScoreCache, row_digest
from workbench.audit.per_token import RowScores, TokenScores
from workbench.errors import InputError
from workbench.training import models

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

_LOGITS_AT_ONCE = 2**21  # numbers; 8 MB in float32, about what a processor's cache holds
_KEEP_SECONDS = 2.0  # how much of a pass a kill can cost


@dataclass(frozen=True)
class Progress:
    """How far a pass has come; ``what`` is whose pass it is, such as "target".

    ``eta_seconds`` follows from the tokens done so far in this session; NaN before the first.
    """

    what: str
    done: int
    total: int
    seconds: float
    eta_seconds: float


OnProgress = Callable[[Progress], None]


class CancelledError(Exception):
    """The pass was asked to stop; what it had scored is in the cache, if it has one."""


def model_digest(model: "PreTrainedModel") -> str:
    """A hash of a model's weights and shape, the same wherever the weights came from."""
    digest = hashlib.sha256(type(model).__name__.encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(raw.numpy().data)
    return digest.hexdigest()


def score_rows(
    model: "PreTrainedModel",
    rows: Sequence[Sequence[int]],
    *,
    hidden: bool = False,
    cache: ScoreCache | None = None,
    what: str = "model",
    on_progress: OnProgress | None = None,
    stop: threading.Event | None = None,
) -> TokenScores:
    """One pass over every row that the cache does not have; equal rows go through once.

    Args:
        model: a causal language model; it is put in evaluation mode and back.
        rows: (records,) of at least two tokens each.
        hidden: whether hidden states are pooled, too.
        cache: of this model; what is scored is kept there every two seconds, also if stopped.
        what: whose pass this is, for ``on_progress``.
        on_progress: called after each batch.
        stop: an event; once it is set, the pass ends after the batch in hand.

    Raises `CancelledError` if stopped, and `InputError` if the model gives NaN.
    """
    digests = [row_digest(row) for row in rows]
    found = {} if cache is None else cache.read(set(digests), hidden=hidden)
    missing = {d: row for d, row in zip(digests, rows, strict=True) if d not in found}
    keep = _Keeping(cache)
    left = sum(map(len, missing.values()))
    began, tokens, done = time.monotonic(), 0, len(rows) - len(missing)

    def tell() -> None:
        if on_progress is not None:
            seconds = time.monotonic() - began
            eta = seconds / tokens * (left - tokens) if tokens else (np.nan if left else 0.0)
            on_progress(Progress(what, done, len(rows), seconds, eta))

    tell()
    was_training = model.training
    model.eval()
    try:
        for batch in _batches(missing, models.vocabulary(model)):
            scored = _of_batch(model, [missing[digest] for digest in batch], hidden=hidden)
            for digest, row in zip(batch, scored, strict=True):
                _refuse_nan(row, what)
                found[digest] = row
                keep.add(digest, row)
                tokens += len(missing[digest])
            done += len(batch)
            tell()
            if stop is not None and stop.is_set():
                raise CancelledError(f"{what}: stopped after {done} of {len(rows)} records")
    finally:
        keep.write()
        model.train(was_training)
    return TokenScores.joined([found[digest] for digest in digests])


class _Keeping:
    """Writes what was scored into the cache now and then."""

    def __init__(self, cache: ScoreCache | None) -> None:
        self._cache, self._waiting = cache, {}
        self._due = time.monotonic() + _KEEP_SECONDS

    def add(self, digest: str, row: RowScores) -> None:
        if self._cache is not None:
            self._waiting[digest] = row
            if time.monotonic() > self._due:
                self.write()

    def write(self) -> None:
        if self._cache is not None and self._waiting:
            self._cache.add(self._waiting)
        self._waiting, self._due = {}, time.monotonic() + _KEEP_SECONDS


def _batches(rows: dict[str, Sequence[int]], vocabulary: int) -> Iterator[list[str]]:
    """Neighbours in length, the longest first, as many as their logits may take."""
    # The longest first, so that what will not fit into memory shows at once.
    order = sorted(rows, key=lambda digest: -len(rows[digest]))
    start = 0
    while start < len(order):
        longest = len(rows[order[start]])
        count = max(1, _LOGITS_AT_ONCE // (longest * vocabulary))
        yield order[start : start + count]
        start += count


@torch.no_grad()
def _of_batch(
    model: "PreTrainedModel", rows: list[Sequence[int]], *, hidden: bool
) -> Iterator[RowScores]:
    """What the model says of each row."""
    tokens, lengths = padded(rows, model.device)
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    positions = torch.arange(inputs.shape[1], device=model.device).expand_as(inputs)
    out = model(
        input_ids=inputs, position_ids=positions, use_cache=False, output_hidden_states=hidden
    )
    columns = [column.cpu().numpy() for column in _told(out.logits, targets)]
    pooled = _pooled(out.hidden_states, lengths - 1) if hidden else [None] * len(rows)
    for place, row in enumerate(rows):
        own = (column[place, : len(row) - 1].copy() for column in columns)
        yield RowScores(np.array(row[1:], dtype=np.int64), *own, pooled=pooled[place])


def padded(rows: Sequence[Sequence[int]], device: "torch.device") -> tuple["Tensor", "Tensor"]:
    """Rows as (rows, longest) tokens, zeros behind each, and their lengths (rows,)."""
    lengths = torch.tensor([len(row) for row in rows])
    tokens = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    for place, row in enumerate(rows):
        tokens[place, : len(row)] = torch.tensor(row)
    return tokens.to(device), lengths.to(device)


def _told(logits: "Tensor", targets: "Tensor") -> tuple["Tensor", ...]:
    """Log p, mean and deviation of log p, and whether the target is likeliest, (batch, tokens).

    Every pass over the logits costs as much as a small model's layer, so they are few and in place.
    """
    below = logits.to(torch.promote_types(logits.dtype, torch.float32))
    below = below - below.amax(-1, keepdim=True)  # log p, but for a constant a position
    of_targets = below.gather(-1, targets[..., None])[..., 0]
    p = below.exp()
    total = p.sum(-1)
    mean = torch.linalg.vecdot(p, below) / total
    if mean.isnan().any():  # a token is impossible, and 0 · log 0 = 0
        below.masked_fill_(p == 0, 0.0)
        mean = torch.linalg.vecdot(p, below) / total
    squares = below.sub_(mean[..., None]).square_()
    deviation = (torch.linalg.vecdot(p, squares) / total).sqrt_()
    whole = total.log()
    told = of_targets - whole, mean - whole, deviation
    return *(column.float() for column in told), of_targets >= 0


def _pooled(states: Sequence["Tensor"], counts: "Tensor") -> np.ndarray:
    """The mean of each layer's hidden states over a row's positions, (rows, layers + 1, width)."""
    length = states[0].shape[1]
    weights = (torch.arange(length, device=counts.device) < counts[:, None]).float()
    weights /= counts[:, None]
    means = [torch.einsum("rt,rtw->rw", weights, state.float()) for state in states]
    return torch.stack(means, dim=1).cpu().numpy()


def _refuse_nan(row: RowScores, what: str) -> None:
    if np.isnan(row.log_p).any():
        raise InputError(
            f"The {what} gives NaN for a record's tokens; its weights or its training have "
            "diverged, so give a model whose loss is finite."
        )
