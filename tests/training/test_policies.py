"""Every policy keeps to the budget and to the work of the constant run."""

import doctest

import pytest

from workbench import privacy
from workbench.config import RunConfig
from workbench.errors import InputError
from workbench.training import policies
from workbench.training.plan import plan
from workbench.training.policies import POLICIES, Policy, with_policy

N = 5000
BASE = RunConfig().with_changes(
    {
        "privacy.noise_multiplier": None,
        "privacy.target_epsilon": 3.0,
        "training.expected_batch_size": 100,
        "training.steps": 90,
    }
)


@pytest.mark.parametrize("policy", POLICIES)
def test_budget_and_expected_records_are_the_constant_runs(policy: Policy) -> None:
    """Whole batches: the records seen agree to one record a step."""
    history = plan(with_policy(BASE, policy), N).history()
    assert 2.99 <= privacy.compose(history, 1e-5) <= 3.0
    records = sum(rate * N * steps for _, rate, steps in history)
    assert records == pytest.approx(90 * 100, abs=90)
    assert sum(steps for _, _, steps in history) == 90


@pytest.mark.slow
def test_each_policy_moves_what_its_name_says() -> None:
    def ends(policy: Policy) -> tuple[float, float]:
        history = plan(with_policy(BASE, policy), N).history()
        return history[-1][0] / history[0][0], history[-1][1] / history[0][1]

    assert ends("constant") == (1, 1)
    assert ends("falling_noise") == pytest.approx((0.5, 1))
    assert ends("growing_batch") == pytest.approx((1, 3), rel=0.02)
    assert ends("both") == pytest.approx((0.5, 3), rel=0.02)


def test_what_holds_nothing_fast_is_refused() -> None:
    with pytest.raises(InputError, match=r"set privacy\.target_epsilon"):
        with_policy(RunConfig(), "both")
    with pytest.raises(InputError, match="policy is 'best'"):
        with_policy(BASE, "best")  # type: ignore[arg-type]


def test_the_docstring_example_runs() -> None:
    results = doctest.testmod(policies)
    assert results.attempted
    assert not results.failed
