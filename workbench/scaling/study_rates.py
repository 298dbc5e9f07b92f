"""The rule by which the study's learning rates follow from its pilot, written before it was run.

1. Of a pilot cell (size, ratio), each rate counts with the held-out loss of the tail average at its
   last evaluation; a run that diverged counts as infinite.
2. Through the rate with the lowest loss and its two neighbours goes a parabola in ln η, whose
   lowest point is the cell's rate. A lowest loss at the edge of the rates keeps that rate.
3. Between cells ln η is linear in log₂(σ/B), and constant beyond the pilot's ratios; ratio 0
   counts as 2⁻¹². It is linear in the logarithm of the number of parameters, beyond the pilot's
   sizes, too.
4. What comes out is held to half the pilot's lowest and twice its highest rate, and rounded to
   three significant digits.

The twin without clipping takes step 2 over block F at its own size.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from workbench.errors import InputError

_NO_NOISE = -12.0  # log₂ of the ratio that stands for none


@dataclass(frozen=True)
class Rates:
    """The best rates measured so far: (parameters, ratio) → rate, and width → rate of the twin."""

    pilot: Mapping[tuple[int, float], float]
    twins: Mapping[int, float]
    lowest: float = 0.0
    highest: float = math.inf

    def clipped(self, n_params: int, ratio: float, factor: float = 1.0) -> float:
        """The rate of a run that clips, ``factor`` times the best; `InputError` before block D.

        >>> pilot = {(100, 0.0): 0.01, (100, 2**-4): 0.04, (1600, 0.0): 0.01, (1600, 2**-4): 0.01}
        >>> rates = Rates(pilot, {})
        >>> rates.clipped(100, 2**-8), rates.clipped(400, 2**-4), rates.clipped(100, 1.0)
        (0.02, 0.02, 0.04)
        """
        if not self.pilot:
            raise InputError(
                "This block takes its learning rates from block D, which is not measured yet; "
                "run --block D first."
            )
        sizes = sorted({size for size, _ in self.pilot})
        ends = [self._along_ratios(size, ratio) for size in (sizes[0], sizes[-1])]
        slope = (ends[1] - ends[0]) / math.log(sizes[-1] / sizes[0]) if len(sizes) > 1 else 0.0
        rate = math.exp(ends[0] + slope * math.log(n_params / sizes[0]))
        rate = min(max(rate, self.lowest / 2), 2 * self.highest)
        return _rounded(rate * factor)

    def twin(self, width: int) -> float:
        """The rate of the unclipped twin; `InputError` before block F."""
        if width not in self.twins:
            raise InputError(
                "This block takes the twin's learning rate from block F, which is not measured "
                "yet; run --block F first."
            )
        return self.twins[width]

    def _along_ratios(self, size: int, ratio: float) -> float:
        """The logarithm of the rate at a size of the pilot."""
        ratios = sorted(ratio for known, ratio in self.pilot if known == size)
        rates = [math.log(self.pilot[size, known]) for known in ratios]
        return float(np.interp(_log_ratio(ratio), [_log_ratio(r) for r in ratios], rates))


def best_rate(rates: Sequence[float], losses: Sequence[float]) -> float:
    """The rate of the lowest loss, by a parabola in ln η through it and its neighbours.

    >>> best_rate([0.01, 0.02, 0.04], [3.1, 3.0, 3.1])
    0.02
    >>> best_rate([0.01, 0.02, 0.04], [3.2, 3.1, 3.0])
    0.04
    """
    order = np.argsort(rates)
    x, y = np.log(np.asarray(rates, float)[order]), np.asarray(losses, float)[order]
    lowest = int(np.argmin(y))
    near = slice(lowest - 1, lowest + 2)
    if lowest in (0, len(x) - 1) or not np.isfinite(y[near]).all():
        return _rounded(math.exp(x[lowest]))
    bend, slope, _ = np.polyfit(x[near] - x[lowest], y[near], 2)
    vertex = x[lowest] - slope / (2 * bend) if bend > 0 else x[lowest]
    return _rounded(math.exp(float(np.clip(vertex, x[lowest - 1], x[lowest + 1]))))


def _log_ratio(ratio: float) -> float:
    return math.log2(ratio) if ratio > 0 else _NO_NOISE


def _rounded(rate: float) -> float:
    return float(f"{rate:.3g}")
