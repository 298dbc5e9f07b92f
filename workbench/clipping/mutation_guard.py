"""Refuses a forward pass that changes what the model holds.

A record's mean in a buffer, or a codebook moved towards the records, would be released with the
model, and no noise is added to it.

>>> layer = nn.BatchNorm1d(3)
>>> with refusing_changes(layer, values=False):
...     layer(torch.ones(2, 3)).shape
Traceback (most recent call last):
workbench.errors.InputError: The model cannot be clipped: its buffer 'num_batches_tracked' is ...
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm

from workbench.clipping.bookkeeping.contributions import widest
from workbench.errors import InputError

_PIECE = 2**20  # numbers


@contextmanager
def refusing_changes(model: nn.Module, *, values: bool) -> Iterator[None]:
    """Compare the model's parameters and buffers, frozen ones too, after the block and before.

    Noticed are a tensor that is replaced by other numbers, added, taken away or changed in place
    and, with ``values``, one changed behind autograd's back, as through ``.data``: by its sum and
    the sum of its sizes, because a copy of everything would take the model's memory again. What a
    module keeps elsewhere is no part of the model that is released, and not looked at.
    """
    before = [
        (path, kind, table, {name: _State.of(tensor, values) for name, tensor in table.items()})
        for path, module in model.named_modules()
        for kind, table in (("parameter", module._parameters), ("buffer", module._buffers))
    ]
    yield
    for path, kind, table, states in before:
        for name in {**states, **table}:
            if name not in states or not states[name].is_that_of(table.get(name)):
                raise InputError(
                    f"The model cannot be clipped: its {kind} {f'{path}.{name}'.lstrip('.')!r} is "
                    "changed by the forward pass, and no noise is added to what it keeps of the "
                    "records; keep it fixed or leave it out."
                )


@dataclass(frozen=True, slots=True)
class _State:
    """A tensor, how often it had been changed in place, and the sums of its values if taken."""

    tensor: Tensor | None
    version: int
    sums: Tensor | None

    @classmethod
    def of(cls, tensor: Tensor | None, values: bool) -> "_State":
        return cls(tensor, _version(tensor), _sums(tensor) if values else None)

    def is_that_of(self, now: Tensor | None) -> bool:
        if _version(self.tensor) != self.version:
            return False
        if now is not self.tensor:
            return _equal(now, self.tensor)  # a cache made anew may hold the same
        sums = None if self.sums is None else _sums(now)
        if self.sums is None or sums is None:
            return True
        # NaN before and after is the same.
        return torch.allclose(self.sums, sums, rtol=0, atol=0, equal_nan=True)


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return False
    alike = (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)
    return alike and torch.equal(one, other)


def _version(tensor: Tensor | None) -> int:
    return 0 if tensor is None or tensor.is_inference() else tensor._version


@torch.no_grad()
def _sums(tensor: Tensor | None) -> Tensor | None:
    """Sums of a plain tensor's numbers and of their sizes, (pieces, 2), None of other kinds."""
    if tensor is None or type(tensor) not in (Tensor, nn.Parameter):
        return None
    if tensor.layout != torch.strided or tensor.is_quantized:
        return None
    real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    # What is already wide is summed as it is, and the rest piece by piece, without a whole copy.
    pieces = (piece.to(_summed_in(piece)) for piece in real.detach().reshape(-1).split(_PIECE))
    return torch.stack([torch.stack([p.sum(), vector_norm(p, 1)]) for p in pieces])


def _summed_in(piece: Tensor) -> torch.dtype:
    wide = piece.dtype in (torch.float32, torch.float64)
    return piece.dtype if wide else widest(piece.device)
