"""A run whose σ and batch change: what it has spent on the way, certified."""

import math

import pytest

from workbench import privacy
from workbench.analysis.schedule import Plan, equal_constant_sigma, spending
from workbench.config import STAGES
from workbench.errors import InputError


def test_the_default_plan_is_the_laptop_run() -> None:
    assert Plan().history == [(0.8, 512 / 18_792, 300)]
    (steps, guarantee), *_ = spending(Plan())
    assert steps == 300
    assert guarantee.epsilon == privacy.epsilon(0.8, 512 / 18_792, 300, 1e-5)


def test_a_ramp_is_cut_into_plateaus_that_cover_the_run() -> None:
    plan = Plan(noise_kind="linear", noise_start=1.2, noise_end=0.6)
    stages = plan.stages
    assert len(stages) == STAGES
    assert [stages[0].noise_multiplier, stages[-1].noise_multiplier] == [1.2, 0.6]
    assert stages[-1].steps == 300
    assert {stage.batch_size for stage in stages} == {512}


def test_both_schedules_together_share_their_edges() -> None:
    plan = Plan(noise_kind="step", noise_end=0.6, batch_kind="linear", batch_end=1024)
    assert sum(steps for _, _, steps in plan.history) == 300
    assert {sigma for sigma, _, _ in plan.history} == {0.8, 0.6}
    assert plan.mean_batch_size == pytest.approx((512 + 1024) / 2, rel=0.01)


def test_spending_is_certified_and_grows_to_the_whole_first_told() -> None:
    plan = Plan(noise_kind="linear", noise_start=1.2, noise_end=0.6)
    told = list(spending(plan))
    assert told[0][0] == 300
    assert [steps for steps, _ in told[1:]] == [50, 100, 150, 200, 250]
    spent = [guarantee.epsilon for _, guarantee in [*told[1:], told[0]]]
    assert spent == sorted(spent)
    assert told[0][1].epsilon == privacy.compose(plan.history, 1e-5)
    assert told[1][1].epsilon == privacy.epsilon(1.2, 512 / 18_792, 50, 1e-5)


def test_a_run_shorter_than_its_stages_is_told_once_a_step() -> None:
    assert [steps for steps, _ in spending(Plan(steps=3))] == [3, 1, 2]
    assert [steps for steps, _ in spending(Plan(steps=1))] == [1]


def test_the_order_of_plateaus_does_not_change_the_total() -> None:
    down = Plan(noise_kind="linear", noise_start=1.2, noise_end=0.6)
    up = Plan(noise_kind="linear", noise_start=0.6, noise_end=1.2)
    totals = [next(iter(spending(plan)))[1].epsilon for plan in (down, up)]
    assert totals[0] == pytest.approx(totals[1], rel=1e-6)


def test_the_equal_constant_sigma_spends_as_much() -> None:
    plan = Plan(noise_kind="linear", noise_start=1.2, noise_end=0.6)
    total = privacy.compose(plan.history, plan.delta)
    sigma = equal_constant_sigma(plan, total)
    assert 0.6 < sigma < 1.2
    assert privacy.epsilon(sigma, 512 / 18_792, 300, 1e-5) == pytest.approx(total, rel=0.01)
    assert math.isnan(equal_constant_sigma(plan, math.nan))


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (Plan(noise_start=0.0), "noise_multiplier at the start is 0"),
        (Plan(noise_kind="linear", noise_end=-1.0), "noise_multiplier at the end is -1"),
        (Plan(batch_start=20_000), "expected_batch_size is 20000 but the data set has 18792"),
        (Plan(steps=0), "steps is 0"),
    ],
)
def test_a_plan_that_cannot_be_a_run_says_why(plan: Plan, words: str) -> None:
    with pytest.raises(InputError, match=words):
        _ = plan.stages
