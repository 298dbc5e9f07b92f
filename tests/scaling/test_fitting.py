"""Fits recover planted laws, beat other optimizers, and say what they cannot know."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from workbench.errors import InputError
from workbench.scaling import fit
from workbench.scaling.huber import DELTA, huber
from workbench.scaling.laws import CHINCHILLA

# Besiroglu et al. 2024 (arXiv 2404.10102), their refit of the Chinchilla points.
TRUE = {"A": 482.01, "B": 2085.43, "E": 1.8172, "alpha": 0.3478, "beta": 0.3658}


def grid(seed: int = 0, count: int = 60) -> pd.DataFrame:
    """Points spread over the range of the Chinchilla study, without losses."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "n_params": np.exp(rng.uniform(math.log(5e7), math.log(1e10), count)),
            "tokens": np.exp(rng.uniform(math.log(1e9), math.log(5e11), count)),
        }
    )


def chinchilla(frame: pd.DataFrame, p: dict[str, float] = TRUE) -> np.ndarray:
    """The planted law, written out again."""
    n, d = frame["n_params"].to_numpy(), frame["tokens"].to_numpy()
    return p["E"] + p["A"] / n ** p["alpha"] + p["B"] / d ** p["beta"]


def measured(seed: int = 0, count: int = 60, scatter: float = 0.006) -> pd.DataFrame:
    """The planted law with scatter, some of it in the tails."""
    frame = grid(seed, count)
    rng = np.random.default_rng(seed + 1000)
    frame["loss"] = chinchilla(frame) * np.exp(rng.laplace(0, scatter, count))
    return frame


def test_a_planted_chinchilla_law_is_recovered_exactly():
    frame = grid()
    frame["loss"] = chinchilla(frame)
    fitted = fit(frame, "chinchilla")
    assert fitted.params == pytest.approx(TRUE, rel=1e-4)
    assert fitted.objective < 1e-12
    assert fitted.status == ""


def test_a_planted_overtraining_law_is_recovered_exactly():
    """Gadre et al. 2024 (arXiv 2403.08540): L = E + (a·M^η + b·M^−η)·C^−η."""
    frame = grid()
    n, d = frame["n_params"].to_numpy(), frame["tokens"].to_numpy()
    m, c = d / n, 6 * n * d
    frame["loss"] = 1.9 + (40 * m**0.12 + 200 * m**-0.12) * c**-0.12
    assert fit(frame, "overtraining").params == pytest.approx(
        {"a": 40, "b": 200, "E": 1.9, "eta": 0.12}, rel=1e-3
    )


@pytest.mark.parametrize("column", ["tokens", "compute", "n_params"])
def test_laws_of_one_covariate_take_what_varies(column: str):
    x = np.geomspace(1e5, 1e9, 12)
    frame = pd.DataFrame({"tokens": np.full(12, 1e6), "n_params": np.full(12, 1e6), "loss": 5.0})
    frame[column] = x
    frame["loss"] = 30 * x**-0.1
    assert fit(frame, "power").params == pytest.approx({"A": 30, "alpha": 0.1}, rel=1e-6)
    frame["loss"] += 1.5
    floored = fit(frame, "power_floor")
    assert floored.params == pytest.approx({"A": 30, "E": 1.5, "alpha": 0.1}, rel=1e-4)


@settings(deadline=None, max_examples=15)
@given(
    st.floats(0.2, 0.6),
    st.floats(0.2, 0.6),
    st.floats(0.5, 3),
    st.floats(0.1, 1),
    st.floats(0.1, 1),
)
def test_any_planted_law_is_recovered(
    alpha: float, beta: float, floor: float, of_n: float, of_d: float
):
    """``of_n`` and ``of_d`` are the terms in nats in the middle of the range.

    No corner of it has more than 14 nats, which no model has and which would be refused.
    """
    p = {"alpha": alpha, "beta": beta, "E": floor}
    p |= {"A": of_n * 7e8**alpha, "B": of_d * 2e10**beta}
    frame = grid(1, 40)
    frame["loss"] = chinchilla(frame, p)
    fitted = fit(frame, "chinchilla")
    np.testing.assert_allclose(fitted.predict(frame), frame["loss"], rtol=1e-6)
    assert fitted.params == pytest.approx(p, rel=1e-2)


def test_no_start_of_a_quasi_newton_method_ends_lower():
    """L-BFGS from 15 random starts, on the same objective with its own derivative."""
    frame = measured(count=240)
    x = CHINCHILLA.covariates(frame)
    x -= x.mean(axis=0)
    log_loss, rng = np.log(frame["loss"].to_numpy()), np.random.default_rng(0)

    def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
        value, slopes = CHINCHILLA.log_loss_and_slopes(theta[None], x)
        residuals = value[0] - log_loss
        # In units of δ², or the method stops where it begins.
        return huber(residuals, DELTA).sum() / DELTA**2, (
            np.clip(residuals, -DELTA, DELTA) @ slopes[0] / DELTA**2
        )

    starts = np.concatenate(
        [rng.normal(0, 1, (15, 3)), np.log(rng.uniform(0.1, 1, (15, 2)))], axis=1
    )
    ends = [minimize(objective, s, jac=True, method="L-BFGS-B").fun * DELTA**2 for s in starts]
    assert fit(frame).objective <= min(ends) * (1 + 1e-9)


@pytest.mark.slow
def test_intervals_cover_what_was_planted():
    """Of 40 replicates 95 % cover; three standard deviations of that share are 0.103."""
    covered = []
    for seed in range(40):
        frame = measured(seed)
        fitted = fit(frame)
        new = grid(seed + 500, 40)
        band, interval = fitted.band(new), fitted.predict_interval(new)
        truth = chinchilla(new)
        rng = np.random.default_rng(seed + 2000)
        fresh = truth * np.exp(rng.laplace(0, 0.006, 40))
        covered.append(
            [
                *(low <= TRUE[name] <= high for name, (low, high) in fitted.intervals.items()),
                np.mean((band[:, 0] <= truth) & (truth <= band[:, 1])),
                np.mean((interval[:, 0] <= fresh) & (fresh <= interval[:, 1])),
            ]
        )
    shares = np.mean(covered, axis=0)
    np.testing.assert_allclose(shares, 0.95, atol=0.104)


def test_resamples_and_profiles_agree():
    frame = measured(count=120)
    profiled, resampled = fit(frame), fit(frame, bootstrap=200)
    assert profiled.params == resampled.params
    for name in TRUE:
        one = np.log(profiled.intervals[name])
        other = np.log(resampled.intervals[name])
        np.testing.assert_allclose(one, other, atol=0.5 * (one[1] - one[0]))


def test_points_of_one_run_count_as_one():
    """Each run measured five times, its scatter shared: points would seem five times as many."""
    few = measured(3, 30, scatter=0.01)
    many = pd.concat([few.assign(run=range(30), part=part) for part in range(5)])
    by_run = fit(many, bootstrap=200).intervals["alpha"]
    by_point = fit(many.drop(columns="run").reset_index(drop=True), bootstrap=200).intervals[
        "alpha"
    ]
    assert math.log(by_run[1] / by_run[0]) > 1.6 * math.log(by_point[1] / by_point[0])


def test_a_given_parameter_stays_and_the_others_are_the_best_beside_it():
    frame = measured()
    fitted = fit(frame, fixed={"alpha": 0.30})
    assert fitted.params["alpha"] == pytest.approx(0.30)
    assert fitted.intervals["alpha"] == (0.30, 0.30)
    assert fitted.objective > fit(frame).objective
    exact = grid()
    exact["loss"] = chinchilla(exact)
    given_all_but = fit(exact, fixed={"alpha": 0.3478, "E": 1.8172})
    assert given_all_but.params == pytest.approx(TRUE, rel=1e-3)


def test_a_floor_of_none_is_taken():
    x = np.geomspace(1e5, 1e9, 12)
    frame = pd.DataFrame({"tokens": x, "loss": 30 * x**-0.1})
    fitted = fit(frame, "power_floor", fixed={"E": 0.0})
    assert fitted.params["alpha"] == pytest.approx(0.1, rel=1e-4)


def test_a_floor_that_the_points_do_not_show_is_said():
    """A pure power law fits as well with no floor at all."""
    x, rng = np.geomspace(1e6, 1e9, 12), np.random.default_rng(0)
    frame = pd.DataFrame({"tokens": x, "loss": 8 * x**-0.05 * np.exp(rng.normal(0, 0.01, 12))})
    assert "floor E is not identified" in fit(frame, "power_floor").status


def test_one_size_of_model_is_said():
    frame = measured()
    frame["n_params"] = np.where(np.arange(60) % 2, 1e8, 1e9)
    assert "n_params has only 2 different values" in fit(frame).status


def test_a_prediction_is_wider_than_the_law_and_widens_outside():
    fitted = fit(measured())
    new = pd.DataFrame({"n_params": [7e8, 1e13], "tokens": [2e10, 1e14]})
    band, interval = fitted.band(new), fitted.predict_interval(new)
    told = fitted.predict(new)
    assert (interval[:, 0] < band[:, 0]).all()
    assert (band[:, 0] < told).all()
    assert (told < band[:, 1]).all()
    assert (band[:, 1] < interval[:, 1]).all()
    assert band[1, 1] / band[1, 0] > band[0, 1] / band[0, 0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.drop(columns="tokens"), "no column tokens"),
        (lambda f: f.drop(columns="loss"), "no column loss"),
        (lambda f: f.assign(loss=-1.0), "loss is -1 in row 0"),
        (lambda f: f.assign(loss=math.nan), "loss is nan in row 0"),
        (lambda f: f.assign(tokens=0.0), "tokens is 0 in row 0"),
        (lambda f: f.assign(loss=np.exp(f["loss"]) + 40), "perplexities"),
        (lambda f: f.assign(loss="low"), "loss holds something"),
        (lambda f: f.iloc[:5], "5 different points for 5 parameters"),
        (lambda f: pd.concat([f.iloc[:3]] * 20), "3 different points for 5 parameters"),
        (lambda f: f.iloc[:0], "no points"),
    ],
)
def test_what_cannot_be_fitted_is_refused(change, words: str):
    with pytest.raises(InputError, match=words):
        fit(change(measured()))


def test_other_laws_and_parameters_are_refused():
    with pytest.raises(InputError, match="must be one of chinchilla"):
        fit(measured(), "chincilla")
    with pytest.raises(InputError, match="fixed names 'gamma'"):
        fit(measured(), fixed={"gamma": 1.0})
    with pytest.raises(InputError, match="above 0"):
        fit(measured(), fixed={"alpha": -1.0})
    with pytest.raises(InputError, match="whose values differ"):
        fit(pd.DataFrame({"tokens": [1e6] * 4, "loss": [1.0] * 4}), "power")
