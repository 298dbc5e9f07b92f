"""What one layer call adds to a parameter's gradient, record by record.

A parameter is used by each call of its layer, and by each layer it is tied into. The gradient of a
record is the sum over uses, so its squared norm is the sum of the uses' squared norms and twice
the inner products of each pair. Three kinds of use know both without further backward passes:

- `Dense`: the gradients themselves, (batch, …);
- `Outer`: gradient i is leftᵢᵀ rightᵢ, a sum over positions, kept as its two factors;
- `Rows`: gradient i adds values to some rows of a table and is zero elsewhere.

Everything is float32 or wider: the norm must be that of the very numbers that are summed.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

# A record's gradient of an outer product takes m·n numbers, its two factors T·(m + n). Up to this
# ratio the products are formed at once and kept, which makes norm and sum one pass each; above, the
# Gram form of the norm saves that ratio in arithmetic and the factors are kept (measured: see
# benchmarks/engines.py).
KEEP_UP_TO = 4.0


@dataclass(frozen=True)
class Dense:
    """Gradients (batch, *shape)."""

    gradients: Tensor

    def squared_norms(self) -> Tensor:
        """‖Gᵢ‖², shape (batch,)."""
        return torch.linalg.vector_norm(self._vectors(), dim=1).square()

    def weighted_sum(self, factors: Tensor) -> Tensor:
        """Σᵢ cᵢ·Gᵢ for factors (batch,)."""
        return (factors @ self._vectors()).view(self.gradients.shape[1:])

    def _vectors(self) -> Tensor:
        return self.gradients.reshape(len(self.gradients), -1)


@dataclass(frozen=True)
class Outer:
    """Gradients leftᵢᵀ rightᵢ of shape (m, n), from left (batch, T, m) and right (batch, T, n)."""

    left: Tensor
    right: Tensor

    def squared_norms(self) -> Tensor:
        """⟨left leftᵀ, right rightᵀ⟩ (Bu et al. 2023, arXiv 2210.00038, section 3), (batch,)."""
        return _gram_product(self, self)

    def weighted_sum(self, factors: Tensor) -> Tensor:
        """leftᵀ(c ⊙ right) over all records and positions at once."""
        weighted = factors[:, None, None] * self.right
        return self.left.flatten(0, 1).mT @ weighted.flatten(0, 1)


@dataclass(frozen=True)
class Rows:
    """Gradients (height, n): ``values`` (batch, T, n) added at the rows ``indices`` (batch, T)."""

    indices: Tensor
    values: Tensor
    height: int

    def squared_norms(self) -> Tensor:
        """Positions that share a row add up before they are squared: Σ [sₜ = sₜ′]⟨vₜ, vₜ′⟩."""
        return _row_product(self, self)

    def weighted_sum(self, factors: Tensor) -> Tensor:
        """The clipped values scattered into a table (height, n)."""
        weighted = factors[:, None, None] * self.values
        table = weighted.new_zeros(self.height, weighted.shape[-1])
        return table.index_add_(0, self.indices.flatten(), weighted.flatten(0, 1))


Use = Dense | Outer | Rows


def outer(left: Tensor, right: Tensor) -> Dense | Outer:
    """Gradients leftᵢᵀ rightᵢ in the form that is cheaper for these shapes (batch, T, m or n)."""
    left, right = wide(left), wide(right)
    (_, positions, m), n = left.shape, right.shape[-1]
    if m * n <= KEEP_UP_TO * positions * (m + n):
        return Dense(left.mT @ right)
    return Outer(left, right)


def inner_products(one: Use, other: Use) -> Tensor:
    """⟨Gᵢ, Hᵢ⟩ of two uses of one parameter, record by record, shape (batch,)."""
    match one, other:
        case Dense(a), Dense(b):
            return (a * b).reshape(len(a), -1).sum(1)
        case Outer(left, right), Dense(gradients):
            return ((left @ gradients) * right).sum((1, 2))
        case Rows(indices, values), Dense(gradients):
            touched = gradients.gather(1, indices[:, :, None].expand_as(values))
            return (touched * values).sum((1, 2))
        case Outer(), Outer():
            return _gram_product(one, other)
        case Rows(), Rows():
            return _row_product(one, other)
        case Outer(left, right), Rows(indices, values):
            # Entry (s, t): what position s adds to the row of position t, without the whole table.
            columns = left.gather(2, indices[:, None, :].expand(-1, left.shape[1], -1))
            return (columns * (right @ values.mT)).sum((1, 2))
        case _:
            return inner_products(other, one)


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float32 or wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _gram_product(one: Outer, other: Outer) -> Tensor:
    return ((one.left @ other.left.mT) * (one.right @ other.right.mT)).sum((1, 2))


def _row_product(one: Rows, other: Rows) -> Tensor:
    same = one.indices[:, :, None] == other.indices[:, None, :]
    return ((one.values @ other.values.mT) * same).sum((1, 2))
