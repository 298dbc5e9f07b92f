"""The semi-parametric law: order, interpolation, continuation, and how sure they are."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from workbench.errors import InputError
from workbench.scaling import fit
from workbench.scaling.isotonic import monotone


def truth(size, steps, noise):
    h = 3 * (size / 1e5) ** -0.3 + 2.5 * (steps / 100) ** -0.5
    h = h + (noise / 2**-9 * (size / 1e5) ** 0.25 * (steps / 100) ** -0.3) ** 0.9
    return 1.5 + 3.1 * h / (1 + h)


def points(seed: int = 0, *, rates: int = 1, scatter: float = 0.01) -> pd.DataFrame:
    rng, rows, run = np.random.default_rng(seed), [], 0
    for size in (27e3, 85e3, 289e3):
        for noise in (0, *np.exp2(np.arange(-11.0, -4))):
            for rate in range(rates):
                moved, run = rng.normal(0, scatter), run + 1
                untuned = 1 + 0.05 * (rate - rates // 2) ** 2
                for steps in range(25, 601, 25):
                    loss = truth(size, steps, noise) * untuned * np.exp(moved)
                    rows.append((size, steps, noise, 10.0 ** (rate / 2 - 2), run, loss))
    names = ["n_params", "steps", "noise_batch_ratio", "learning_rate", "run", "loss"]
    return pd.DataFrame(rows, columns=names)


def between(seed: int, count: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "n_params": np.exp(rng.uniform(np.log(27e3), np.log(289e3), count)),
            "steps": np.exp(rng.uniform(np.log(50), np.log(600), count)),
            "noise_batch_ratio": np.exp2(rng.uniform(-11, -5, count)),
        }
    )


def true_at(frame: pd.DataFrame) -> np.ndarray:
    return truth(*(frame[name].to_numpy() for name in ("n_params", "steps", "noise_batch_ratio")))


@settings(max_examples=30)
@given(arrays(float, (4, 5), elements=st.floats(0, 5)))
def test_tables_are_put_in_the_nearest_order(table: np.ndarray):
    ordered = monotone(table, np.ones_like(table))
    assert (np.diff(ordered, axis=0) >= -1e-4).all()
    assert (np.diff(ordered, axis=1) <= 1e-4).all()
    # What is in order already stays, and the mean stays whatever it was.
    np.testing.assert_allclose(monotone(ordered, np.ones_like(table)), ordered, atol=1e-3)
    assert ordered.mean() == pytest.approx(table.mean(), abs=1e-3)


def test_what_was_not_measured_is_found_between_and_beyond():
    fitted = fit(points(scatter=1e-4), "noise_batch")
    inside = between(1)
    np.testing.assert_allclose(fitted.predict(inside), true_at(inside), rtol=0.01)
    later = inside.assign(steps=1500.0)
    np.testing.assert_allclose(fitted.predict(later), true_at(later), rtol=0.02)
    assert fitted.status == ""


def test_more_steps_never_hurt_and_more_noise_never_helps():
    fitted = fit(points(scatter=0.03), "noise_batch")
    frame = between(2)
    more = frame.assign(steps=frame["steps"] * 1.5)
    louder = frame.assign(noise_batch_ratio=frame["noise_batch_ratio"] * 1.5)
    assert (fitted.predict(more) <= fitted.predict(frame) + 1e-3).all()
    assert (fitted.predict(louder) >= fitted.predict(frame) - 1e-3).all()


def test_the_best_rate_counts_and_its_place_is_told():
    fitted = fit(points(rates=3, scatter=1e-4), "noise_batch")
    settings_ = fitted.settings  # type: ignore[attr-defined]
    assert (settings_["learning_rate"] == 10**-1.5).all()
    assert not settings_["rate_at_edge"].any()
    inside = between(1)
    np.testing.assert_allclose(fitted.predict(inside), true_at(inside), rtol=0.01)


def test_a_given_end_is_kept():
    fitted = fit(points(), "noise_batch", fixed={"E": 1.5})
    assert fitted.params["E"] == 1.5
    assert (fitted.settings["E"] == 1.5).all()  # type: ignore[attr-defined]


@pytest.mark.slow
def test_bands_and_intervals_cover():
    """Of 15 replicates × 60 places, which share their runs; the share is good to about 0.04."""
    covered = []
    for seed in range(15):
        fitted, frame = fit(points(seed), "noise_batch"), between(seed + 50)
        true = true_at(frame)
        fresh = true * np.exp(np.random.default_rng(seed).normal(0, 0.01, len(true)))
        band, interval = fitted.band(frame), fitted.predict_interval(frame)
        covered.append(
            [
                np.mean((band[:, 0] <= true) & (true <= band[:, 1])),
                np.mean((interval[:, 0] <= fresh) & (fresh <= interval[:, 1])),
            ]
        )
    np.testing.assert_allclose(np.mean(covered, axis=0), 0.95, atol=0.045)


def test_what_cannot_be_put_in_order_is_refused():
    with pytest.raises(InputError, match="n_params is 27000 in every row"):
        fit(points().query("n_params == 27e3"), "noise_batch")
    ends = points().query("steps == 600").assign(steps=[500, 600] * 12)
    with pytest.raises(InputError, match="No run has losses at several steps"):
        fit(ends, "noise_batch")
    with pytest.raises(InputError, match="fixed names 'beta'"):
        fit(points(), "noise_batch", fixed={"beta": 1.0})
