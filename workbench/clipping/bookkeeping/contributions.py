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
that are summed. All but `Outer` hold these numbers; see `rounding` for what becomes of that one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from workbench.clipping.bookkeeping.products import outer_product, outer_products, signed_and_sizes
from workbench.clipping.bookkeeping.rounding import (
    Measure,
    norms_of_pieces,
    rounded_down,
    squared_norms,
    squares,
    unit,
    unit_of_products,
    widest,
)

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
        return squared_norms(self.gradients)

    def weighted_sum(self, factors: Tensor) -> Tensor:
        """Σᵢ cᵢ·Gᵢ for factors (batch,)."""
        vectors = self.gradients.reshape(len(self.gradients), -1)
        return (rounded_down(factors, vectors.dtype) @ vectors).view(self.gradients.shape[1:])


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
        first, *others = rounded_down(factors, self.gradients[0].dtype).tolist()
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
        return Kept(self.gradients, squared_norms(self.gradients))


@dataclass(frozen=True)
class Outer:
    """Gradients leftᵢᵀ rightᵢ of shape (m, n), from left (batch, T, m) and right (batch, T, n)."""

    left: Tensor
    right: Tensor

    def measure(self) -> Measure:
        """‖Gᵢ‖² as ⟨left leftᵀ, right rightᵀ⟩ (Bu et al. 2023, arXiv 2210.00038, section 3).

        Its terms may cancel, which would leave but rounding: they are added up in the widest type.
        ``sizes`` adds up their absolute values. It bounds the square of every partial sum of
        positions, in any order, and so each of the T roundings that adding them up takes; rounding
        a position's own products costs at most √T of these bounds.
        """
        positions, features = self.left.shape[1], self.left.shape[2] + self.right.shape[2]
        signed, sizes = signed_and_sizes(self.left, self.right)
        roundings = (positions + 2 * sqrt(positions) + 2) * unit_of_products(self.right.dtype)
        in_squares = (features + positions + 2) * (positions + 1) * unit(sizes.dtype)
        return Measure(signed, sizes, roundings * sizes.sqrt(), in_squares * sizes)

    def weighted_sum(self, factors: Tensor) -> Tensor:
        """leftᵀ(c ⊙ right) over all records and positions at once."""
        weighted = rounded_down(factors, self.right.dtype)[:, None, None] * self.right
        return outer_product(self.left.flatten(0, 1), weighted.flatten(0, 1))

    def formed(self, index: int) -> Tensor:
        """One record's gradient itself, in the widest type."""
        dtype = widest(self.left.device)
        return self.left[index].mT.to(dtype) @ self.right[index].to(dtype)


@dataclass(frozen=True)
class Rows:
    """Gradients (height, n): ``values`` (batch, T, n) added at the rows ``indices`` (batch, T)."""

    indices: Tensor
    values: Tensor
    height: int

    def merged(self) -> "Rows":
        """The same with each row's values added up, in the place where the row comes first.

        Then each row of the gradient is held, and neither its norm nor its share of a sum depends
        on values that cancel.
        """
        batch = len(self.indices)
        records = torch.arange(batch, device=self.indices.device)[:, None]
        keys = (self.indices + records * self.height).flatten()
        places, inverse, counts = torch.unique(keys, return_inverse=True, return_counts=True)
        if not (counts > 1).any():
            return self
        rows = self.values.new_zeros(len(places), self.values.shape[2])
        rows.index_add_(0, inverse, self.values.flatten(0, 1))
        first = inverse.new_full((len(places),), len(keys))
        numbers = torch.arange(len(keys), device=keys.device)
        first.scatter_reduce_(0, inverse, numbers, "amin")
        values = torch.zeros_like(self.values).flatten(0, 1).index_copy_(0, first, rows)
        return Rows(self.indices, values.view_as(self.values), self.height)

    def squared_norms(self) -> Tensor:
        """‖Gᵢ‖² of merged rows, shape (batch,)."""
        return squared_norms(self.values)

    def weighted_sum(self, factors: Tensor) -> Tensor:
        """The clipped values scattered into a table (height, n)."""
        weighted = rounded_down(factors, self.values.dtype)[:, None, None] * self.values
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
        return Kept(gradients, squared_norms(gradients))
    kept, norms = [], []
    for gradient in gradients:
        norms.append(norms_of_pieces(gradient[None])[0])  # while it is in the processor's cache
        kept.append(gradient)
    return Kept(kept, squares(torch.stack(norms), kept))


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


def measure(uses: Sequence[Use]) -> Measure:
    """What all uses of one parameter come to: ‖A + B‖² = ‖A‖² + ‖B‖² + 2⟨A, B⟩."""
    match uses:
        case [Outer() as outer]:
            return outer.measure()
        case [Outer() as outer, Rows() as rows] | [Rows() as rows, Outer() as outer]:
            one, other = outer.measure(), rows.squared_norms()
            sizes = (one.sizes.sqrt() + other.sqrt()).square()
            total = one.squares + other + 2 * inner_products(outer, rows)
            rounding = one.rounding + 2 * unit(outer.right.dtype) * sizes.sqrt()
            share = one.square_rounding / one.sizes.clamp(min=torch.finfo(sizes.dtype).tiny)
            return Measure(total, sizes, rounding, share * sizes)
        case [Dense() | Kept() | Rows() as held]:
            return Measure.of_held(held.squared_norms())
        case _:
            raise AssertionError("uses of other kinds are joined")


def formed(uses: Sequence[Use], index: int) -> Tensor:
    """One record's gradient (m, n) from uses that stay apart, rounded once."""
    (outer,) = (use for use in uses if isinstance(use, Outer))
    total = outer.formed(index)
    for use in uses:
        if isinstance(use, Rows):
            total.index_add_(0, use.indices[index], use.values[index].to(total.dtype))
    return total.to(outer.right.dtype)


def inner_products(outer: Outer, rows: Rows) -> Tensor:
    """⟨Gᵢ, Hᵢ⟩ of two uses that stay apart, shape (batch,), in the widest type."""
    dtype = widest(outer.left.device)
    # Entry (s, t): what position s adds to the row of position t, without the whole table.
    indices = rows.indices[:, None, :].expand(-1, outer.left.shape[1], -1)
    along = outer.right.to(dtype) @ rows.values.to(dtype).mT
    return (outer.left.gather(2, indices) * along).sum((1, 2))


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float32 or wider."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def _add_rows(matrix: Tensor, indices: Tensor, values: Tensor) -> None:
    """Add ``values`` (T, n) at the rows ``indices`` (T,) of a matrix (m, n), maybe transposed."""
    if matrix.is_contiguous():
        matrix.index_add_(0, indices, values)
    else:  # seven times as quick as index_add_ along columns
        matrix.mT.scatter_add_(1, indices.expand(values.mT.shape), values.mT)
