"""Means over seeds, and what the noise leaves of Adam's rate."""

import math

import pandas as pd
import pytest

from workbench.analysis.default_run import CORRECTED, arms
from workbench.analysis.measured import measured_runs

COLUMNS = ["arm", "learning_rate", "seed", "perplexity", "epsilon", "noise_to_signal"]
RUNS = pd.DataFrame(
    [
        ("private", 0.02, 0, 40.0, 5.0601, 3.0),
        ("private", 0.02, 1, 44.0, 5.0401, 3.0),
        ("twin", 0.01, 0, 30.0, math.inf, 0.0),
        (CORRECTED, 0.02, 0, 60.0, 5.06, 3.0),
    ],
    columns=COLUMNS,
)


def test_arms_are_means_over_seeds() -> None:
    table = arms(RUNS)
    assert list(table.index) == ["private", "twin", CORRECTED]
    private = table.loc["private"].to_dict()
    assert private["perplexity"] == 42
    assert private["± s.d."] == pytest.approx(8**0.5)
    assert private["ε"] == pytest.approx(5.061)  # of the dearest seed, rounded up


def test_noise_takes_of_the_rate_what_it_has_of_the_second_moment() -> None:
    rates = arms(RUNS)["rate along the signal"].to_dict()
    assert rates["private"] == pytest.approx(0.02 / 10**0.5)
    assert rates["twin"] == 0.01
    assert math.isnan(rates[CORRECTED])  # nothing of it is noise


def test_the_measured_runs_are_whole() -> None:
    """Five seeds an arm, and the default configuration's ε on every private one."""
    runs = measured_runs("default_run").to_dict("records")
    measured = {run["arm"]: [other for other in runs if other["arm"] == run["arm"]] for run in runs}
    assert len(measured) == 5  # none that tuned
    for arm, of_arm in measured.items():
        assert [run["seed"] for run in of_arm] == [0, 1, 2, 3, 4]
        least, most = {"private, σ = 2": (0.9, 1.1)}.get(arm, (5.0, 5.1))
        for run in of_arm:
            twin = arm.startswith("twin")
            assert run["epsilon"] == math.inf if twin else least < run["epsilon"] < most
