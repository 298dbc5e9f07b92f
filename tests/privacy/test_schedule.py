"""Schedules: plateaus add up, merge exactly and cost what their parts cost."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench import privacy
from workbench.errors import InputError
from workbench.privacy.schedule import ScheduleKind

_kinds: st.SearchStrategy[ScheduleKind] = st.sampled_from(
    ["constant", "linear", "exponential", "step"]
)


@given(_kinds, st.floats(0.1, 10), st.floats(0.1, 10), st.integers(1, 5000), st.integers(1, 40))
@settings(deadline=None, derandomize=True)
def test_a_schedule_has_every_step_once_and_stays_between_its_ends(
    kind: ScheduleKind, start: float, end: float, steps: int, stages: int
) -> None:
    runs = privacy.noise_schedule(kind, start=start, end=end, steps=steps, stages=stages)
    assert sum(count for _, count in runs) == steps
    assert all(count > 0 for _, count in runs)
    # geomspace may leave its interval by rounding in the last digits
    assert all(min(start, end) * 0.999 <= value <= max(start, end) * 1.001 for value, _ in runs)
    assert len(runs) <= max(stages, 2)


@given(st.integers(1, 400), st.integers(1, 7), st.integers(1, 7))
@settings(deadline=None, derandomize=True)
def test_merging_keeps_each_step_its_own_noise_and_batch(
    steps: int, noise_stages: int, batch_stages: int
) -> None:
    noise = privacy.noise_schedule("linear", start=2, end=1, steps=steps, stages=noise_stages)
    batch = privacy.batch_schedule("linear", start=10, end=90, steps=steps, stages=batch_stages)
    merged = privacy.history(noise, batch, dataset_size=1000)

    def unrolled(runs: list[tuple[float, int]]) -> list[float]:
        return [value for value, count in runs for _ in range(count)]

    steps_merged = [(sigma, rate) for sigma, rate, count in merged for _ in range(count)]
    expected = zip(unrolled(noise), (b / 1000 for b in unrolled(batch)), strict=True)
    assert steps_merged == list(expected)


def test_a_step_schedule_changes_halfway() -> None:
    assert privacy.noise_schedule("step", start=2, end=1, steps=10) == [(2.0, 5), (1.0, 5)]


def test_a_schedule_costs_between_its_ends() -> None:
    batch = privacy.batch_schedule("constant", start=100, end=100, steps=400)
    noise = privacy.noise_schedule("linear", start=2, end=1, steps=400, stages=8)
    spent = privacy.compose(privacy.history(noise, batch, dataset_size=10_000), 1e-5)
    assert privacy.epsilon(2, 0.01, 400, 1e-5) < spent < privacy.epsilon(1, 0.01, 400, 1e-5)


def test_accounting_a_falling_schedule_as_constant_would_understate_it() -> None:
    batch = privacy.batch_schedule("constant", start=100, end=100, steps=400)
    noise = privacy.noise_schedule("linear", start=2, end=1, steps=400, stages=8)
    history = privacy.history(noise, batch, dataset_size=10_000)
    as_constant = privacy.epsilon(history[0][0], 0.01, 400, 1e-5)
    assert as_constant < 0.8 * privacy.compose(history, 1e-5)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"start": 0.0}, "noise_multiplier at the start is 0"),
        ({"end": -1.0}, "noise_multiplier at the end is -1"),
        ({"steps": 0}, "steps is 0"),
        ({"stages": 0}, "stages is 0"),
        ({"kind": "cosine"}, "schedule is 'cosine'"),
    ],
)
def test_bad_schedules_are_one_sentence(change: dict[str, object], says: str) -> None:
    arguments = {"kind": "linear", "start": 2.0, "end": 1.0, "steps": 10, "stages": 2} | change
    kind = arguments.pop("kind")
    with pytest.raises(InputError, match=says):
        privacy.noise_schedule(kind, **arguments)  # pyright: ignore


def test_schedules_must_match_and_fit_the_data() -> None:
    noise = privacy.noise_schedule("constant", start=1, end=1, steps=10)
    with pytest.raises(InputError, match="10 steps but the batch schedule has 9"):
        privacy.history(
            noise, privacy.batch_schedule("constant", start=5, end=5, steps=9), dataset_size=99
        )
    with pytest.raises(InputError, match="expected_batch_size is 500 but"):
        privacy.history(
            noise, privacy.batch_schedule("constant", start=500, end=5, steps=10), dataset_size=99
        )
