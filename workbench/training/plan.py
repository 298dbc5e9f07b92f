"""What every step of a run uses, settled before the first: σₜ, Bₜ and Cₜ, and what they cost.

A plan follows from the configuration and the number of training records alone, never from what the
data turns out to be, so its ε can be accounted as it stands. Where C adapts to the data, it does so
through noisy counts that σ pays for (see `workbench.training.quantile`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from workbench import privacy
from workbench.config import PrivacyConfig, RampConfig, RunConfig
from workbench.errors import InputError
from workbench.privacy import PrivacyTerms, refuse_unaccounted
from workbench.privacy.accountant import checked_history
from workbench.privacy.schedule import (
    History,
    Runs,
    batch_schedule,
    first_steps,
    last_steps,
    noise_schedule,
    norm_schedule,
    value_at,
)


@dataclass(frozen=True)
class StepTerms:
    """The constants of one step.

    ``noise_multiplier`` is what is accounted and 0 without privacy; the gradient's own is larger
    where a noisy count is released beside it (Andrew et al. 2021, theorem 1).
    """

    noise_multiplier: float
    gradient_noise_multiplier: float
    count_noise_multiplier: float | None
    expected_batch_size: int
    sample_rate: float
    max_grad_norm: float


@dataclass(frozen=True)
class Plan:
    """All steps of a run as plateaus of its three schedules; ``steps`` counts them."""

    noise: Runs
    batch: Runs
    norm: Runs
    dataset_size: int
    steps: int
    count_noise_multiplier: float | None
    adaptive: bool
    whole: bool = True  # False where max_epsilon has cut the end off

    def at(self, step: int) -> StepTerms:
        """The terms of ``step``, counted from 0."""
        noise, batch = value_at(self.noise, step), round(value_at(self.batch, step))
        count = count_noise(self.count_noise_multiplier, batch) if self.adaptive else None
        return StepTerms(
            noise_multiplier=noise,
            gradient_noise_multiplier=gradient_share(noise, count) if count else noise,
            count_noise_multiplier=count,
            expected_batch_size=batch,
            sample_rate=batch / self.dataset_size,
            max_grad_norm=value_at(self.norm, step),
        )

    def history(self, steps: int | None = None, *, since: int = 0) -> History:
        """What the steps after ``since`` up to ``steps``, or to the end, are accounted as."""
        everything = privacy.history(self.noise, self.batch, dataset_size=self.dataset_size)
        end = self.steps if steps is None else steps
        return last_steps(first_steps(everything, end), end - since)


def plan(config: RunConfig, dataset_size: int) -> Plan:
    """The plan of ``config`` for ``dataset_size`` training records of the corpus.

    Canaries count beside them, in or out, so that the plan does not depend on their coins. A target
    ε becomes the σ that just keeps within it, ``max_epsilon`` an earlier end. Raises `InputError`
    for terms that are not those of training, if a batch is larger than the data set, the budget
    allows no step at all, or the accountant cannot follow the plan.
    """
    terms, shape = config.privacy, config.schedule
    if terms.private:
        refuse_unaccounted(PrivacyTerms.of(terms))
    dataset_size += config.canaries.records
    config.sample_rate(dataset_size)  # refuses a batch larger than the data set
    steps = config.steps(dataset_size)
    if terms.clipping == "adaptive" and shape.max_grad_norm.kind != "constant":
        raise InputError(
            f"schedule.max_grad_norm.kind is {shape.max_grad_norm.kind!r} but privacy.clipping is "
            "'adaptive', which moves C itself; set one of them back to its default."
        )
    settled = Plan(
        noise=_runs(noise_schedule, shape.noise, terms.noise_multiplier or 1.0, steps),
        batch=_runs(batch_schedule, shape.batch, config.training.expected_batch_size, steps),
        norm=_runs(norm_schedule, shape.max_grad_norm, terms.max_grad_norm, steps),
        dataset_size=dataset_size,
        steps=steps,
        count_noise_multiplier=terms.count_noise_multiplier,
        adaptive=terms.clipping == "adaptive",
    )
    if not terms.private:
        return _checked(replace(settled, noise=[(0.0, steps)], adaptive=False))
    return _accounted(_within_budget(_checked(_calibrated(settled, terms)), terms), terms)


def remaining(plan: Plan, config: RunConfig, *, before: History, since: int) -> Plan:
    """The plan of a run that goes on after ``since`` steps, having spent ``before`` on them.

    It ends earlier where a crash has cost more than the plan had for those steps and a budget is
    set, which is never exceeded.
    """
    terms = config.privacy
    limits = [limit for limit in (terms.max_epsilon, terms.target_epsilon) if limit is not None]
    if not limits or not terms.private:
        return plan
    ahead = before + plan.history(since=since)
    within = privacy.steps_within(min(limits), ahead, terms.delta, accountant=terms.accountant)
    steps = since + max(0, within - sum(count for _, _, count in before))
    return replace(plan, steps=steps, whole=plan.whole and steps == plan.steps)


def gradient_share(noise_multiplier: float, count_noise_multiplier: float) -> float:
    """The gradient's own noise multiplier, if the count's noise is to come out of the same σ.

    A record moves the sum by C and the count by ½, so σ⁻² = σ_gradient⁻² + (2 σ_count)⁻². Raises
    `InputError` if the count alone would cost more than σ.
    """
    left = noise_multiplier**-2 - (2 * count_noise_multiplier) ** -2
    if left <= 0:
        raise InputError(
            f"privacy.count_noise_multiplier is {count_noise_multiplier:g} but must be above half "
            f"of the noise multiplier {noise_multiplier:g}; raise it."
        )
    return left**-0.5


def count_noise(given: float | None, expected_batch_size: int) -> float:
    """As given, or a twentieth of the batch (Andrew et al. 2021, section 3.1)."""
    return given if given is not None else expected_batch_size / 20


def _runs(schedule: Callable[..., Runs], ramp: RampConfig, start: float, steps: int) -> Runs:
    end = start * ramp.end_factor
    return schedule(ramp.kind, start=start, end=end, steps=steps, stages=ramp.stages)


def _checked(settled: Plan) -> Plan:
    """The plan, after its first step of every plateau could be made."""
    step = 0
    for _, _, count in settled.history():
        settled.at(step)
        step += count
    return settled


def _calibrated(settled: Plan, terms: PrivacyConfig) -> Plan:
    if terms.target_epsilon is None:
        return settled
    scale = privacy.noise_scale(
        terms.target_epsilon, settled.history(), terms.delta, accountant=terms.accountant
    )
    return replace(settled, noise=[(scale * value, count) for value, count in settled.noise])


def _within_budget(settled: Plan, terms: PrivacyConfig) -> Plan:
    if terms.max_epsilon is None:
        return settled
    steps = privacy.steps_within(
        terms.max_epsilon, settled.history(), terms.delta, accountant=terms.accountant
    )
    if steps == 0:
        raise InputError(
            f"privacy.max_epsilon is {terms.max_epsilon:g} but the first step already exceeds it; "
            "raise it or the noise."
        )
    return replace(settled, steps=steps, whole=steps == settled.steps)


def _accounted(settled: Plan, terms: PrivacyConfig) -> Plan:
    """The plan, after every part of it was seen to be within what can be accounted."""
    history = checked_history(settled.history())
    if terms.accountant == "prv":  # it alone may fail within its bounds
        privacy.compose(history, terms.delta, accountant=terms.accountant)
    return settled
