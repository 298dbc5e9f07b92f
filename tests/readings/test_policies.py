"""Gains are paired by seed at each policy's best rate, with Student's interval."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from workbench.readings.policies import article_gain, by_rate, measured_policies, policy_gains

RUNS = pd.DataFrame(
    [
        (policy, rate, seed, perplexity)
        for policy, rate, perplexities in [
            ("constant", 0.01, [50.0, 60.0, 40.0]),
            ("constant", 0.02, [49.0, 70.0, 41.0]),
            ("both", 0.01, [44.0, 90.0, 39.0]),
            ("both", 0.02, [45.0, 57.0, 38.0]),
        ]
        for seed, perplexity in enumerate(perplexities)
    ],
    columns=["policy", "learning_rate", "seed", "perplexity"],
)


def test_gain_is_the_mean_over_pairs_at_the_best_rates_with_students_interval() -> None:
    gains = policy_gains(RUNS)
    pairs = np.array([10.0, 5.0, 5.0])
    interval = stats.t.interval(0.95, 2, loc=pairs.mean(), scale=stats.sem(pairs))
    assert list(gains.index) == ["constant", "both"]
    row = gains.loc["both"]
    assert row["learning_rate"] == 0.02
    assert row["gain"] == pytest.approx(pairs.mean())
    assert (row["low"], row["high"]) == pytest.approx(interval)
    assert gains.loc["constant", ["learning_rate", "gain"]].tolist() == [0.01, 0]


def test_the_best_rate_is_that_of_the_mean() -> None:
    means = by_rate(RUNS)
    assert means.loc["both"].tolist() == pytest.approx([173 / 3, 140 / 3])
    assert list(means.columns) == [0.01, 0.02]


def test_seeds_in_another_order_are_paired_all_the_same() -> None:
    shuffled = RUNS.sample(frac=1, random_state=0)
    expected = policy_gains(RUNS)
    pd.testing.assert_frame_equal(policy_gains(shuffled).loc[expected.index], expected)


def test_the_measured_runs_are_whole() -> None:
    """Each policy at each rate with each seed, all within their budget of 5."""
    runs = measured_policies()
    assert runs.groupby(["policy", "learning_rate"])["seed"].nunique().tolist() == [3] * 12
    assert len(runs) == 36
    assert runs["epsilon"].between(4.98, 5.0).all()


def test_the_articles_figure_is_read_from_its_data() -> None:
    assert article_gain() == 15.8
