"""σₜ and Bₜ that change during a run, as plateaus that accountants can compose.

A schedule is a list of runs ``(value, steps)``. A ramp is cut into ``stages`` plateaus, and the
plateaus *are* the schedule: training follows them and accounting composes them, so nothing is
approximated in between.

>>> noise = noise_schedule("linear", start=2.0, end=1.0, steps=300, stages=3)
>>> noise
[(2.0, 100), (1.5, 100), (1.0, 100)]
>>> history(noise, batch_schedule("constant", start=500, end=500, steps=300), dataset_size=50_000)
[(2.0, 0.01, 100), (1.5, 0.01, 100), (1.0, 0.01, 100)]
"""

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from workbench.config import STAGES, ScheduleKind
from workbench.errors import InputError, number, positive, whole

Runs = list[tuple[float, int]]
History = list[tuple[float, float, int]]  # (noise_multiplier, sample_rate, steps)


def noise_schedule(
    kind: ScheduleKind, *, start: float, end: float, steps: int, stages: int = STAGES
) -> Runs:
    """Plateaus of the noise multiplier from ``start`` to ``end`` over ``steps``.

    ``constant`` keeps ``start``; ``linear`` and ``exponential`` go to ``end`` in ``stages`` equal
    differences or ratios; ``step`` changes once, halfway. Raises `InputError` on values ≤ 0, fewer
    than one step or stage, or an unknown kind.
    """
    return _plateaus(kind, start, end, steps, stages, name="noise_multiplier")


def batch_schedule(
    kind: ScheduleKind, *, start: float, end: float, steps: int, stages: int = STAGES
) -> Runs:
    """Plateaus of the expected batch size, whole records, otherwise as `noise_schedule`."""
    runs = _plateaus(kind, start, end, steps, stages, name="expected_batch_size")
    return _joined([(float(max(1, round(value))), count) for value, count in runs])


def history(noise: Runs, batch: Runs, *, dataset_size: int) -> History:
    """Merge the two schedules into ``[(noise_multiplier, sample_rate, steps), …]``.

    Raises `InputError` if they differ in length or a batch is larger than the data set.
    """
    dataset_size = whole("dataset_size", dataset_size, least=1, remedy="give the record count")
    noise, batch = _checked("noise", noise), _checked("batch", batch)
    ends_noise, ends_batch = _ends(noise), _ends(batch)
    if ends_noise[-1:] != ends_batch[-1:]:
        raise InputError(
            f"The noise schedule has {sum(n for _, n in noise)} steps but the batch schedule has "
            f"{sum(n for _, n in batch)}; give both the same number."
        )
    largest = max((size for size, _ in batch), default=0)
    if largest > dataset_size:
        raise InputError(
            f"expected_batch_size is {largest:g} but the data set has {dataset_size} records; "
            "choose a batch no larger than the data set."
        )
    merged, position = [], 0
    for end in sorted({*ends_noise, *ends_batch}):
        sigma = noise[int(np.searchsorted(ends_noise, end))][0]
        size = batch[int(np.searchsorted(ends_batch, end))][0]
        merged.append((sigma, size / dataset_size, end - position))
        position = end
    return merged


def first_steps(history: Sequence[tuple[float, float, int]], steps: int) -> History:
    """The part of ``history`` that its first ``steps`` steps are."""
    part, left = [], steps
    for sigma, rate, count in history:
        if left <= 0:
            break
        part.append((sigma, rate, min(count, left)))
        left -= count
    return part


def last_steps(history: Sequence[tuple[float, float, int]], steps: int) -> History:
    """The part of ``history`` that its last ``steps`` steps are."""
    return first_steps(history[::-1], steps)[::-1]


def norm_schedule(
    kind: ScheduleKind, *, start: float, end: float, steps: int, stages: int = STAGES
) -> Runs:
    """Plateaus of the clipping norm C, otherwise as `noise_schedule`; ε does not depend on C."""
    return _plateaus(kind, start, end, steps, stages, name="max_grad_norm")


def value_at(runs: Runs, step: int) -> float:
    """The value in force at ``step``, counted from 0; the last one after the end."""
    for value, end in zip((value for value, _ in runs), _ends(runs), strict=True):
        if step < end:
            return value
    return runs[-1][0]


def _plateaus(
    kind: ScheduleKind, start: float, end: float, steps: int, stages: int, *, name: str
) -> Runs:
    positive(f"{name} at the start", start, remedy="choose a positive value")
    positive(f"{name} at the end", end, remedy="choose a positive value")
    steps = whole("steps", steps, least=1, remedy="choose at least one step")
    stages = min(whole("stages", stages, least=1, remedy="choose at least one stage"), steps)
    match kind:
        case "constant":
            values = np.array([start])
        case "linear":
            values = np.linspace(start, end, stages)
        case "exponential":
            values = np.geomspace(start, end, stages)
        case "step":
            values = np.array([start, end][: max(1, min(2, steps))])
        case _:
            raise InputError(
                f"The schedule is {kind!r} but must be constant, linear, exponential or step; "
                "choose one of these."
            )
    edges = np.linspace(0, steps, len(values) + 1).round().astype(int)
    return _joined(
        [(float(v), int(n)) for v, n in zip(values, np.diff(edges), strict=True) if n > 0]
    )


def _checked(name: str, runs: Runs) -> Runs:
    try:
        pairs = [(value, count) for value, count in runs]
    except (TypeError, ValueError):
        raise InputError(
            f"The {name} schedule holds something that is not (value, steps); give one such pair "
            "for each plateau."
        ) from None
    remedy = f"make it with {name}_schedule"
    return [
        (
            number(f"A value of the {name} schedule", value, remedy=remedy),
            whole(f"A plateau of the {name} schedule", count, least=1, remedy=remedy),
        )
        for value, count in pairs
    ]


def _joined(runs: Runs) -> Runs:
    """Neighbouring runs of equal value as one."""
    groups = groupby(runs, key=lambda run: run[0])
    return [(value, sum(count for _, count in group)) for value, group in groups]


def _ends(runs: Sequence[tuple[float, int]]) -> list[int]:
    return np.cumsum([count for _, count in runs]).tolist()
