"""What keeps a record's contribution at C in floating point: exact norms, factors rounded down.

The norm has to be that of the very numbers that are summed. Where these are held, it is measured to
some 2⁻²² of itself; squares are added up in float64, so that none is too large or too small. Where
they are not held, `Measure` says how far rounding can move them (Higham 2002, "Accuracy and
Stability of Numerical Algorithms", sections 3.1 and 4.2).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.linalg import vector_norm

_PIECE = 64  # float32 numbers whose squares are added up before float64 goes on
_LEAST, _MOST = 1e-20, 1e36  # squared norms that float32 squares of single numbers leave intact


@dataclass(frozen=True)
class Measure:
    """Of one parameter, each (batch,), in the widest type.

    ``squares`` are squared norms; ``sizes`` the same if nothing had cancelled, and so at least as
    large; ``rounding`` is how far from the true gradient its computed share of a sum may lie;
    ``square_rounding`` is how far off ``squares`` may be.
    """

    squares: Tensor
    sizes: Tensor
    rounding: Tensor
    square_rounding: Tensor

    @classmethod
    def of_held(cls, squares: Tensor) -> "Measure":
        """Of gradients whose numbers are held, so that what is measured is what is summed."""
        nothing = torch.zeros_like(squares)
        return cls(squares, squares, nothing, nothing)


def widest(device: torch.device) -> torch.dtype:
    """Float64, which Apple's GPUs lack."""
    return torch.float32 if device.type == "mps" else torch.float64


def unit(dtype: torch.dtype) -> float:
    """The largest relative error of one rounding."""
    return torch.finfo(dtype).eps / 2


def squared_norms(gradients: Tensor) -> Tensor:
    """Squared norms (batch,) of (batch, …), in the widest type."""
    batch, dtype = len(gradients), widest(gradients.device)
    numbers = gradients.reshape(batch, gradients[:1].numel())
    if numbers.device.type != "cpu":
        return vector_norm(numbers, dim=1, dtype=dtype).square_()
    if numbers.dtype == dtype:
        return _in_one_type(numbers)
    whole = numbers.shape[1] // _PIECE * _PIECE
    # Float32 runs at full speed over a piece, and adds few enough numbers to lose no digits.
    pieces = vector_norm(numbers[:, :whole].reshape(batch, -1, _PIECE), dim=2)
    squares = _in_one_type(pieces.to(dtype)) + _in_one_type(numbers[:, whole:].to(dtype))
    for index in ((squares <= _LEAST) | ~(squares < _MOST)).nonzero()[:, 0].tolist():
        squares[index] = numbers[index].to(dtype).square_().sum()
    return squares


def squared_norm(gradient: Tensor) -> Tensor:
    """The squared norm of one matrix, maybe a transposed view, in the widest type."""
    return squared_norms((gradient.mT if gradient.mT.is_contiguous() else gradient)[None])[0]


def _in_one_type(numbers: Tensor) -> Tensor:
    return vector_norm(numbers, dim=1).square_()


def rounded_down(factors: Tensor, dtype: torch.dtype) -> Tensor:
    """Factors ≥ 0 in another type, none of which has grown."""
    rounded = factors.to(dtype)
    grown = rounded.to(factors.dtype) > factors
    return torch.where(grown, torch.nextafter(rounded, torch.zeros_like(rounded)), rounded)
