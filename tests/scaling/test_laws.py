"""Every law recovers what was planted, with right derivatives, and says what it cannot know."""

import math

import numpy as np
import pandas as pd
import pytest

from workbench.errors import InputError
from workbench.scaling import compare, fit, influence, isoflop_minima, sensitivity
from workbench.scaling.law import Law, taken
from workbench.scaling.private_law import PrivateLaw
from workbench.scaling.repeated_data import RepeatedDataLaw

REPEATED = {"A": 521, "B": 1488, "E": 1.87, "alpha": 0.353, "beta": 0.36, "R_D": 15.4, "R_N": 5.3}
PRIVATE = {
    "E": 1.6, "a": 8.0, "b": 60.0, "c": 90.0, "alpha": 0.3, "beta": 0.35, "gamma": 0.9,
    "omega": 0.25, "tau": 0.3, "d": 0.05, "kappa": 0.3, "lambda": 0.3,
    "k": 0.05, "c0": -1.0, "c1": -0.2, "c2": -0.1, "s": 2e-3,
}  # fmt: skip


def repeated_points(count: int = 80) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "n_params": np.exp(rng.uniform(16, 23, count)),
            "unique_tokens": np.exp(rng.uniform(18, 24, count)),
        }
    )
    frame["tokens"] = frame["unique_tokens"] * np.exp(rng.uniform(0, 4, count))
    return frame


def private_points(count: int = 120, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "n_params": np.exp(rng.uniform(10, 14, count)),
            "steps": np.round(np.exp(rng.uniform(3, 7, count))),
            "noise_batch_ratio": rng.choice([0, *np.exp2(np.arange(-12.0, -5))], count),
            "unigram_loss": 5.4,
        }
    )
    frame["tokens"] = frame["steps"] * rng.choice([64.0, 256.0, 1024.0], count) * 64
    return frame


def planted(law: Law, values: dict[str, float], frame: pd.DataFrame) -> pd.DataFrame:
    theta = law.theta(np.array([[values[name] for name in law.parameters]]))
    return frame.assign(loss=np.exp(law.log_loss(theta, law.covariates(frame))[0]))


def wholly_private(count: int = 120) -> pd.DataFrame:
    rng, frame = np.random.default_rng(3), private_points(count)
    frame["unique_tokens"] = np.exp(rng.uniform(12, 16, count))
    frame["learning_rate"] = np.exp(rng.uniform(-6, -2, count))
    frame["expected_batch_size"] = 128.0
    return frame


@pytest.mark.parametrize(
    ("law", "values", "frame"),
    [
        (RepeatedDataLaw(), REPEATED, repeated_points()),
        (PrivateLaw.of(wholly_private()), PRIVATE, wholly_private()),
    ],
)
def test_derivatives_are_those_of_the_law(law: Law, values: dict, frame: pd.DataFrame):
    theta = law.theta(np.array([[values[name] for name in law.parameters]]))
    x = law.covariates(frame)
    slopes = law.log_loss_and_slopes(theta, x)[1][0]
    for index in range(theta.shape[1]):
        step = np.zeros_like(theta)
        step[0, index] = 1e-6
        numeric = (law.log_loss(theta + step, x) - law.log_loss(theta - step, x))[0] / 2e-6
        np.testing.assert_allclose(slopes[:, index], numeric, atol=1e-7, err_msg=str(index))


@pytest.mark.parametrize("law", [RepeatedDataLaw(), PrivateLaw(True, True, True)])
def test_centring_changes_nothing(law: Law):
    frame = wholly_private() if law.name == "private" else repeated_points()
    x, theta = law.covariates(frame), np.full((1, len(law.parameters)), -0.7)
    means = law.centre(x)
    np.testing.assert_allclose(
        law.log_loss(law.uncentred(theta, means), x), law.log_loss(theta, x - means), rtol=1e-12
    )


def test_planted_repetitions_are_recovered():
    """Muennighoff et al. 2023 (arXiv 2305.16264): parameters of the size that they publish."""
    frame = planted(RepeatedDataLaw(), REPEATED, repeated_points())
    assert fit(frame, "repeated_data").params == pytest.approx(REPEATED, rel=1e-3)


@pytest.mark.parametrize("whole", [False, True])
def test_a_planted_private_law_is_recovered(whole: bool):
    frame = wholly_private() if whole else private_points()
    law = PrivateLaw.of(frame)
    wanted = {name: PRIVATE[name] for name in law.parameters}
    assert fit(planted(law, wanted, frame), "private").params == pytest.approx(wanted, rel=1e-2)


def test_the_private_law_is_bounded_by_counting_tokens():
    law = PrivateLaw()
    frame = private_points().assign(noise_batch_ratio=1e3)
    loss = planted(law, PRIVATE, frame)["loss"]
    assert np.all(loss < 5.4)
    assert np.all(loss > 5.3)


def test_an_untuned_run_tells_as_much_as_a_tuned_one():
    """Rates away from the best do not move the law that is fitted with them inside."""
    frame = wholly_private()
    law = PrivateLaw.of(frame)
    fitted = fit(planted(law, PRIVATE, frame), "private")
    best = fitted.best_learning_rate(frame)  # type: ignore[attr-defined]
    tuned = fitted.predict(frame.drop(columns="learning_rate"))
    np.testing.assert_allclose(tuned, fitted.predict(frame.assign(learning_rate=best)), rtol=1e-9)
    assert (tuned <= fitted.predict(frame) + 1e-12).all()


def test_noise_alone_is_a_law_that_takes_no_noise():
    frame = pd.DataFrame({"noise_batch_ratio": [0.0, *np.exp2(np.arange(-12.0, -3))]})
    frame["loss"] = 2 + 3 * frame["noise_batch_ratio"] ** 0.4
    fitted = fit(frame, "noise_power")
    assert fitted.params == pytest.approx({"A": 3, "E": 2, "gamma": 0.4}, rel=1e-4)


def test_runs_of_one_epsilon_are_refused():
    """At one ε, σ̄ follows from the steps: σ̄ ∝ √T/N."""
    frame = private_points()
    frame["noise_batch_ratio"] = 1e-4 * np.sqrt(frame["steps"])
    fitted = fit(planted(PrivateLaw(), PRIVATE, frame), "private")
    assert fitted.reason == "noise_follows_steps"
    assert "runs of one ε" in fitted.status


def test_bits_among_nats_are_noticed():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"tokens": np.geomspace(1e6, 1e9, 30)})
    frame["loss"] = (1.5 + 40 * frame["tokens"] ** -0.2) * np.exp(rng.normal(0, 0.005, 30))
    frame.loc[::4, "loss"] /= math.log(2)
    fitted = fit(frame, "power_floor")
    assert fitted.reason == "units_mixed"
    assert "bits among nats" in fitted.status


def test_given_parameters_are_kept_by_every_law():
    frame = planted(RepeatedDataLaw(), REPEATED, repeated_points())
    assert fit(frame, "repeated_data", fixed={"R_N": 5.3}).params["R_N"] == 5.3
    frame = planted(PrivateLaw(), PRIVATE, private_points())
    fitted = fit(frame, "private", fixed={"tau": 0.3, "alpha": 0.3})
    assert fitted.params["tau"] == 0.3
    assert fitted.params["gamma"] == pytest.approx(0.9, rel=1e-2)
    given = fit(isoflop_points(0), "isoflop", fixed={"a": 0.5})
    assert given.params["a"] == 0.5
    assert given.intervals["a"] == (0.5, 0.5)


def isoflop_points(seed: int, scatter: float = 0.003) -> pd.DataFrame:
    rng, rows = np.random.default_rng(seed), []
    for compute in np.geomspace(1e17, 1e21, 7):
        for off in np.linspace(-1.6, 1.6, 9):
            loss = 2 + 100 * compute**-0.09 + 0.05 * off**2 + 0.004 * off**3
            size = 0.6 * compute**0.46 * math.exp(off)
            rows.append((size, compute, loss + rng.normal(0, scatter)))
    return pd.DataFrame(rows, columns=["n_params", "compute", "loss"])


@pytest.mark.parametrize("law", ["isoflop", "isoflop_akima"])
def test_the_planted_exponent_of_isoflop_minima_is_covered(law: str):
    """Of 60 replicates 95 % cover; three standard deviations of that share are 0.085."""
    covered = 0
    for seed in range(60):
        low, high = fit(isoflop_points(seed), law).intervals["a"]
        covered += low <= 0.46 <= high
    assert covered / 60 > 0.95 - 0.085


def test_a_curve_without_a_minimum_inside_is_refused():
    frame = isoflop_points(0)
    frame = taken(frame, np.asarray((frame["compute"] < 5e20) | (frame["n_params"] < 2e9)))
    fitted = fit(frame, "isoflop")
    assert fitted.reason == "no_interior_minimum"
    assert isoflop_minima(frame)["why"].iloc[-1].startswith("There is no interior minimum")
    small = 0.55 * frame["compute"] ** 0.46
    with pytest.raises(InputError, match="interior minimum"):
        fit(taken(frame, np.asarray(frame["n_params"] < small)), "isoflop")


def test_far_predictions_are_refused_in_words():
    frame = pd.DataFrame({"tokens": np.geomspace(1e6, 1e9, 12)})
    frame["loss"] = 1.5 + 40 * frame["tokens"] ** -0.2
    fitted = fit(frame, "power_floor")
    near, far = pd.DataFrame({"tokens": [3e9]}), pd.DataFrame({"tokens": [1e12]})
    assert fitted.refusal_at(near) == ""
    assert fitted.outside(near) == pytest.approx(3)
    assert "1e+03 times beyond" in fitted.refusal_at(far)


def chinchilla_points(scatter: float = 0.005) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"n_params": np.exp(rng.uniform(17, 23, 60)), "tokens": np.exp(rng.uniform(20, 26, 60))}
    )
    clean = 1.8 + 480 / frame["n_params"] ** 0.35 + 2000 / frame["tokens"] ** 0.37
    return frame.assign(loss=clean * np.exp(rng.normal(0, scatter, 60)))


def test_the_planted_law_is_the_one_preferred():
    frame = chinchilla_points(0.002)
    # One exponent for both is no longer enough where they differ so much.
    clean = 1.8 + 60 / frame["n_params"] ** 0.24 + 40_000 / frame["tokens"] ** 0.52
    frame["loss"] *= clean / (
        1.8 + 480 / frame["n_params"] ** 0.35 + 2000 / frame["tokens"] ** 0.37
    )
    told = compare(frame, ("power_floor", "chinchilla", "overtraining"), cut=1e20)
    assert told["law"].iloc[0] == "chinchilla"
    assert told["heldout_error"].iloc[0] < 0.02
    assert told["heldout_points"].iloc[0] > 5
    with pytest.raises(InputError, match="cut is 1 but compute runs from"):
        compare(chinchilla_points(), cut=1.0)


def test_a_point_that_was_moved_pulls_most():
    frame = chinchilla_points()
    at = int(np.argmax(frame["tokens"]))
    frame.loc[at, "loss"] *= 1.1
    told = influence(frame)
    assert abs(told["residual"].iloc[at]) > 0.05
    assert len(told) == 60
    exact = influence(frame.drop(index=at))
    assert list(exact.columns) == ["residual", "A", "B", "E", "alpha", "beta", "most"]


def test_leaving_a_point_out_is_what_influence_says():
    frame = chinchilla_points()
    told, whole = influence(frame), fit(frame)
    without = fit(frame.drop(index=5))
    spread = np.sqrt(np.diagonal(whole.spread))  # type: ignore[attr-defined]
    moved = math.log(without.params["alpha"] / whole.params["alpha"]) / spread[3]
    assert told["alpha"].iloc[5] == pytest.approx(moved, abs=0.02)


def test_the_sensitivity_strip_tells_what_choices_do():
    frame = chinchilla_points()
    frame["n_params_non_embedding"] = frame["n_params"] * 0.8
    at = frame.iloc[[0]]
    told = sensitivity(frame, at=at).set_index("variant")
    fitted = fit(frame)
    assert told.loc["Huber, δ = 0.001", "alpha"] == pytest.approx(fitted.params["alpha"])
    assert told.loc["Huber, δ = 0.001", "prediction"] == pytest.approx(fitted.predict(at)[0])
    squares = told.loc["squares"]
    assert squares["alpha"] != pytest.approx(fitted.params["alpha"], rel=1e-4)
    # A count that is smaller by a factor changes the coefficient alone.
    counted = told.loc["without embeddings"]
    assert counted["alpha"] == pytest.approx(fitted.params["alpha"], rel=1e-3)
    wanted = fitted.params["A"] * 0.8 ** fitted.params["alpha"]
    assert counted["A"] == pytest.approx(wanted, rel=1e-2)
    assert told.loc["E = 0", "alpha"] < 0.5 * fitted.params["alpha"]
