"""The preview against refined PLDs, its own second method, and the properties ε must have."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate
from scipy.stats import norm

from benchmarks.pld_truth import TRUTH, pld_epsilon
from workbench.errors import InputError
from workbench.privacy import _grid, _saddle, surface
from workbench.privacy.surface import (
    DOMAIN,
    epsilon_surface,
    explain_epsilon_surface,
    explain_noise_multiplier_surface,
    noise_multiplier_surface,
)

_properties = settings(deadline=None, derandomize=True, max_examples=40)
_sigma = st.floats(0.3, 20)
_rate = st.floats(-6, 0).map(lambda power: 10**power)
_steps = st.floats(0, 6).map(lambda power: round(10**power))
_delta = st.floats(-12, -3).map(lambda power: 10**power)


def truth(path: Path = TRUTH) -> dict[str, np.ndarray]:
    """The settled rows of the reference, by column."""
    with path.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["settled"] == "True"]
    numbers = ("noise_multiplier", "sample_rate", "steps", "delta", "epsilon", "interval")
    columns = {name: np.array([float(row[name]) for row in rows]) for name in numbers}
    return columns | {
        "origin": np.array([row["origin"] for row in rows]),
        "seconds": np.array([float(row["seconds"]) for row in rows]),
    }


def preview(rows: dict[str, np.ndarray]) -> np.ndarray:
    return epsilon_surface(
        rows["noise_multiplier"], rows["sample_rate"], rows["steps"], rows["delta"]
    )


def promise(epsilon: np.ndarray | float) -> np.ndarray:
    return np.maximum(surface.RELATIVE_ERROR * np.asarray(epsilon), surface.ABSOLUTE_ERROR)


def misses(rows: dict[str, np.ndarray]) -> int:
    """How many previews are neither within the promise nor NaN."""
    return int(np.sum(np.abs(preview(rows) - rows["epsilon"]) > promise(rows["epsilon"])))


def test_every_preview_is_within_the_promise_of_pld() -> None:
    rows = truth()
    assert np.sum(rows["origin"] == "random") >= 500
    assert misses(rows) == 0
    assert not np.isnan(preview(rows)).any()


def test_the_reference_file_is_what_dp_accounting_says() -> None:
    rows = truth()
    # Nearer to steps · 2⁻⁵³ than this, δ is what the rounding of a machine's FFT leaves of it.
    steady = rows["delta"] > 10 * rows["steps"] * 2.0**-53
    quick = np.flatnonzero(steady & (rows["seconds"] < 1))
    names = ("noise_multiplier", "sample_rate", "steps", "delta", "interval")
    for row in np.random.default_rng(7).choice(quick, 12, replace=False).tolist():
        sigma, rate, steps, delta, interval = (float(rows[name][row]) for name in names)
        again = pld_epsilon(sigma, rate, int(steps), delta, interval=interval)
        # Another machine's FFT still rounds otherwise.
        assert again == pytest.approx(rows["epsilon"][row], rel=1e-3, abs=1e-6)


@pytest.mark.parametrize(
    ("noise_multiplier", "sample_rate", "steps", "delta", "epsilon"),
    [
        # dp-accounting 0.6.0, as published tables of accountants print them
        (1.5, 0.04, 2250, 1e-5, 6.7688),
        (1.0, 0.01, 10_000, 1e-5, 6.1877),
        (1.0, 1.0, 1, 1e-5, 4.3772),
        (0.5, 1e-3, 1000, 1e-6, 4.235),
        (1.0, 1e-3, 100, 1e-6, 0.0838),
        # De et al. 2022, ImageNet, NF-ResNet-50
        (2.5, 16_384 / 1_281_167, 71_589, 8e-7, 7.44),
    ],
)
def test_published_values(
    noise_multiplier: float, sample_rate: float, steps: int, delta: float, epsilon: float
) -> None:
    value = epsilon_surface(noise_multiplier, sample_rate, steps, delta)
    assert value == pytest.approx(epsilon, rel=5e-3)


@pytest.mark.parametrize("noise_multiplier", [0.4, 0.7, 1.0, 3.0])
@pytest.mark.parametrize("sample_rate", [1e-4, 0.01, 0.3])
@pytest.mark.parametrize("delta", [1e-9, 1e-5])
def test_two_steps_agree_with_the_integral(
    noise_multiplier: float, sample_rate: float, delta: float
) -> None:
    """Two steps are one closed form averaged over the other's loss; no Fourier, no saddle."""
    sigma, q = noise_multiplier, sample_rate

    def delta_of_one(epsilon: np.ndarray) -> np.ndarray:
        exceeds = np.maximum(np.expm1(epsilon) / q, np.nextafter(-1, 0))
        x = sigma**2 * np.log1p(exceeds) + 0.5
        under_p = (1 - q) * norm.sf(x / sigma) + q * norm.sf((x - 1) / sigma)
        reached = under_p - np.exp(epsilon) * norm.sf(x / sigma)
        return np.where(epsilon > math.log1p(-q), reached, -np.expm1(epsilon))

    def delta_of_two(epsilon: float) -> float:
        x = np.linspace(-9 * sigma, 1 + 9 * sigma, 40_001)
        loss = np.log1p(q * np.expm1((2 * x - 1) / (2 * sigma**2)))
        density = (1 - q) * norm.pdf(x, 0, sigma) + q * norm.pdf(x, 1, sigma)
        return float(integrate.trapezoid(density * delta_of_one(epsilon - loss), x))

    value = float(epsilon_surface(sigma, q, 2, delta))
    # The promise is kept where δ lies between those at its two ends; below 0 any δ will do.
    slack = surface.ABSOLUTE_ERROR + surface.RELATIVE_ERROR * value / (1 - surface.RELATIVE_ERROR)
    assert delta_of_two(value + slack) <= delta
    assert value <= slack or delta_of_two(value - slack) >= delta


def test_saddle_and_grid_agree_with_the_plain_gaussian() -> None:
    """At q = 1 the closed form is exact, and the other two routes do not know it."""
    sigma, steps = (a.ravel() for a in np.meshgrid([1.0, 2.0, 5.0], [2.0, 30.0, 1000.0]))
    cells = _saddle.Cells(sigma, np.ones(9), steps, np.full(9, math.log(1e-5)))
    exact = _saddle.closed_form(cells)
    found = _saddle.saddle(cells)
    np.testing.assert_allclose(found.epsilon, exact, rtol=2e-4)
    # What wraps round the grid is e⁻⁶ of δ.
    np.testing.assert_allclose(_grid.composed(cells, found, 8192).epsilon, exact, rtol=3e-4)
    assert np.all(found.upper >= exact)


def test_gaussian_epsilon_inverts_the_gaussian_delta() -> None:
    mu, log_delta = (
        a.ravel() for a in np.meshgrid(np.geomspace(1e-3, 3e3, 25), np.log([1e-12, 1e-5, 1e-2]))
    )
    epsilon = _saddle.gaussian_epsilon(mu, log_delta)
    high = norm.logcdf(mu / 2 - epsilon / mu)
    low = epsilon + norm.logcdf(-mu / 2 - epsilon / mu)
    reached = high + np.log1p(-np.exp(np.minimum(low - high, -1e-300)))
    positive = epsilon > 0
    # At μ = 3000 the loss of digits in ε/μ − μ/2 alone is about 1e-9 of log δ.
    np.testing.assert_allclose(reached[positive], log_delta[positive], rtol=1e-6)
    assert np.all(reached[~positive] <= log_delta[~positive])


def test_the_hard_corner_agrees_with_a_fine_grid() -> None:
    """Rare large losses over a bulk of small ones: where saddle point and coarse grid both fail."""
    random = np.random.default_rng(5)
    low, high = np.log([0.3, 1e-6, 10, 1e-12]), np.log([1.2, 1e-3, 1e6, 1e-3])
    sigma, rate, steps, delta = np.exp(random.uniform(low, high, (1500, 4))).T
    steps = np.round(steps)
    cells = _saddle.Cells(sigma, rate, steps, np.log(delta))
    found = _saddle.saddle(cells)
    doubtful = found.correction > surface._LARGEST_CORRECTION
    fine = _grid.composed(cells[doubtful], found.take(doubtful), 16_384).epsilon
    values = epsilon_surface(sigma, rate, steps, delta)[doubtful]
    assert doubtful.sum() > 800
    assert np.isnan(values).mean() < 1e-3
    assert np.nanmax(np.abs(values - np.maximum(fine, 0)) / promise(fine)) < 1


def _amplified_for_free(cells: _saddle.Cells) -> np.ndarray:
    mu = np.sqrt(cells.steps) / cells.noise_multiplier
    return _saddle.gaussian_epsilon(mu, cells.log_delta)


@pytest.mark.parametrize(
    ("module", "name", "broken"),
    [
        (surface, "_LARGEST_CORRECTION", math.inf),  # the saddle point is believed everywhere
        (surface, "_CLEAR", 0),  # the coarsest grid is believed everywhere
        (surface, "ABSOLUTE_ERROR", math.inf),  # the Rényi bound is believed everywhere
        (_saddle, "closed_form", _amplified_for_free),  # one step without amplification
        (_grid, "_whole_power", lambda base, power: base ** (power[:, None] - 1)),  # a step short
        (_grid, "_shortest_period", lambda _, found: (found.tilt, 2 * found.spread)),  # wraps round
    ],
)
def test_the_comparison_catches_planted_bugs(
    monkeypatch: pytest.MonkeyPatch, module: object, name: str, broken: object
) -> None:
    rows = truth()
    limit = promise(rows["epsilon"])
    monkeypatch.setattr(module, name, broken)
    assert np.any(np.abs(preview(rows) - rows["epsilon"]) > limit)


def test_what_one_coarse_grid_cannot_settle_is_nan_with_a_reason_not_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = truth()
    monkeypatch.setattr(surface, "_GRID_SIZES", (512,))
    values = preview(rows)
    assert misses(rows) == 0
    assert 0 < np.isnan(values).sum() < 0.2 * len(values)


@_properties
@given(sigma=_sigma, rate=_rate, steps=_steps, delta=_delta)
def test_nan_exactly_where_there_is_a_reason(
    sigma: float, rate: float, steps: int, delta: float
) -> None:
    answer = explain_epsilon_surface([sigma, sigma / 4, 60 * sigma], rate, steps, delta)
    assert np.array_equal(np.isnan(answer.values), answer.reasons != "")
    assert np.all(answer.values[~np.isnan(answer.values)] >= 0)


@_properties
@given(sigma=_sigma, rate=_rate, steps=_steps, delta=_delta)
def test_less_noise_more_data_more_steps_and_smaller_delta_cost_more(
    sigma: float, rate: float, steps: int, delta: float
) -> None:
    here = float(epsilon_surface(sigma, rate, steps, delta))
    dearer = epsilon_surface(
        [max(sigma * 0.9, 0.3), sigma, sigma, sigma],
        [rate, min(rate * 1.1, 1), rate, rate],
        [steps, steps, min(2 * steps, 10**6), steps],
        [delta, delta, delta, max(delta / 5, 1e-12)],
    )
    # Each of the two may be off by what is promised.
    assert np.all(dearer >= here - 2 * promise(here))


def test_broadcasting_is_cell_by_cell() -> None:
    sigma, rate, steps = np.array([[0.5], [0.9], [4.0]]), np.array([1e-4, 0.02, 1.0]), 500
    grid = epsilon_surface(sigma, rate, steps, 1e-6)
    assert grid.shape == (3, 3)
    assert grid.dtype == np.float64
    one_by_one = [[float(epsilon_surface(s, q, steps, 1e-6)) for q in rate] for s in sigma[:, 0]]
    np.testing.assert_allclose(grid, one_by_one, rtol=1e-9)
    assert epsilon_surface(1, 0.01, 100, 1e-5).shape == ()
    assert epsilon_surface([], 0.01, 100, 1e-5).shape == (0,)


@_properties
@given(target=st.floats(-1, 2).map(lambda power: 10**power), rate=_rate, steps=_steps, delta=_delta)
def test_the_noise_multiplier_gives_back_its_target(
    target: float, rate: float, steps: int, delta: float
) -> None:
    answer = explain_noise_multiplier_surface(target, rate, steps, delta)
    sigma = float(answer.values)
    least, most = DOMAIN["noise_multiplier"]
    if np.isnan(sigma):
        ends = epsilon_surface([least, most], rate, steps, delta)
        assert answer.reasons[()]
        assert ends[0] <= target + promise(target) or ends[1] >= target - promise(target)
    else:
        assert not answer.reasons[()]
        assert float(epsilon_surface(sigma, rate, steps, delta)) == pytest.approx(
            target, abs=float(promise(target)) / 2
        )


def test_sigma_surface_broadcasts_and_says_why_not() -> None:
    grid = noise_multiplier_surface([[1.0], [8.0]], [1e-3, 0.01, 0.1], 1000, 1e-5)
    assert grid.shape == (2, 3)
    assert np.all(np.diff(grid, axis=1) > 0)
    assert np.all(grid[0] > grid[1])
    cheap = explain_noise_multiplier_surface(50, 1e-6, 10, 1e-5)
    dear = explain_noise_multiplier_surface(0.01, 1, 10**6, 1e-5)
    assert "least" in str(cheap.reasons[()])
    assert "more σ" in str(dear.reasons[()])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0, 0.01, 100, 1e-5), ("noise_multiplier", "0", "above 0")),
        ((math.nan, 0.01, 100, 1e-5), ("noise_multiplier", "nan")),
        ((math.inf, 0.01, 100, 1e-5), ("noise_multiplier", "inf")),
        (([1, -2], 0.01, 100, 1e-5), ("noise_multiplier", "-2")),
        ((1, 0, 100, 1e-5), ("sample_rate", "0", "at most 1")),
        ((1, 1.5, 100, 1e-5), ("sample_rate", "1.5")),
        ((1, 0.01, 0, 1e-5), ("steps", "0", "at least 1")),
        ((1, 0.01, 10.5, 1e-5), ("steps", "10.5", "whole")),
        ((1, 0.01, 100, 0), ("delta", "0")),
        ((1, 0.01, 100, 1), ("delta", "1", "strictly")),
        ((1, 0.01, 100, math.nan), ("delta", "nan")),
        (("much", 0.01, 100, 1e-5), ("noise_multiplier", "much", "numbers")),
        (([1, 2], [0.1, 0.2, 0.3], 100, 1e-5), ("noise_multiplier (2,)", "broadcast")),
    ],
)
def test_bad_input_is_refused_in_one_sentence(arguments: tuple, words: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        epsilon_surface(*arguments)
    message = str(caught.value)
    assert all(word in message for word in words)
    assert message.endswith(".")
    assert "\n" not in message


def test_bad_targets_are_refused() -> None:
    with pytest.raises(InputError, match="target_epsilon is -1"):
        noise_multiplier_surface(-1, 0.01, 100, 1e-5)


def test_outside_the_domain_is_nan_and_names_the_argument() -> None:
    answer = explain_epsilon_surface([0.1, 1], 0.01, [[100], [10**8]], 1e-5)
    assert np.array_equal(np.isnan(answer.values), [[True, False], [True, True]])
    assert "noise_multiplier" in answer.reasons[0, 0]
    assert "steps" in answer.reasons[1, 1]
