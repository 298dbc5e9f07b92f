"""Plans at their edges: budgets that are spent, counts that cost too much, nothing to keep.

Every record takes part in every step, so that Rényi accounting is a closed form and quick.
"""

from typing import Any

import pytest

from workbench import privacy
from workbench.config import RunConfig
from workbench.errors import InputError
from workbench.privacy.schedule import first_steps, last_steps, value_at
from workbench.training.plan import gradient_share, plan, remaining

N = 50
RDP = {"privacy.accountant": "rdp"}


def _config(**changes: Any) -> RunConfig:
    base = RunConfig.parse({"training": {"expected_batch_size": 50, "steps": 40}})
    named = {name.replace("__", "."): value for name, value in changes.items()}
    return base.with_changes({**RDP, **named})


def test_a_run_that_has_overspent_takes_no_further_step() -> None:
    config = _config(privacy__noise_multiplier=None, privacy__target_epsilon=3.0)
    settled = plan(config, N)
    sigma, rate, _ = settled.history()[0]
    left = remaining(settled, config, before=[(sigma, rate, 200)], since=20)
    assert (left.steps, left.whole) == (20, False)
    assert left.history(since=20) == []


def test_a_run_that_has_spent_what_it_planned_goes_on_to_its_end() -> None:
    config = _config(privacy__noise_multiplier=None, privacy__target_epsilon=3.0)
    settled = plan(config, N)
    before = settled.history(20)
    assert remaining(settled, config, before=before, since=20) == settled
    assert settled.whole


@pytest.mark.parametrize(
    "changes",
    [{"privacy__private": False, "privacy__max_epsilon": 1.0}, {}],
    ids=["not private", "no limit"],
)
def test_where_nothing_is_to_be_kept_every_step_is_taken(changes: dict[str, Any]) -> None:
    config = _config(**changes)
    settled = plan(config, N)
    before = [(settled.noise[0][0], 1.0, 100)]
    assert remaining(settled, config, before=before, since=20) == settled
    assert (settled.steps, settled.whole) == (40, True)


def test_a_cut_plan_that_goes_on_stays_cut() -> None:
    config = _config(privacy__max_epsilon=40.0)
    settled = plan(config, N)
    assert 5 < settled.steps < 40
    assert not settled.whole
    went_on = remaining(settled, config, before=settled.history(5), since=5)
    assert (went_on.steps, went_on.whole) == (settled.steps, False)


def test_a_budget_for_exactly_the_first_step_leaves_one() -> None:
    once = privacy.epsilon(0.8, 1.0, 1, 1e-5, accountant="rdp")
    assert plan(_config(privacy__max_epsilon=once), N).steps == 1
    with pytest.raises(InputError, match="the first step already exceeds it"):
        plan(_config(privacy__max_epsilon=once * 0.999), N)


def test_a_count_that_costs_too_much_at_a_later_plateau_is_refused_before_the_first() -> None:
    """σ_count is a twentieth of the batch, 2.5 at first and 0.25 at the end: below σ/2."""
    falling = {
        "privacy__clipping": "adaptive",
        "schedule__batch": {"kind": "step", "end_factor": 0.1},
    }
    with pytest.raises(InputError, match=r"privacy\.count_noise_multiplier is 0\.25"):
        plan(_config(**falling), N)
    settled = plan(_config(**falling, privacy__count_noise_multiplier=3.0), N)
    for step in range(40):
        terms = settled.at(step)
        assert terms.count_noise_multiplier == 3.0
        assert terms.gradient_noise_multiplier == gradient_share(0.8, 3.0)
        assert terms.sample_rate == terms.expected_batch_size / N


@pytest.mark.parametrize("count", [0.4, 0.3999])
def test_a_count_at_half_of_sigma_leaves_nothing_to_the_gradient(count: float) -> None:
    with pytest.raises(InputError, match="must be above half"):
        gradient_share(0.8, count)
    assert gradient_share(0.8, 0.4001) > 20


def test_a_scaled_schedule_keeps_its_shape_and_its_target() -> None:
    config = _config(
        privacy__noise_multiplier=None,
        privacy__target_epsilon=3.0,
        schedule__noise={"kind": "linear", "end_factor": 0.5, "stages": 3},
    )
    settled = plan(config, N)
    sigmas = [settled.at(step).noise_multiplier for step in (0, 20, 39)]
    assert sigmas[1] / sigmas[0] == pytest.approx(0.75)
    assert sigmas[2] / sigmas[0] == pytest.approx(0.5)
    spent = privacy.compose(settled.history(), 1e-5, accountant="rdp")
    assert 2.98 < spent <= 3.0


def test_steps_are_cut_from_the_right_end() -> None:
    history = [(1.0, 0.1, 3), (2.0, 0.2, 4), (3.0, 0.3, 5)]
    assert first_steps(history, 0) == last_steps(history, 0) == []
    assert first_steps(history, 3) == history[:1]
    assert first_steps(history, 5) == [(1.0, 0.1, 3), (2.0, 0.2, 2)]
    assert last_steps(history, 5) == history[2:]
    assert last_steps(history, 6) == [(2.0, 0.2, 1), (3.0, 0.3, 5)]
    assert first_steps(history, 99) == last_steps(history, 99) == history
    runs = [(1.0, 3), (2.0, 4)]
    assert [value_at(runs, step) for step in (0, 2, 3, 6, 7, 99)] == [1, 1, 2, 2, 2, 2]


def test_a_plan_from_any_step_to_any_other_is_what_those_steps_use() -> None:
    settled = plan(
        _config(
            schedule__noise={"kind": "linear", "end_factor": 0.5, "stages": 4},
            schedule__batch={"kind": "step", "end_factor": 2.0},
        ),
        1000,
    )
    every = [settled.at(step) for step in range(40)]
    for since, end in ((0, 40), (3, 17), (19, 21), (39, 40), (7, 7)):
        unrolled = [
            (sigma, rate)
            for sigma, rate, count in settled.history(end, since=since)
            for _ in range(count)
        ]
        assert unrolled == [(t.noise_multiplier, t.sample_rate) for t in every[since:end]]
