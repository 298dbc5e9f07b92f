"""What one layer call adds to a parameter's gradient, record by record.

A parameter is used by each call of its layer, and by each layer it is tied into. The gradient of a
record is the sum over uses, of which each kind here knows the squared norm and the clipped sum
without further backward passes:

- `Dense`: the gradients themselves, (batch, …);
- `Kept`: a matrix a record, formed here;
- `Outer`: gradient i is leftᵢᵀ rightᵢ, a sum over positions, left as its two factors;
- `Rows`: gradient i adds values to some rows of a table and is zero elsewhere.

Two uses of one parameter become one where that is possible; `Outer` and `Rows` stay two, and their
inner product is needed. Everything is float32 or wider: the norm must be that of the very numbers
that are summed.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.linalg import vector_norm

from workbench.clipping.bookkeeping.products import gram, outer_product, outer_products

# A record's gradient of an outer product takes m·n numbers, its two factors T·(m + n). Up to this
# ratio the products are formed at once and kept: forming them costs what the ordinary gradient
# does, norm and sum a pass over memory each. Above, they would fill it, and the Gram form of the
# norm is as quick (measured on models of 1 to 11 million parameters, with benchmarks/engines.py).
KEEP_UP_TO = 2.0


@dataclass(frozen=True)
class Dense:
    """Gradients (batch, *shape)."""

    gradients: Tensor

    def squared_norms(self) -> Tensor:
        """‖Gᵢ‖², shape (batch,)."""
        last = self.gradients.shape[-1] if self.gradients.ndim > 1 else 1
        return _squares(self.gradients.reshape(len(self.gradients), -1, last))

    def weighted_sum(self, factors: Tensor) -> Tensor:
        """Σᵢ cᵢ·Gᵢ for factors (batch,)."""
        vectors = self.gradients.reshape(len(self.gradients), -1)
        return (factors.to(vectors.dtype) @ vectors).view(self.gradients.shape[1:])


@dataclass(frozen=True)
class Kept:
    """Gradients (m, n), one a record, that no one else holds; ``squares`` (batch,) of their norms.

    A list where each was formed by itself, maybe as a transposed view, a tensor (batch, m, n)
    where all were at once.
    """

    gradients: list[Tensor] | Tensor
    squares: Tensor

    def squared_norms(self) -> Tensor:
        """‖Gᵢ‖², shape (batch,)."""
        return self.squares

    def weighted_sum(self, factors: Tensor) -> Tensor:
        """Σᵢ cᵢ·Gᵢ, in the memory of the first where that can be."""
        if isinstance(self.gradients, Tensor):
            return Dense(self.gradients).weighted_sum(factors)
        first, *others = factors.tolist()
        total = self.gradients[0].mul_(first)
        for gradient, factor in zip(self.gradients[1:], others, strict=True):
            total.add_(gradient, alpha=factor)
        return total.contiguous()

    def with_another(self, use: "Use") -> "Kept":
        """Both uses as one, in the memory of this one."""
        for index, gradient in enumerate(self.gradients):
            match use:
                case Outer(left, right):
                    gradient.addmm_(left[index].mT, right[index])
                case Rows(indices, values):
                    _add_rows(gradient, indices[index], values[index])
                case Dense(others) | Kept(others):
                    gradient.add_(others[index])
        if isinstance(self.gradients, Tensor):
            return Kept(self.gradients, _squares(self.gradients))
        norms = torch.stack([_row_norms(gradient) for gradient in self.gradients])
        return Kept(self.gradients, norms.square_().sum(1))


@dataclass(frozen=True)
class Outer:
    """Gradients leftᵢᵀ rightᵢ of shape (m, n), from left (batch, T, m) and right (batch, T, n)."""

    left: Tensor
    right: Tensor

    def squared_norms(self) -> Tensor:
        """⟨left leftᵀ, right rightᵀ⟩ (Bu et al. 2023, arXiv 2210.00038, section 3), (batch,)."""
        return gram(self.left).mul_(gram(self.right)).sum((1, 2))

    def weighted_sum(self, factors: Tensor) -> Tensor:
        """leftᵀ(c ⊙ right) over all records and positions at once."""
        weighted = factors.to(self.right.dtype)[:, None, None] * self.right
        return outer_product(self.left.flatten(0, 1), weighted.flatten(0, 1))


@dataclass(frozen=True)
class Rows:
    """Gradients (height, n): ``values`` (batch, T, n) added at the rows ``indices`` (batch, T)."""

    indices: Tensor
    values: Tensor
    height: int

    def squared_norms(self) -> Tensor:
        """Positions of a record that share a row add up before they are squared."""
        batch = len(self.indices)
        records = torch.arange(batch, device=self.indices.device)[:, None]
        places, inverse = torch.unique(self.indices + records * self.height, return_inverse=True)
        rows = self.values.new_zeros(len(places), self.values.shape[2])
        rows.index_add_(0, inverse.flatten(), self.values.flatten(0, 1))
        squares = vector_norm(rows, dim=1).square_()
        return squares.new_zeros(batch).index_add_(0, places // self.height, squares)

    def weighted_sum(self, factors: Tensor) -> Tensor:
        """The clipped values scattered into a table (height, n)."""
        weighted = factors.to(self.values.dtype)[:, None, None] * self.values
        table = weighted.new_zeros(self.height, weighted.shape[-1])
        return table.index_add_(0, self.indices.flatten(), weighted.flatten(0, 1))


Use = Dense | Kept | Outer | Rows


def outer(left: Tensor, right: Tensor) -> Kept | Outer:
    """Gradients leftᵢᵀ rightᵢ in the form that is cheaper for these shapes (batch, T, m or n)."""
    left, right = wide(left), wide(right)
    (_, positions, m), n = left.shape, right.shape[-1]
    if m * n > KEEP_UP_TO * positions * (m + n):
        return Outer(left, right)
    gradients = outer_products(left, right)
    if isinstance(gradients, Tensor):
        return Kept(gradients, _squares(gradients))
    kept, row_norms = [], []
    for gradient in gradients:
        row_norms.append(_row_norms(gradient))  # while it is in the processor's cache
        kept.append(gradient)
    return Kept(kept, torch.stack(row_norms).square_().sum(1))


def joined(one: Use, other: Use) -> Use | None:
    """Two uses of one parameter as one, or None for `Outer` and `Rows`."""
    match one, other:
        case (Outer(), Rows()) | (Rows(), Outer()):
            return None
        case Dense(a), Dense(b):
            return Dense(a + b)
        case Outer(a, b), Outer(c, d):
            return Outer(torch.cat([a, c], 1), torch.cat([b, d], 1))
        case Rows(a, b, height), Rows(c, d):
            return Rows(torch.cat([a, c], 1), torch.cat([b, d], 1), height)
        case Kept(), _:
            return one.with_another(other)
        case Dense(gradients), _:
            return Kept(gradients.clone(), one.squared_norms()).with_another(other)
        case _:
            return joined(other, one)


def inner_products(outer: Outer, rows: Rows) -> Tensor:
    """⟨Gᵢ, Hᵢ⟩ of two uses that stay apart, shape (batch,)."""
    # Entry (s, t): what position s adds to the row of position t, without the whole table.
    indices = rows.indices[:, None, :].expand(-1, outer.left.shape[1], -1)
    return (outer.left.gather(2, indices) * (outer.right @ rows.values.mT)).sum((1, 2))


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float32 or wider."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def widest(device: torch.device) -> torch.dtype:
    """Float64, which Apple's GPUs lack."""
    return torch.float32 if device.type == "mps" else torch.float64


def _add_rows(matrix: Tensor, indices: Tensor, values: Tensor) -> None:
    """Add ``values`` (T, n) at the rows ``indices`` (T,) of a matrix (m, n), maybe transposed."""
    if matrix.is_contiguous():
        matrix.index_add_(0, indices, values)
    else:  # seven times as quick as index_add_ along columns
        matrix.mT.scatter_add_(1, indices.expand(values.mT.shape), values.mT)


def _squares(matrices: Tensor) -> Tensor:
    """Squared norms (batch,) of (batch, m, n)."""
    return _row_norms(matrices).square_().sum(1)


def _row_norms(matrices: Tensor) -> Tensor:
    """The norms of rows, because one long sum would lose digits: (…, m) from (…, m, n).

    Rows are what lies side by side in memory, in a transposed view the columns: (…, n).
    """
    transposed = matrices.stride(-1) > matrices.stride(-2)
    return vector_norm(matrices, dim=-2 if transposed else -1)
