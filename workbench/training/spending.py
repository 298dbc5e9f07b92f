"""ε as a run goes: certified at every step shown, for a small share of the run's time.

A certified value takes from some milliseconds to seconds, which can be more than a small step. ε
only grows with steps, so a step in the middle of a stretch is shown the certified ε of the
stretch's end: a bound on what it has spent, never below it, told with the number of steps that it
covers. Stretches are as long as it takes to pay for the accountant: its readings may take the
share `_SHARE` of the run's time, and a quarter of a second. There are two dozen at most. Cancel and
the end ask for the exact step, and so do evaluations if they can pay for it.
"""

import math
import time
from typing import NamedTuple

from workbench.privacy import Guarantee
from workbench.privacy.schedule import History
from workbench.runs.ledger import Terms
from workbench.training.plan import Plan

_STRETCHES = 24
_SHARE = 0.02  # of the run's time
_FREE_SECONDS = 0.25  # what anybody can spare, so that short runs show every step


class Reading(NamedTuple):
    """A certified ε, and the first how many steps it covers."""

    epsilon: float
    steps: int


class Spending:
    """What the steps of one run cost, remembered by number of steps.

    A resumed run has spent ``before`` on its first ``since`` steps; that can be more than the plan
    has for them, where steps whose weights were lost are taken again with new noise.
    """

    def __init__(
        self, terms: Terms, plan: Plan, *, before: History | None = None, since: int = 0
    ) -> None:
        self._terms, self._plan = terms, plan
        self._before, self._since = before or [], since
        self._stretch = math.ceil(plan.steps / _STRETCHES)
        self._known: dict[int, Guarantee] = {}
        self._taken, self._latest = 0.0, 0.0  # seconds, of all readings and of the latest

    def guarantee(self, taken: int) -> Guarantee:
        """The certified guarantee of exactly ``taken`` steps."""
        if taken not in self._known:
            began = time.perf_counter()
            history = self._before + self._plan.history(taken, since=self._since)
            self._known[taken] = self._terms.guarantee(history)
            self._latest = time.perf_counter() - began
            self._taken += self._latest
        return self._known[taken]

    def exact(self, taken: int) -> Reading:
        """The certified ε of exactly ``taken`` steps."""
        return Reading(self.guarantee(taken).epsilon, taken)

    def affords(self, every: int, *, seconds: float) -> bool:
        """Whether a run of ``seconds`` can ask for the exact step ``every`` so many steps."""
        return every >= self._stretch and self._paid_after() <= seconds

    def bound(self, taken: int, *, seconds: float) -> Reading:
        """A certified ε of at least ``taken`` steps, which have taken ``seconds``.

        It is that of the fewest steps that are known, or else of a stretch long enough to pay for
        asking.
        """
        known = [steps for steps in self._known if steps >= taken]
        return self.exact(min(known, default=self._end(taken, seconds)))

    def _end(self, taken: int, seconds: float) -> int:
        """The end of a stretch from ``taken`` on, by which the run can pay for asking again."""
        even = math.ceil(taken / self._stretch) * self._stretch
        paid = math.ceil(taken * self._paid_after() / seconds) if seconds > 0 else even
        return min(max(even, paid), self._plan.steps)

    def _paid_after(self) -> float:
        """The seconds that a run has to take before it can pay for one more reading."""
        return (self._taken + self._latest - _FREE_SECONDS) / _SHARE
