"""ε as a run goes: certified at every step shown, without asking the accountant at every step.

A certified value can cost from a tenth of a second to seconds, more than a small step. ε only grows
with steps, so a step in the middle of a stretch is shown the certified ε of the stretch's end: a
bound on what it has spent, never below it. Two dozen stretches keep the accountant's share of a run
small however long the run is. Cancel and the end ask for the exact step, and so do evaluations if
there are no more of them; not where σ or the batch changes on the way and an answer takes seconds.
"""

import math

from workbench.privacy import Guarantee
from workbench.privacy.schedule import History
from workbench.runs.ledger import Terms
from workbench.training.plan import Plan

_STRETCHES = 24


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

    def guarantee(self, taken: int) -> Guarantee:
        """The certified guarantee of exactly ``taken`` steps."""
        if taken not in self._known:
            history = self._before + self._plan.history(taken, since=self._since)
            self._known[taken] = self._terms.guarantee(history)
        return self._known[taken]

    def affords(self, every: int) -> bool:
        """Whether to ask for the exact step ``every`` so many steps."""
        return every >= self._stretch and len(self._plan.history()) == 1

    def bound(self, taken: int) -> float:
        """A certified ε that ``taken`` steps do not exceed: that of the end of their stretch."""
        end = math.ceil(taken / self._stretch) * self._stretch
        return self.guarantee(min(end, self._plan.steps)).epsilon
