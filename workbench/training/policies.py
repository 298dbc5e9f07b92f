"""The article's adaptive framework, made definite: σ and batch by training phase, one budget.

The article promises a better trade-off from changing σ and the batch between phases of training and
gives no rule. Here a policy is three phases settled before the first step, so that ε is accounted
exactly; its σ is scaled to the same target ε, and its batches to the same expected number of
records, as the constant run it is compared with.

>>> config = RunConfig().with_changes(
...     {"privacy.noise_multiplier": None, "privacy.target_epsilon": 5.0}
... )
>>> with_policy(config, "both").schedule.noise.end_factor
0.5
"""

from typing import Literal, get_args

from workbench.config import RampConfig, RunConfig, ScheduleConfig
from workbench.errors import InputError
from workbench.privacy.schedule import noise_schedule

Policy = Literal["constant", "falling_noise", "growing_batch", "both"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
PHASES = 3
_CONSTANT = RampConfig()
_FALLING = RampConfig(kind="linear", end_factor=0.5, stages=PHASES)
_GROWING = RampConfig(kind="linear", end_factor=3.0, stages=PHASES)
_SCHEDULES: dict[Policy, ScheduleConfig] = {
    "constant": ScheduleConfig(),
    "falling_noise": ScheduleConfig(noise=_FALLING),
    "growing_batch": ScheduleConfig(batch=_GROWING),
    "both": ScheduleConfig(noise=_FALLING, batch=_GROWING),
}


def with_policy(config: RunConfig, policy: Policy) -> RunConfig:
    """The run of ``config`` under ``policy``: same target ε, same expected records in all.

    Raises `InputError` for an unknown policy, or if ``config`` has no ``target_epsilon`` and fixed
    steps, without which there is nothing to hold fast.
    """
    if policy not in _SCHEDULES:
        raise InputError(
            f"policy is {policy!r} but must be one of {', '.join(_SCHEDULES)}; choose one."
        )
    steps = config.training.steps
    if config.privacy.target_epsilon is None or steps is None:
        raise InputError(
            "A policy keeps one budget over given steps; set privacy.target_epsilon (and "
            "noise_multiplier to null) and training.steps."
        )
    schedule = _SCHEDULES[policy]
    start = config.training.expected_batch_size / _mean_factor(schedule.batch, steps)
    return config.with_changes(
        {
            "schedule": schedule.model_dump(),
            "training.expected_batch_size": max(1, round(start)),
        }
    )


def _mean_factor(ramp: RampConfig, steps: int) -> float:
    """The mean over steps of what a ramp multiplies its start by."""
    runs = noise_schedule(
        ramp.kind, start=1.0, end=ramp.end_factor, steps=steps, stages=ramp.stages
    )
    return sum(value * count for value, count in runs) / steps
