"""Refuses a forward pass that changes what the model holds.

A record's mean in a buffer, or a codebook moved towards the records, would be released with the
model, and no noise is added to it.

>>> layer = nn.BatchNorm1d(3)
>>> with refusing_changes(layer, values=False):
...     layer(torch.ones(2, 3)).shape
Traceback (most recent call last):
workbench.errors.InputError: The model cannot be clipped: its buffer 'running_mean' is ...
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from workbench.errors import InputError

_PIECE = 2**12  # numbers at least that are looked at together, or a 64th of all
_SMALL = 2**16  # numbers that are read twice in every call
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# What a forward pass was seen to write again with the numbers that it had, by path, kind and name.
_REWRITTEN: WeakKeyDictionary[nn.Module, set[tuple[str, str, str]]] = WeakKeyDictionary()


@contextmanager
def refusing_changes(model: nn.Module, *, values: bool) -> Iterator[None]:
    """Compare the model's parameters and buffers, frozen ones too, after the block and before.

    Values alone decide: a tensor may be made anew, swapped for a while or written in place as long
    as it holds the same numbers in the end. Compared is a checksum of every single bit and its
    place, because a copy of everything would take the model's memory again. Buffers have one if
    they are small or known to be rewritten, and everything has one with ``values``, so that changes
    behind autograd's back, as through ``.data``, are seen as well. Without a checksum a tensor that
    autograd knows to be changed in place is refused, but for a parameter that had earlier been
    rewritten with equal numbers: it is compared with ``values`` again. What a module keeps
    elsewhere is no part of the model that is released, and not looked at.
    """
    rewritten = _REWRITTEN.setdefault(model, set())

    def state(path: str, kind: str, name: str, tensor: Tensor | None) -> _State:
        small = tensor is not None and tensor.numel() <= _SMALL
        buffer = kind == "buffer" and (small or (path, kind, name) in rewritten)
        return _State.of(tensor, values or buffer)

    before = [
        (path, kind, table, {name: state(path, kind, name, t) for name, t in table.items()})
        for path, module in model.named_modules()
        for kind, table in (("parameter", module._parameters), ("buffer", module._buffers))
    ]
    yield
    for path, kind, table, states in before:
        for name in {**states, **table}:
            here = path, kind, name
            if name not in states or not states[name].is_that_of(
                table.get(name), trusted=kind == "parameter" and here in rewritten
            ):
                raise InputError(
                    f"The model cannot be clipped: its {kind} {f'{path}.{name}'.lstrip('.')!r} is "
                    "changed by the forward pass, and no noise is added to what it keeps of the "
                    "records; keep it fixed or leave it out."
                )
            if states[name].was_touched(table.get(name)):
                rewritten.add(here)


@dataclass(frozen=True, slots=True)
class _State:
    """A tensor, how often it had been changed in place, and a checksum if one was taken."""

    tensor: Tensor | None
    version: int
    checksum: Tensor | None

    @classmethod
    def of(cls, tensor: Tensor | None, values: bool) -> "_State":
        return cls(tensor, _version(tensor), _checksum(tensor) if values else None)

    def was_touched(self, now: Tensor | None) -> bool:
        """Whether it is another tensor now, or was written in place."""
        return now is not self.tensor or _version(self.tensor) != self.version

    def is_that_of(self, now: Tensor | None, *, trusted: bool) -> bool:
        """Whether the tensor now holds these numbers; a ``trusted`` one may have been touched."""
        if now is None or self.tensor is None:
            return now is self.tensor
        if _kind(now) != _kind(self.tensor):
            return False
        if self.checksum is not None:
            after = _checksum(now)
            return after is not None and bool((self.checksum == after).all())
        if now is not self.tensor and _version(self.tensor) == self.version:
            return _holds_the_same(now, self.tensor)
        return trusted or not self.was_touched(now)


def _kind(tensor: Tensor) -> tuple[torch.Size, torch.dtype, torch.device]:
    return tensor.shape, tensor.dtype, tensor.device


def _holds_the_same(one: Tensor, other: Tensor) -> bool:
    # By bits, for which NaN is NaN; of kinds that have no checksum by their numbers.
    sums = _checksum(one), _checksum(other)
    if sums[0] is None or sums[1] is None:
        return torch.equal(one, other)
    return bool((sums[0] == sums[1]).all())


def _version(tensor: Tensor | None) -> int:
    return 0 if tensor is None or tensor.is_inference() else tensor._version


@torch.no_grad()
def _checksum(tensor: Tensor | None) -> Tensor | None:
    """One number for each piece of a plain tensor, (pieces,), None of other kinds.

    The sum modulo 2⁶⁴ of each number's bits times an odd number that belongs to its place. One
    number that changes always changes it; several, also exchanged ones, do but for one chance in
    about 2⁶⁰. Zero of either sign counts as the same.
    """
    if tensor is None or type(tensor) not in (Tensor, nn.Parameter):
        return None
    if tensor.layout != torch.strided or tensor.is_quantized:
        return None
    real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    # The numbers of a piece take several times their memory, and the activations are there as well.
    length = max(_PIECE, real.numel() // 64)
    places = _odd_numbers(min(real.numel(), length), tensor.device)
    return torch.stack([
        (_bits(piece) * places[: len(piece)]).sum()
        for piece in real.detach().reshape(-1).split(length)
    ])  # fmt: skip


def _bits(piece: Tensor) -> Tensor:
    if piece.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        piece = piece + 0.0  # −0 becomes 0
    return piece.contiguous().view(_BITS[piece.element_size()]).to(torch.int64)


def _odd_numbers(count: int, device: torch.device) -> Tensor:
    """Odd numbers that look drawn by chance and are always the same, (count,)."""
    numbers = torch.arange(1, count + 1, device=device) * -7046029254386353131
    numbers = (numbers ^ (numbers >> 31)) * -4658895280553007687
    return (numbers ^ (numbers >> 29)) | 1
