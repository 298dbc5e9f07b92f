"""ε shown while a run goes: of no fewer steps than were taken, and paid for by its time."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench import privacy
from workbench.config import RunConfig
from workbench.privacy import Guarantee
from workbench.runs.ledger import Terms
from workbench.training import spending
from workbench.training.plan import plan
from workbench.training.spending import Spending

RECORDS = 1000


class Clock:
    """Stands still but for an accountant that takes ``cost`` seconds, and says 1 ε a step."""

    def __init__(self, cost: float) -> None:
        self.cost, self.now, self.readings = cost, 0.0, 0

    def perf_counter(self) -> float:
        return self.now

    def guarantee(self, history: Any) -> Guarantee:
        self.now, self.readings = self.now + self.cost, self.readings + 1
        steps = sum(count for *_, count in history)
        return Guarantee(float(steps), 1e-5, "pld", "poisson", "add_or_remove_one", "record")


def run(steps: int) -> RunConfig:
    return RunConfig().with_changes(
        {"training.steps": steps, "training.expected_batch_size": 50, "privacy.noise_multiplier": 2}
    )


def terms() -> Terms:
    return Terms(1e-5, "pld", "poisson", "add_or_remove_one", "record", RECORDS, 50)


@settings(max_examples=40)
@given(
    steps=st.integers(1, 400),
    cost=st.floats(0.0, 5.0),
    step_seconds=st.floats(1e-4, 5.0),
    every=st.integers(1, 60),
)
def test_readings_cover_the_steps_and_are_paid_for(
    steps: int, cost: float, step_seconds: float, every: int
) -> None:
    clock = Clock(cost)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spending, "time", clock)
        patch.setattr(Terms, "guarantee", lambda _, history: clock.guarantee(history))
        spent = Spending(terms(), plan(run(steps), RECORDS))
        for taken in range(1, steps + 1):
            seconds = taken * step_seconds
            if taken % every == 0 and spent.affords(every, seconds=seconds):
                shown = spent.exact(taken)
                assert shown.steps == taken
            else:
                shown = spent.bound(taken, seconds=seconds)
            assert taken <= shown.steps <= steps
            assert shown.epsilon == shown.steps
            # The first reading tells what one costs, and the end is asked for whatever it costs.
            paid = spending._FREE_SECONDS + spending._SHARE * shown.steps * step_seconds
            assert clock.now <= paid + 2 * cost + 1e-9
        assert clock.readings <= 2 * 24 + 1


def test_what_costs_little_is_shown_for_every_step_of_a_short_run() -> None:
    spent = Spending(terms(), plan(run(14), RECORDS))
    shown = [spent.bound(taken, seconds=0.7 * taken) for taken in range(1, 15)]
    assert [reading.steps for reading in shown][:2] == [1, 2]
    for reading in shown:
        assert reading.epsilon == privacy.epsilon(2, 0.05, reading.steps, 1e-5)


def test_a_run_that_lost_steps_is_shown_these_too() -> None:
    """Ten lost steps and five of the plan cost more than the plan's first five."""
    before = [(2.0, 0.05, 15)]
    spent = Spending(terms(), plan(run(20), RECORDS), before=before, since=5)
    assert spent.bound(6, seconds=100.0).epsilon == privacy.epsilon(2, 0.05, 16, 1e-5)


def test_readings_of_a_slow_accountant_stay_a_small_share_of_the_run() -> None:
    clock = Clock(2.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spending, "time", clock)
        patch.setattr(Terms, "guarantee", lambda _, history: clock.guarantee(history))
        spent = Spending(terms(), plan(run(300), RECORDS))
        for taken in range(1, 301):
            spent.bound(taken, seconds=float(taken))
    assert clock.readings <= 0.02 * 300 / 2 + 2
