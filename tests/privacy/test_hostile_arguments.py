"""Whatever a public function is given, it answers with numbers or one sentence."""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench import privacy
from workbench.errors import InputError

_ODD: list[Any] = [
    0, -1, 1, True, False, None, math.nan, math.inf, -math.inf, 1e-15, 1e-300, 5e-324, 1e300,
    10**400, -(10**400), "1", "σ", b"1", [], [1], (1, 2, 3), {}, {"a": 1}, 1j, object(),
    np.float32(0.5), np.float64("nan"), np.int64(3), np.bool_(True), np.array(0.5),
    np.array([1, 2]), Fraction(1, 3),
]  # fmt: skip
_usual = st.sampled_from([0.01, 0.5, 1.0, 2, 100, 1000, 1e-5, 1e-12])
_anything = _usual | st.sampled_from(_ODD) | st.floats() | st.integers() | st.text(max_size=3)
_history = st.lists(st.tuples(_anything, _anything, _anything), max_size=2) | _anything
_accountants = st.sampled_from(["pld", "rdp", "pld", "no such", None, 3, ["pld"]])
_many = settings(deadline=None, derandomize=True, max_examples=30)


def answers(call: Callable[[], object]) -> None:
    """A value without NaN, or one sentence."""
    try:
        value = call()
    except InputError as error:
        words = str(error)
        assert "\n" not in words
        assert words.endswith(".")
        return
    assert not np.any(np.isnan(np.asarray(value, dtype=float)))


@given(_anything, _anything, _anything, _anything, _accountants)
@_many
def test_values_of_one_run(a: Any, b: Any, c: Any, d: Any, accountant: Any) -> None:
    answers(lambda: privacy.epsilon(a, b, c, d, accountant=accountant))
    answers(lambda: privacy.delta(a, b, c, d, accountant=accountant))
    answers(lambda: privacy.mechanism_ceiling(a, b, c, d))


@given(_history, _anything, _accountants, _anything, _anything, _anything)
@_many
def test_values_of_a_history(
    history: Any, delta: Any, accountant: Any, sampling: Any, size: Any, most: Any
) -> None:
    answers(
        lambda: privacy.compose(
            history,
            delta,
            accountant=accountant,
            sampling=sampling,
            dataset_size=size,
            truncated_batch_size=most,
        )
    )
    for scheme in ("fixed_size", "truncated_poisson"):
        answers(
            lambda scheme=scheme: privacy.compose(
                history,
                delta,
                accountant="rdp" if scheme == "fixed_size" else "pld",
                sampling=scheme,  # pyright: ignore
                dataset_size=size,
                truncated_batch_size=most,
            )
        )
    answers(lambda: privacy.composed_trials(history, delta, trials=most, accountant=accountant))
    answers(lambda: privacy.random_trials(history, delta, mean_trials=size, distribution=sampling))


@given(_anything, _anything, _anything, _anything)
@_many
def test_closed_forms_and_ratios(a: Any, b: Any, c: Any, d: Any) -> None:
    answers(lambda: privacy.gaussian_mu(a, b))
    answers(lambda: privacy.gaussian_ceiling(a, b))
    answers(lambda: privacy.epsilon_delta_ceiling(a, b, c))
    answers(lambda: privacy.noise_batch_ratio(a, b))
    answers(lambda: privacy.article_nsr(a, b, c, d))
    answers(lambda: privacy.update_noise_to_signal(a, b, c, d, 1.0))
    answers(lambda: len(privacy.noise_schedule("linear", start=a, end=b, steps=c, stages=3)))
    answers(lambda: len(privacy.batch_schedule(a, start=b, end=c, steps=d)))


@given(_anything, _anything, _anything, _anything)
@settings(deadline=None, derandomize=True, max_examples=12)
def test_calibrations(a: Any, b: Any, c: Any, d: Any) -> None:
    few = c if isinstance(c, int) and c < 10**4 else 100
    answers(lambda: privacy.noise_multiplier(a, b, few, d, accountant="rdp"))
    answers(lambda: privacy.noise_scale(a, [(b, c, d)], 1e-5))
    answers(lambda: privacy.steps_within(a, [(b, c, d)], 1e-5))


@pytest.mark.parametrize("odd", _ODD, ids=lambda odd: repr(odd)[:20])
def test_each_odd_value_in_each_place(odd: Any) -> None:
    for place in range(4):
        arguments: list[Any] = [1.0, 0.01, 100, 1e-5]
        arguments[place] = odd
        answers(lambda arguments=arguments: privacy.epsilon(*arguments))
        answers(
            lambda arguments=arguments: privacy.max_steps(
                8.0, arguments[0], arguments[1], arguments[3]
            )
        )
    answers(lambda: privacy.max_steps(odd, 1.0, 0.01, 1e-5))
    answers(lambda: privacy.noise_multiplier(odd, 0.01, 100, 1e-5))
    for noise in (odd, [odd], [(odd, 5)], [(1.0, odd)]):
        answers(lambda noise=noise: len(privacy.history(noise, [(10, 5)], dataset_size=100)))
        answers(lambda noise=noise: len(privacy.history([(10, 5)], noise, dataset_size=100)))


def test_rates_far_below_what_a_float_resolves() -> None:
    """Nothing is seen with probability 1 − δ; where it is, rounding must not make ε vanish."""
    assert privacy.epsilon(1.0, 1e-15, 1000, 1e-5) == 0
    # μ = √T·q·√(e − 1) of the Gaussian limit is 4.1e-11, and its ε at this δ 6.5e-11.
    for accountant in ("pld", "rdp"):
        assert privacy.epsilon(1.0, 1e-15, 10**9, 1e-12, accountant=accountant) >= 6.5e-11
