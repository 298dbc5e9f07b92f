"""ε as a run goes: certified at every step shown, without asking the accountant at every step.

A certified value can cost from a tenth of a second to seconds, more than a small step. ε only grows
with steps, so a step in the middle of a stretch is shown the certified ε of the stretch's end: a
bound on what it has spent, never below it. Two dozen stretches keep the accountant's share of a run
small however long the run is; evaluations, Cancel and the end ask for the exact step.
"""

import math

from workbench.privacy import Guarantee
from workbench.training.ledger import Terms

_STRETCHES = 24


class Spending:
    """What equal steps of one run cost, remembered by number of steps."""

    def __init__(
        self, terms: Terms, *, noise_multiplier: float, sample_rate: float, steps: int
    ) -> None:
        self._terms = terms
        self._step = (noise_multiplier, sample_rate)
        self._stretch = math.ceil(steps / _STRETCHES)
        self._steps = steps
        self._known: dict[int, Guarantee] = {}

    def guarantee(self, taken: int) -> Guarantee:
        """The certified guarantee of exactly ``taken`` steps."""
        if taken not in self._known:
            self._known[taken] = self._terms.guarantee([(*self._step, taken)] if taken else [])
        return self._known[taken]

    def bound(self, taken: int) -> float:
        """A certified ε that ``taken`` steps do not exceed: that of the end of their stretch."""
        end = math.ceil(taken / self._stretch) * self._stretch
        return self.guarantee(min(end, self._steps)).epsilon
