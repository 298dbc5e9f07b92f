"""Every use of every parameter in one pass, and what norms and clipped sums come of them.

One record's contribution is at most C in floating point too. Where the numbers that are summed are
held, their norm is measured. Where a matrix stays in factors, rounding may carry its share of the
sum beyond its norm: what it may is added to the norm that clips. Where positions cancel so far that
this would be no longer small, the record's gradient is formed and held after all.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from workbench.clipping.bookkeeping.contributions import (
    Rows,
    Use,
    formed,
    joined,
    measure,
    wide,
)
from workbench.clipping.bookkeeping.rounding import (
    Measure,
    rounded_down,
    squared_norms,
    unsure,
    widest,
)

# A record's gradient of a matrix is formed where rounding may change it by more than this share of
# the whole gradient, or where the square of its norm is known less exactly.
INEXACT = 1e-3


class Book:
    """Every use of every parameter."""

    def __init__(self, losses: Tensor) -> None:
        self.batch = len(losses)
        self.uses: dict[nn.Parameter, list[Use]] = {}
        self._told = wide(losses.detach()).dtype
        self._none = torch.zeros(self.batch, dtype=widest(losses.device), device=losses.device)
        self._formed: dict[nn.Parameter, list[int]] = {}  # whose gradients are formed

    def add(self, parameter: nn.Parameter, use: Use) -> None:
        """Enter one use, made one with earlier ones where that can be."""
        apart = []
        for earlier in self.uses.get(parameter, []):
            both = joined(earlier, use)
            if both is None:
                apart.append(earlier)
            else:
                use = both
        self.uses[parameter] = [*apart, use]

    @torch.no_grad()
    def norms(self) -> tuple[Tensor, Tensor]:
        """Each record's gradient norm over all parameters, and what it is at most.

        The second holds what rounding may add to the record's share of the sum.
        """
        for parameter, uses in self.uses.items():
            self.uses[parameter] = [u.merged() if isinstance(u, Rows) else u for u in uses]
        measures = {parameter: measure(uses) for parameter, uses in self.uses.items()}
        total = self._total([m.squares for m in measures.values()])
        for parameter, found in measures.items():
            doubtful = found.rounding > INEXACT * total.sqrt()
            doubtful |= found.square_rounding > INEXACT * total
            for index in unsure(~doubtful):
                self._form(parameter, index, found)
        measures = list(measures.values())
        total = self._total([m.squares for m in measures])
        highest = total + self._total([m.square_rounding for m in measures])
        rounding = self._total([m.rounding.square() for m in measures]).sqrt_()
        most = torch.finfo(self._told).max
        highest = highest.sqrt_() + rounding
        highest.masked_fill_(highest > most, torch.inf)  # and so refused
        return total.sqrt_().to(self._told), highest

    @torch.no_grad()
    def weighted_sum(self, parameter: nn.Parameter, factors: Tensor) -> Tensor:
        """Σᵢ cᵢ·gᵢ for this parameter, whose uses are forgotten."""
        uses, by_itself = self.uses.pop(parameter, []), self._formed.get(parameter, [])
        if not uses:
            return torch.zeros_like(wide(parameter.detach()))
        others = factors.index_fill(0, _index(by_itself, factors), 0) if by_itself else factors
        parts = [use.weighted_sum(others) for use in uses]
        total = sum(parts[1:], parts[0])
        rounded = rounded_down(factors, total.dtype)
        for index in by_itself:
            total.add_(formed(uses, index), alpha=float(rounded[index]))
        return total

    def _form(self, parameter: nn.Parameter, index: int, found: Measure) -> None:
        """Measure a record's gradient itself, which is formed again when it is summed."""
        square = squared_norms([formed(self.uses[parameter], index)])[0]
        found.squares[index], found.sizes[index] = square, square
        found.rounding[index] = found.square_rounding[index] = 0
        self._formed.setdefault(parameter, []).append(index)

    def _total(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.stack([self._none, *parts]).sum(0).clamp_(min=0)


def _index(numbers: list[int], beside: Tensor) -> Tensor:
    return torch.tensor(numbers, device=beside.device)
