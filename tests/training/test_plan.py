"""What a run will use at every step, and what that costs, before it begins."""

from typing import Any

import pytest

from workbench import privacy
from workbench.config import RunConfig
from workbench.errors import InputError
from workbench.privacy.schedule import first_steps
from workbench.training.plan import Plan, gradient_share, plan, remaining

N = 1000


def _config(**changes: Any) -> RunConfig:
    base = RunConfig.parse({"training": {"expected_batch_size": 50, "steps": 40}})
    return base.with_changes({name.replace("__", "."): value for name, value in changes.items()})


def _plan(**changes: Any) -> Plan:
    return plan(_config(**changes), N)


RAMPS = {
    "schedule__noise": {"kind": "linear", "end_factor": 0.5, "stages": 4},
    "schedule__batch": {"kind": "step", "end_factor": 2.0},
    "schedule__max_grad_norm": {"kind": "exponential", "end_factor": 0.25, "stages": 3},
}


def test_a_constant_plan_is_one_stretch() -> None:
    settled = _plan()
    assert settled.history() == [(0.8, 0.05, 40)]
    assert settled.at(0) == settled.at(39)
    assert (settled.at(7).expected_batch_size, settled.at(7).max_grad_norm) == (50, 1.0)


def test_what_is_accounted_is_what_each_step_uses() -> None:
    """A schedule accounted as constant would give another list."""
    settled = _plan(**RAMPS)
    steps = [settled.at(step) for step in range(40)]
    accounted = [(sigma, rate) for sigma, rate, count in settled.history() for _ in range(count)]
    assert [(s.noise_multiplier, s.sample_rate) for s in steps] == accounted
    assert steps[0].noise_multiplier == 0.8
    assert steps[-1].noise_multiplier == pytest.approx(0.4)
    assert (steps[19].expected_batch_size, steps[20].expected_batch_size) == (50, 100)
    assert steps[-1].max_grad_norm == pytest.approx(0.25)


@pytest.mark.parametrize("ramps", [{}, RAMPS])
def test_a_target_is_kept_and_nearly_reached(ramps: dict[str, Any]) -> None:
    settled = _plan(privacy__noise_multiplier=None, privacy__target_epsilon=3.0, **ramps)
    spent = privacy.compose(settled.history(), 1e-5)
    assert 2.99 <= spent <= 3.0


def test_a_budget_ends_the_plan_before_the_step_that_would_exceed_it() -> None:
    settled = _plan(privacy__max_epsilon=3.0, **RAMPS)
    whole = _plan(**RAMPS).history()
    assert not settled.whole
    assert privacy.compose(settled.history(), 1e-5) <= 3.0
    one_more = first_steps(whole, settled.steps + 1)
    assert privacy.compose(one_more, 1e-5) > 3.0


def test_a_budget_that_is_not_met_changes_nothing() -> None:
    assert _plan(privacy__max_epsilon=100.0) == _plan()


@pytest.mark.slow
def test_parts_of_a_history_make_the_whole() -> None:
    settled = _plan(**RAMPS)
    for cut in (0, 1, 13, 20, 40):
        parts = settled.history(cut) + settled.history(since=cut)
        assert sum(count for _, _, count in parts) == 40
        assert privacy.compose(parts, 1e-5, accountant="rdp") == pytest.approx(
            privacy.compose(settled.history(), 1e-5, accountant="rdp")
        )


def test_the_count_and_the_gradient_together_cost_sigma() -> None:
    """Both are one Gaussian release, of sensitivity √(1/σ_g² + 1/(2σ_c)²) in units of noise."""
    for noise_multiplier, count in ((0.8, 25.6), (2.0, 1.5), (10.0, 6.0)):
        gradient = gradient_share(noise_multiplier, count)
        assert gradient > noise_multiplier
        assert (gradient**-2 + (2 * count) ** -2) ** -0.5 == pytest.approx(noise_multiplier)


def test_adaptive_clipping_adds_noise_to_the_gradient_but_not_to_what_is_accounted() -> None:
    adaptive = _plan(privacy__clipping="adaptive").at(0)
    assert adaptive.noise_multiplier == 0.8
    assert adaptive.count_noise_multiplier == 50 / 20
    assert adaptive.gradient_noise_multiplier == gradient_share(0.8, 2.5)


def test_without_privacy_there_is_no_noise_whatever_else_is_asked() -> None:
    settled = _plan(
        privacy__private=False,
        privacy__clipping="adaptive",
        **{
            "privacy__noise_multiplier": None,
            "privacy__target_epsilon": 1.0,
        },
    )
    assert settled.history() == [(0.0, 0.05, 40)]
    assert settled.at(0).count_noise_multiplier is None


def test_what_a_crash_has_cost_is_taken_from_the_end() -> None:
    """Ten steps counted twice: with a target the run ends earlier, without one it does not."""
    config = _config(privacy__noise_multiplier=None, privacy__target_epsilon=3.0)
    settled = plan(config, N)
    sigma, rate, _ = settled.history()[0]
    before = [(sigma, rate, 30)]
    left = remaining(settled, config, before=before, since=20)
    assert 25 <= left.steps <= 31
    assert privacy.compose(before + left.history(since=20), 1e-5) <= 3.0
    free = _config()
    assert remaining(plan(free, N), free, before=[(0.8, 0.05, 30)], since=20).steps == 40


def test_of_two_limits_the_lower_is_kept() -> None:
    config = _config(
        privacy__noise_multiplier=None, privacy__target_epsilon=3.0, privacy__max_epsilon=9.0
    )
    settled = plan(config, N)
    before = [(*settled.history()[0][:2], 30)]
    left = remaining(settled, config, before=before, since=20)
    assert privacy.compose(before + left.history(since=20), 1e-5) <= 3.0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"training__expected_batch_size": 1001}, "training.expected_batch_size is 1001"),
        ({"schedule__batch": {"kind": "linear", "end_factor": 30}}, "no larger than the data set"),
        ({"privacy__max_epsilon": 1e-3}, "privacy.max_epsilon is 0.001"),
        (
            {"privacy__clipping": "adaptive", "privacy__count_noise_multiplier": 0.3},
            "privacy.count_noise_multiplier is 0.3",
        ),
        (
            {"privacy__clipping": "adaptive", "schedule__max_grad_norm": {"kind": "linear"}},
            "schedule.max_grad_norm.kind is 'linear'",
        ),
    ],
)
def test_a_plan_that_cannot_be_is_refused_in_one_sentence(
    changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError, match=says) as refusal:
        _plan(**changes)
    assert "\n" not in str(refusal.value)
