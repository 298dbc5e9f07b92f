"""From a budget back to σ and steps: within it, always, and hardly less than it."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench import privacy
from workbench.errors import InputError
from workbench.privacy import calibration


@pytest.mark.slow
@given(
    st.floats(0.3, 12), st.floats(5e-3, 0.3), st.integers(1, 1000), st.sampled_from([1e-4, 1e-6])
)
@settings(deadline=None, derandomize=True, max_examples=6)
def test_sigma_is_within_the_budget_and_smallest(
    target: float, rate: float, steps: int, delta: float
) -> None:
    sigma = privacy.noise_multiplier(target, rate, steps, delta)
    assert privacy.epsilon(sigma, rate, steps, delta) <= target
    if sigma > calibration.SMALLEST_SIGMA:
        # Four digits: a tick is at most a thousandth. One per cent below must be over the budget.
        assert privacy.epsilon(sigma * 0.99, rate, steps, delta) > target


@pytest.mark.parametrize("accountant", ["rdp", "prv"])
def test_sigma_is_within_the_budget_of_every_accountant(accountant: str) -> None:
    sigma = privacy.noise_multiplier(3.0, 0.02, 300, 1e-5, accountant=accountant)  # pyright: ignore
    spent = privacy.epsilon(sigma, 0.02, 300, 1e-5, accountant=accountant)  # pyright: ignore
    assert 2.97 <= spent <= 3.0


def test_max_steps_is_the_last_within_the_budget() -> None:
    steps = privacy.max_steps(4.0, 1.0, 0.02, 1e-5)
    assert privacy.epsilon(1.0, 0.02, steps, 1e-5) <= 4.0
    assert privacy.epsilon(1.0, 0.02, steps + 1, 1e-5) > 4.0
    assert privacy.max_steps(0.5, 0.3, 1.0, 1e-5) == 0


def test_a_budget_that_no_noise_reaches_is_refused() -> None:
    with pytest.raises(InputError, match="target_epsilon is 1e-12"):
        privacy.noise_multiplier(1e-12, 1.0, 10**6, 1e-9, accountant="rdp")


def test_a_budget_that_needs_no_noise_gets_the_smallest_sigma() -> None:
    # One step that includes the record with probability 1e-6 is (0, 1e-5)-DP whatever σ is.
    assert privacy.noise_multiplier(1.0, 1e-6, 1, 1e-5) == calibration.SMALLEST_SIGMA


@pytest.mark.parametrize("target", [0.0, -1.0, math.nan, math.inf])
def test_bad_targets_are_one_sentence(target: float) -> None:
    with pytest.raises(InputError, match=r"^target_epsilon is"):
        privacy.noise_multiplier(target, 0.01, 100, 1e-5)
    with pytest.raises(InputError, match=r"^target_epsilon is"):
        privacy.max_steps(target, 1.0, 0.01, 1e-5)


def test_rounding_sigma_down_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def down(sigma: float, within: object) -> float:
        return math.floor(sigma * 100) / 100

    monkeypatch.setattr(calibration, "_rounded_up_within", down)
    sigma = privacy.noise_multiplier(3.0, 0.02, 300, 1e-5)
    assert privacy.epsilon(sigma, 0.02, 300, 1e-5) > 3.0
