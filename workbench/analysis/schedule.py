"""A run whose σ and batch change on the way: what it has spent by then.

>>> plan = Plan(noise_kind="step", noise_start=1.0, noise_end=0.8)
>>> [stage.steps for stage in plan.stages]
[150, 300]
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from workbench import privacy
from workbench.config import STAGES
from workbench.presets import LAPTOP_RECORDS
from workbench.privacy import Guarantee, PrivacyTerms
from workbench.privacy.schedule import History, ScheduleKind, first_steps
from workbench.privacy.surface import noise_multiplier_surface


@dataclass(frozen=True)
class Stage:
    """A plateau: σ and batch held from the end of the stage before until step ``steps``."""

    steps: int
    noise_multiplier: float
    batch_size: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Schedules of σ and of the expected batch over one run; the default is the laptop run."""

    noise_kind: ScheduleKind = "constant"
    noise_start: float = 0.8
    noise_end: float = 0.8
    batch_kind: ScheduleKind = "constant"
    batch_start: float = 512
    batch_end: float = 512
    dataset_size: int = LAPTOP_RECORDS
    steps: int = 300
    delta: float = 1e-5

    @property
    def history(self) -> History:
        """What accountants compose; raises `InputError` if the plan cannot be a run."""
        noise = privacy.noise_schedule(
            self.noise_kind,
            start=self.noise_start,
            end=self.noise_end,
            steps=self.steps,
        )
        batch = privacy.batch_schedule(
            self.batch_kind,
            start=self.batch_start,
            end=self.batch_end,
            steps=self.steps,
        )
        return privacy.history(noise, batch, dataset_size=self.dataset_size)

    @property
    def stages(self) -> list[Stage]:
        """The plateaus in order."""
        ends = np.cumsum([steps for _, _, steps in self.history])
        return [
            Stage(int(end), sigma, rate * self.dataset_size)
            for end, (sigma, rate, _) in zip(ends, self.history, strict=True)
        ]

    @property
    def mean_batch_size(self) -> float:
        """Expected records per step, averaged over the run."""
        return sum(rate * steps for _, rate, steps in self.history) * self.dataset_size / self.steps


def spending(plan: Plan) -> Iterator[tuple[int, Guarantee]]:
    """Yield the certified guarantee of the whole run, then of its first sixth, third and so on."""
    history, terms = plan.history, PrivacyTerms.of_training(plan.delta)
    cuts = sorted({max(1, plan.steps * part // STAGES) for part in range(1, STAGES)})
    for steps in (plan.steps, *(cut for cut in cuts if cut < plan.steps)):
        yield steps, privacy.guarantee(first_steps(history, steps), terms)


def equal_constant_sigma(plan: Plan, epsilon: float) -> float:
    """The constant σ that spends ``epsilon`` at the plan's mean batch: a preview, maybe NaN."""
    rate = min(1.0, plan.mean_batch_size / plan.dataset_size)
    if not (math.isfinite(epsilon) and epsilon > 0):
        return math.nan
    return float(noise_multiplier_surface(epsilon, rate, plan.steps, plan.delta))
