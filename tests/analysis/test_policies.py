"""Gains are paired by seed, with Student's interval, in the direction their column says."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from workbench.analysis.policies import article_gain, measured_policies, policy_gains

RUNS = pd.DataFrame(
    {
        "policy": ["constant", "both"] * 3,
        "learning_rate": [0.02, 0.01] * 3,
        "seed": [0, 0, 1, 1, 2, 2],
        "perplexity": [50.0, 45.0, 60.0, 57.0, 40.0, 38.0],
    }
)


def test_gain_is_the_mean_over_pairs_with_students_interval() -> None:
    gains = policy_gains(RUNS)
    pairs = np.array([10.0, 5.0, 5.0])
    interval = stats.t.interval(0.95, 2, loc=pairs.mean(), scale=stats.sem(pairs))
    assert list(gains.index) == ["constant", "both"]
    row = gains.loc["both"]
    assert row["learning_rate"] == 0.01
    assert row["gain"] == pytest.approx(pairs.mean())
    assert (row["low"], row["high"]) == pytest.approx(interval)
    assert gains.loc["constant", "gain"] == 0


def test_seeds_in_another_order_are_paired_all_the_same() -> None:
    shuffled = RUNS.sample(frac=1, random_state=0)
    expected = policy_gains(RUNS)
    pd.testing.assert_frame_equal(policy_gains(shuffled).loc[expected.index], expected)


def test_the_measured_runs_are_whole() -> None:
    """Each policy with each seed, all within their budget of 5, and none that tuned."""
    runs = measured_policies()
    assert runs.groupby("policy")["seed"].agg(set).tolist() == [{0, 1, 2}] * 4
    assert len(runs) == 12
    assert runs.groupby("policy")["learning_rate"].nunique().tolist() == [1] * 4
    assert runs["epsilon"].between(4.98, 5.0).all()


def test_the_articles_figure_is_read_from_its_data() -> None:
    assert article_gain() == 15.8
