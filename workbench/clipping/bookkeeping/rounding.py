"""What keeps a record's contribution at C in floating point: exact norms, factors rounded down.

The norm has to be that of the very numbers that are summed. Where these are held, it is measured to
some 2⁻²² of itself; squares are added up in float64, so that none is too large or too small. Where
they are not held, `Measure` says how far rounding can move them (Higham 2002, "Accuracy and
Stability of Numerical Algorithms", sections 3.1 and 4.2).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.linalg import vector_norm

_PIECE = 128  # float32 numbers whose squares are added up before float64 goes on
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


def unit_of_products(dtype: torch.dtype) -> float:
    """The same where matrices are multiplied, which torch can be told to do with fewer digits."""
    if dtype != torch.float32:
        return unit(dtype)
    try:
        setting = torch.get_float32_matmul_precision()
    except RuntimeError:  # it was set for each backend
        setting = "medium"
    return {"highest": unit(dtype), "high": 2.0**-11}.get(setting, 2.0**-8)


def squared_norms(gradients: Tensor | Sequence[Tensor]) -> Tensor:
    """Squared norms (batch,) of (batch, …), or of matrices one by one, in the widest type."""
    if isinstance(gradients, Tensor):
        return squares(norms_of_pieces(gradients), gradients)
    return squares(torch.stack([norms_of_pieces(one[None])[0] for one in gradients]), gradients)


def norms_of_pieces(gradients: Tensor) -> Tensor:
    """The norms of parts of each record's numbers (batch, …), few enough to lose no digits."""
    if gradients.ndim == 3 and gradients.mT.is_contiguous():
        gradients = gradients.mT
    batch, dtype = len(gradients), widest(gradients.device)
    numbers = gradients[0].numel() if batch else 0
    if gradients.dtype == dtype or gradients.device.type != "cpu" or numbers % _PIECE:
        return vector_norm(gradients.reshape(batch, 1, numbers), dim=2, dtype=dtype)
    # In float32 this runs at full speed.
    return vector_norm(gradients.reshape(batch, -1, _PIECE), dim=2)


def squares(norms: Tensor, gradients: Tensor | Sequence[Tensor]) -> Tensor:
    """Squared norms (batch,) from those of pieces (batch, pieces), in the widest type."""
    dtype = widest(norms.device)
    found = vector_norm(norms.to(dtype), dim=1).square_()
    if norms.dtype != dtype:
        sure = (found > _LEAST) & (found < _MOST)
        for index in unsure(sure):
            found[index] = vector_norm(gradients[index].to(dtype)).square_()
    return found


def unsure(sure: Tensor) -> list[int]:
    """The places of what is not true, (batch,); where all is, numbers alone are asked for."""
    return [] if sure.all() else (~sure).nonzero()[:, 0].tolist()


def rounded_down(factors: Tensor, dtype: torch.dtype) -> Tensor:
    """Factors ≥ 0 in another type, none of which has grown."""
    rounded = factors.to(dtype)
    grown = rounded.to(factors.dtype) > factors
    return torch.where(grown, torch.nextafter(rounded, torch.zeros_like(rounded)), rounded)
