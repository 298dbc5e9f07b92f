"""Certified ε against published and independent values, and the properties it must have."""

import csv
import math
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from benchmarks.accountants import exact_epsilon
from workbench import privacy
from workbench.errors import InputError
from workbench.privacy import Guarantee, _prv, pld
from workbench.privacy.written import rounded_up

GOLDEN = Path(__file__).parents[2] / "data" / "published" / "accountant_golden.csv"

# Golden values are printed to three or four digits; PLD may differ by what it calls settled, 0.5 %,
# and is in fact within 0.1 % of the finest values. Our Rényi orders include Opacus's, so ε can only
# be lower, by little.
_TOLERANCE = {"pld": 2e-3, "rdp": 2e-3, "prv": 1e-3}

_properties = settings(deadline=None, derandomize=True, max_examples=10)
_sigma = st.floats(0.6, 5)
_rate = st.floats(1e-3, 0.5)
_steps = st.integers(1, 1000)
_delta = st.sampled_from([1e-3, 1e-5, 1e-7])

# Two values near each other may be settled at different discretisations, which moves each by up to
# 0.5 %; monotonicity holds up to that.
_SETTLED = 1 + 2 * 0.005


def golden() -> list[tuple[float, float, int, float, str, float]]:
    with GOLDEN.open(encoding="utf-8") as file:
        return [
            (
                float(row["noise_multiplier"]),
                float(row["sample_rate"]),
                int(row["steps"]),
                float(row["delta"]),
                row["accountant"],
                float(row["epsilon"]),
            )
            for row in csv.DictReader(file)
            if row["accountant"] in _TOLERANCE
        ]


@pytest.mark.parametrize(("sigma", "rate", "steps", "delta", "accountant", "expected"), golden())
def test_golden_values(
    sigma: float, rate: float, steps: int, delta: float, accountant: str, expected: float
) -> None:
    value = privacy.epsilon(sigma, rate, steps, delta, accountant=accountant)  # pyright: ignore[reportArgumentType]
    assert value == pytest.approx(expected, rel=_TOLERANCE[accountant], abs=5e-4)


def test_one_full_batch_step_is_the_gaussian_mechanism() -> None:
    """Balle & Wang 2018 (1805.06530), theorem 8, solved for δ: an independent closed form."""
    for sigma in (0.6, 1.0, 3.0):
        epsilon = privacy.epsilon(sigma, 1.0, 1, 1e-5)
        delta = norm.cdf(0.5 / sigma - epsilon * sigma) - math.exp(epsilon) * norm.cdf(
            -0.5 / sigma - epsilon * sigma
        )
        # ε is pessimistic, so δ at it is at most the target, and not by much.
        assert 0.97e-5 <= delta <= 1.0001e-5


def test_one_sampled_step_follows_amplification_by_subsampling() -> None:
    """Balle et al. 2018 (1807.01647): ε = log(1 + q(e^ε₀ − 1)) at δ = q·δ₀, for removal."""
    rate, sigma = 0.05, 1.0
    unsampled = privacy.epsilon(sigma, 1.0, 1, 1e-5)
    expected = math.log1p(rate * math.expm1(unsampled))
    assert privacy.epsilon(sigma, rate, 1, rate * 1e-5) == pytest.approx(expected, rel=5e-3)


def test_epsilon_bounds_a_simulated_attack() -> None:
    """The exact loss of 40 steps, sampled: the share above ε, weighted, must not exceed δ."""
    rng = np.random.default_rng(0)
    sigma, rate, steps, delta = 1.2, 0.2, 40, 1e-2
    epsilon = privacy.epsilon(sigma, rate, steps, delta)
    chosen = rng.random((200_000, steps)) < rate
    noisy = chosen + sigma * rng.standard_normal(chosen.shape)
    losses = np.log1p(rate * np.expm1((2 * noisy - 1) / (2 * sigma**2))).sum(axis=1)
    beyond = np.maximum(0, -np.expm1(epsilon - losses))
    standard_error = beyond.std() / math.sqrt(len(beyond))
    # Within the simulation's own error the bound is met, and tight: 5 standard errors either way.
    assert abs(beyond.mean() - delta) <= 5 * standard_error + 0.02 * delta


@given(_sigma, _rate, _steps, _delta, st.floats(1.05, 3))
@_properties
def test_more_noise_costs_less(
    sigma: float, rate: float, steps: int, delta: float, factor: float
) -> None:
    less = privacy.epsilon(sigma * factor, rate, steps, delta)
    assert less <= privacy.epsilon(sigma, rate, steps, delta) * _SETTLED


@pytest.mark.slow
@given(_sigma, _rate, _steps, _delta, st.floats(1.05, 2))
@_properties
def test_larger_batches_and_more_steps_and_smaller_delta_cost_more(
    sigma: float, rate: float, steps: int, delta: float, factor: float
) -> None:
    base = privacy.epsilon(sigma, rate, steps, delta)
    assert base <= privacy.epsilon(sigma, rate * factor, steps, delta) * _SETTLED
    assert base <= privacy.epsilon(sigma, rate, math.ceil(steps * factor), delta) * _SETTLED
    assert base <= privacy.epsilon(sigma, rate, steps, delta / factor) * _SETTLED


@given(_sigma, _rate, st.integers(1, 2000), _delta)
@_properties
def test_renyi_never_undercuts_the_loss_distribution(
    sigma: float, rate: float, steps: int, delta: float
) -> None:
    tight = privacy.epsilon(sigma, rate, steps, delta)
    assert tight <= privacy.epsilon(sigma, rate, steps, delta, accountant="rdp") * _SETTLED


@pytest.mark.slow
@given(
    st.lists(st.tuples(_sigma, st.floats(1e-3, 0.2), st.integers(1, 200)), min_size=2, max_size=4),
    st.randoms(use_true_random=False),
)
@settings(deadline=None, derandomize=True, max_examples=8)
def test_composition_is_free_of_order(
    history: list[tuple[float, float, int]], random: Random
) -> None:
    shuffled = list(history)
    random.shuffle(shuffled)
    assert privacy.compose(shuffled, 1e-5) == privacy.compose(history, 1e-5)


def test_composition_of_equal_parts_is_one_run() -> None:
    whole = privacy.epsilon(1.0, 0.01, 1000, 1e-5)
    assert privacy.compose([(1.0, 0.01, 400), (1.0, 0.01, 600)], 1e-5) == whole
    assert privacy.compose([(1.0, 0.01, 1000), (2.0, 0.01, 1000)], 1e-5) > 1.05 * whole
    assert privacy.compose([], 1e-5) == 0
    assert privacy.compose([(1.0, 0.01, 0)], 1e-5) == 0


@pytest.mark.slow
@given(st.floats(0.6, 3), st.floats(1e-3, 0.3), st.integers(1, 1000), st.floats(0.2, 6))
@settings(deadline=None, derandomize=True, max_examples=10)
def test_delta_inverts_epsilon(sigma: float, rate: float, steps: int, epsilon: float) -> None:
    delta = privacy.delta(sigma, rate, steps, epsilon)
    assume(1e-9 < delta < 0.5)
    # Both are settled to 0.5 %; δ moves by about ε's change times the slope, a few times as much.
    assert privacy.epsilon(sigma, rate, steps, delta) == pytest.approx(epsilon, rel=0.02, abs=1e-3)


def test_epsilon_settles_where_one_coarse_discretisation_is_five_times_off() -> None:
    """Tiny q and ε with one interval for all: .080, .024, .015 at 1e-3, 1e-4, 1e-5."""
    history = [(1.1, 2.62e-5, 38_147)]
    coarse = pld.loss_distribution(history, interval=1e-3, delta=1e-5).epsilon(1e-5)
    assert coarse > 0.07
    assert privacy.epsilon(*history[0], 1e-5) == pytest.approx(0.01498, rel=0.01)


def test_rounding_of_fourier_transforms_cannot_lower_epsilon() -> None:
    """VaultGemma's δ of 1.1e-10 over 100 000 steps is near double precision's floor.

    At an interval of 9e-5 rounding pulls dp-accounting's ε to 1.665; inverting the characteristic
    function in a tilted measure, where nothing cancels, gives 1.71.
    """
    assert 1.71 <= privacy.epsilon(0.614, 4.0802e-5, 100_000, 1.1e-10) <= 1.72


def test_a_delta_below_all_rounding_is_resolved_too() -> None:
    """dp-accounting's composition is 1.2 % below the exact 0.5266 here."""
    assert 0.5266 <= privacy.epsilon(0.876, 1.36e-4, 100_000, 1e-11) <= 0.5275


def test_truncated_poisson_needs_its_sizes_and_costs_at_least_poisson() -> None:
    with pytest.raises(InputError, match="dataset_size and truncated_batch_size"):
        privacy.epsilon(1.0, 0.01, 100, 1e-5, sampling="truncated_poisson")
    truncated = privacy.epsilon(
        1.0,
        0.01,
        100,
        1e-5,
        sampling="truncated_poisson",
        dataset_size=10_000,
        truncated_batch_size=150,
    )
    poisson = privacy.epsilon(1.0, 0.01, 100, 1e-5)
    assert poisson / _SETTLED <= truncated <= 3 * poisson


def test_fixed_size_batches_are_accounted_by_renyi_only() -> None:
    with pytest.raises(InputError, match="covered only by 'rdp'"):
        privacy.epsilon(1.0, 0.01, 100, 1e-5, sampling="fixed_size", dataset_size=10_000)
    fixed = privacy.epsilon(
        1.0, 0.01, 100, 1e-5, accountant="rdp", sampling="fixed_size", dataset_size=10_000
    )
    # Replacing a record moves the sum by 2C where adding one moves it by C: more ε, not less.
    assert fixed > privacy.epsilon(1.0, 0.01, 100, 1e-5, accountant="rdp")


@pytest.mark.parametrize(
    ("rate", "size", "says"),
    [
        (0.004, 100, r"of 100 records that is 0.4, .* at least 1; give 1/100 = 0.01"),
        (0.005, 100, r"sample_rate is 0.005"),
        (0.025, 100, r"that is 2.5, .* give 3/100 = 0.03"),
        (0.03, -5, "dataset_size is -5"),
        (0.03, 0, "dataset_size is 0"),
        (0.03, 100.5, "dataset_size is 100.5"),
        (0.03, True, "dataset_size is True"),
    ],
)
def test_fixed_size_batches_are_whole_records(rate: float, size: Any, says: str) -> None:
    """Half a record rounded to none, whose ε was 0."""
    fixed = {"accountant": "rdp", "sampling": "fixed_size", "dataset_size": size}
    with pytest.raises(InputError, match=says):
        privacy.epsilon(0.5, rate, 1000, 1e-5, **fixed)  # pyright: ignore
    with pytest.raises(InputError, match=says):
        privacy.compose([(0.5, 0.5, 1), (0.5, rate, 1000)], 1e-5, **fixed)  # pyright: ignore


@pytest.mark.parametrize(("batch", "size"), [(3, 100), (1, 3), (7, 1_281_167), (100, 100)])
def test_rates_of_whole_batches_are_accepted_to_within_rounding(batch: int, size: int) -> None:
    value = privacy.epsilon(
        2.0, batch / size, 10, 1e-5, accountant="rdp", sampling="fixed_size", dataset_size=size
    )
    assert value > 0


@pytest.mark.parametrize("batch", [0, -3, 1.5])
def test_truncated_batches_hold_at_least_one_record(batch: Any) -> None:
    with pytest.raises(InputError, match=f"truncated_batch_size is {batch}"):
        privacy.epsilon(
            1.0,
            0.01,
            100,
            1e-5,
            sampling="truncated_poisson",
            dataset_size=10_000,
            truncated_batch_size=batch,
        )


def test_shuffling_is_refused_with_the_reason() -> None:
    with pytest.raises(InputError, match=r"shuffle.*2403\.17673.*'poisson'"):
        privacy.epsilon(1.0, 0.01, 100, 1e-5, sampling="shuffle")


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ((0.0, 0.01, 100, 1e-5), "noise_multiplier"),
        ((-1.0, 0.01, 100, 1e-5), "noise_multiplier"),
        ((math.nan, 0.01, 100, 1e-5), "noise_multiplier"),
        ((math.inf, 0.01, 100, 1e-5), "noise_multiplier"),
        ((1e-4, 0.01, 100, 1e-5), "noise_multiplier"),
        ((1.0, 0.0, 100, 1e-5), "sample_rate"),
        ((1.0, 1.01, 100, 1e-5), "sample_rate"),
        ((1.0, math.nan, 100, 1e-5), "sample_rate"),
        ((1.0, 0.01, -1, 1e-5), "steps"),
        ((1.0, 0.01, 1.5, 1e-5), "steps"),
        ((1.0, 0.01, 100, 0.0), "delta"),
        ((1.0, 0.01, 100, 1.0), "delta"),
        ((1.0, 0.01, 100, math.nan), "delta"),
    ],
)
def test_bad_input_is_one_sentence_naming_the_field(
    arguments: tuple[float, float, int, float], field: str
) -> None:
    with pytest.raises(InputError) as caught:
        privacy.epsilon(*arguments)
    assert str(caught.value).startswith(field)
    assert "\n" not in str(caught.value)


class TestPlantedBugs:
    """Mistakes that would understate ε, each caught by a property above."""

    def test_rounding_down_the_discretisation_is_caught(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = pld.StepCurve.of

        def optimistic(sigma: float, rate: float, batches: pld.Batches) -> pld.StepCurve:
            return real(sigma * 1.01, rate, batches)

        monkeypatch.setattr(pld.StepCurve, "of", optimistic)
        with pytest.raises(AssertionError):
            test_one_full_batch_step_is_the_gaussian_mechanism()

    def test_an_unrefined_discretisation_is_caught(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pld, "_SETTLED", math.inf)
        monkeypatch.setattr(pld, "_FIRST_SHARE", 100.0)
        with pytest.raises(AssertionError):
            test_epsilon_settles_where_one_coarse_discretisation_is_five_times_off()

    def test_forgetting_to_compose_is_caught(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = pld._mechanism

        def first_only(history: pld.History, *rest: Any) -> object:
            return real(history[:1], *rest)

        monkeypatch.setattr(pld, "_mechanism", first_only)
        with pytest.raises(AssertionError):
            test_composition_of_equal_parts_is_one_run()


@pytest.mark.parametrize(
    ("value", "shown"), [(5.0320, 5.04), (5.04, 5.04), (0.014589, 0.0146), (99.91, 100.0), (0, 0)]
)
def test_a_guarantee_is_never_rounded_down(value: float, shown: float) -> None:
    assert rounded_up(value, 3) == pytest.approx(shown)
    assert rounded_up(value, 3) >= value


@pytest.mark.parametrize(
    ("epsilon", "text"),
    [
        (5.04173, "5.042"),
        (2.00001, "2.001"),
        (3.9994, "4.000"),
        (12345.6, "1.235e+04"),
        (math.inf, "∞"),
    ],
)
def test_a_guarantee_in_words_is_rounded_up_too(epsilon: float, text: str) -> None:
    stated = Guarantee(epsilon, 1e-5, "pld", "poisson", "add_or_remove_one", "record")
    assert str(stated).startswith(f"ε = {text} at δ = 1e-05 (PLD")


def test_what_opacus_cannot_follow_is_refused_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its own sanity checks raise; a run must not find that out after its first step."""

    def fails(*_: object, **__: object) -> float:
        raise RuntimeError("Discrete mean differs significantly\nfrom continuous mean.")

    monkeypatch.setattr("opacus.accountants.PRVAccountant._get_dprv", fails)
    with pytest.raises(InputError, match=r"cannot follow these steps .*; choose 'pld'") as refusal:
        privacy.epsilon(1.0, 0.01, 100, 1e-5, accountant="prv")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("sigma", "steps", "delta"), [(100.0, 10**4, 1e-12), (10_000.0, 10**5, 1e-10)]
)
def test_prv_is_refused_where_its_transforms_round_too_much(
    sigma: float, steps: int, delta: float
) -> None:
    """It certified less than the closed form of the one Gaussian that this is."""
    with pytest.raises(InputError, match=r"rounding may hide .* of δ.*; choose 'pld'"):
        privacy.epsilon(sigma, 1.0, steps, delta, accountant="prv")


def test_prv_is_never_below_the_closed_form() -> None:
    for sigma, steps, delta in [(100.0, 10**4, 1e-5), (10.0, 1000, 1e-6), (1.0, 3, 1e-8)]:
        exact = exact_epsilon(sigma, 1.0, steps, delta)
        value = privacy.epsilon(sigma, 1.0, steps, delta, accountant="prv")
        assert exact <= value <= exact + 0.03


@pytest.mark.parametrize(
    ("sigma", "rate", "steps"), [(0.5, 0.1, 10**4), (0.3, 0.01, 10**5), (0.05, 0.01, 1000)]
)
def test_prv_is_refused_before_it_takes_the_memory(
    sigma: float, rate: float, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def built(*_: object, **__: object) -> None:
        raise AssertionError("the grid was built")

    monkeypatch.setattr("opacus.accountants.PRVAccountant._get_dprv", built)
    with pytest.raises(InputError, match=r"its grid takes .* GiB and may take 1\); choose 'pld'"):
        privacy.epsilon(sigma, rate, steps, 1e-5, accountant="prv")


@pytest.mark.parametrize("history", [[(1.0, 0.01, 1000)], [(0.7, 0.1, 20), (2.0, 1.0, 300)]])
def test_prvs_grid_is_as_large_as_foreseen(history: list[tuple[float, float, int]]) -> None:
    """Opacus's own, rounded to whole steps and an even number of them."""
    from opacus.accountants import PRVAccountant
    from opacus.accountants.analysis.prv import PoissonSubsampledGaussianPRV

    built = PRVAccountant()._get_domain(
        [PoissonSubsampledGaussianPRV(rate, sigma) for sigma, rate, _ in history],
        [steps for _, _, steps in history],
        _prv._EPSILON_ERROR,
        _prv._DELTA_SHARE * 1e-5,
    )
    assert _prv._grid_points(history, 1e-5) == pytest.approx(built.size, rel=1e-3)
