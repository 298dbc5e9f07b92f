"""A threshold's counts against counting one by one, and what a thinned curve keeps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.analysis.thresholds import CELLS, Ranking, drawn_corners
from workbench.audit import roc
from workbench.errors import InputError

SCORES = st.lists(st.integers(-5, 5), min_size=2, max_size=40)


@given(SCORES, st.integers(-6, 6), st.data())
def test_counts_are_those_of_counting_one_by_one(
    values: list[int], threshold: int, data: st.DataObject
):
    scores = np.array(values, float)
    member = np.array(
        data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)))
    )
    member[:2] = [True, False]
    outcome = Ranking(scores, member).at(threshold)
    called = scores >= threshold
    assert outcome.true_positives == (called & member).sum()
    assert outcome.false_positives == (called & ~member).sum()
    assert outcome.false_negatives == (~called & member).sum()
    assert outcome.true_negatives == (~called & ~member).sum()
    assert outcome.tpr_low <= outcome.tpr <= outcome.tpr_high
    assert outcome.resolved == (outcome.fpr > 0)


@given(SCORES, st.integers(-6, 6))
def test_the_nearest_records_of_a_cell_belong_there_and_none_is_nearer(
    values: list[int], threshold: int
):
    scores, member = np.array(values, float), np.arange(len(values)) % 2 == 0
    nearest = Ranking(scores, member).nearest(threshold, 2)
    assert tuple(nearest) == CELLS
    for cell, records in nearest.items():
        called, true = cell.endswith("positives"), cell.startswith("true")
        inside = ((scores >= threshold) == called) & (member == (called == true))
        assert inside[records].all()
        assert len(records) == min(2, inside.sum())
        gaps = np.sort(np.abs(scores[inside] - threshold))
        assert np.array_equal(np.sort(np.abs(scores[records] - threshold)), gaps[: len(records)])


def test_records_without_a_score_are_left_out():
    ranking = Ranking(np.array([1.0, np.nan, 0.0, np.nan]), np.array([True, True, False, False]))
    outcome = ranking.at(0.5)
    assert (outcome.true_positives, outcome.false_negatives) == (1, 0)
    assert (outcome.false_positives, outcome.true_negatives) == (0, 1)


def test_a_side_without_any_score_is_refused():
    with pytest.raises(InputError, match="One side has no score"):
        Ranking(np.array([1.0, np.nan]), np.array([True, False]))


def test_the_threshold_of_a_rate_achieves_no_more_than_it():
    rng = np.random.default_rng(0)
    scores, member = rng.normal(size=500), np.arange(500) < 250
    ranking = Ranking(scores, member)
    for rate in (0.0, 0.01, 0.1, 0.5):
        outcome = ranking.at(ranking.threshold_at(rate))
        assert outcome.fpr <= rate
        assert outcome.tpr == ranking.curve.tpr_at(rate)


def test_a_slider_reaches_every_finite_score():
    ranking = Ranking(np.array([-1.0, np.inf, 3.0, 0.0]), np.array([True, True, False, False]))
    low, high = ranking.span
    assert low < -1 < 3 < high
    assert np.isfinite([low, high]).all()


def test_what_is_drawn_of_a_long_curve_strays_by_less_than_a_pixel():
    rng = np.random.default_rng(1)
    curve = roc(rng.normal(0.5, 1, 10_000), rng.normal(0, 1, 10_000))
    corners = drawn_corners(curve)
    assert len(corners) <= 3000
    assert corners[0] == 0
    assert corners[-1] == len(curve.fpr) - 1
    # The steps between drawn corners stay as high as a pixel of 400.
    at = np.searchsorted(corners, np.arange(len(curve.fpr)), side="right") - 1
    strayed = curve.tpr - curve.tpr[corners[at]]
    assert strayed.max() < 1 / 400
    # The lowest false positive rates, which a logarithmic axis spreads, are all there.
    assert set(range(20)) <= set(curve.false_positives[corners].tolist())


def test_a_short_curve_is_drawn_whole():
    curve = roc([3.0, 2.0], [1.0, 0.0])
    assert len(drawn_corners(curve)) == len(curve.fpr)
