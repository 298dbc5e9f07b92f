"""ROC curves against their definition, another library, and resampling record by record."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import beta

from workbench.audit import roc
from workbench.audit.curves import binomial_limits
from workbench.errors import InputError

# Few distinct values, so that ties within and across the two sides are common.
SCORES = arrays(float, st.integers(1, 30), elements=st.sampled_from([-2.0, -1.0, 0.0, 0.5, 3.0]))


def test_ties_count_half_and_a_tie_is_one_step():
    # references: convex hulls give 13/16 here, and taking the first row of each tie gives .222.
    curve = roc([3, 2, 2], [2, 1, 0])
    assert curve.auc == pytest.approx(8 / 9)
    assert curve.fpr.tolist() == [0, 0, 1 / 3, 2 / 3, 1]
    assert curve.tpr.tolist() == [0, 1 / 3, 1, 1, 1]
    assert curve.thresholds.tolist() == [math.inf, 3, 2, 1, 0]


@given(SCORES, SCORES)
def test_the_curve_is_its_definition(members: np.ndarray, nonmembers: np.ndarray):
    curve = roc(members, nonmembers)
    for threshold, fpr, tpr in zip(curve.thresholds, curve.fpr, curve.tpr, strict=True):
        assert fpr == np.mean(nonmembers >= threshold)
        assert tpr == np.mean(members >= threshold)
    pairs = members[:, None] - nonmembers[None, :]
    assert curve.auc == pytest.approx(np.mean((pairs > 0) + (pairs == 0) / 2))


@given(SCORES, SCORES, st.floats(0, 1))
def test_tpr_at_is_the_step_at_the_largest_rate_within(
    members: np.ndarray, nonmembers: np.ndarray, fpr: float
):
    curve = roc(members, nonmembers)
    allowed = fpr + 2e-9  # what a rate may have lost by rounding, far below one record
    within = [t for f, t in zip(curve.fpr, curve.tpr, strict=True) if f <= allowed]
    assert curve.tpr_at(fpr) == max(within)


@pytest.mark.parametrize(("allowed", "of"), [(29, 100), (3, 30), (57, 100), (7, 1000)])
def test_a_rate_means_as_many_records_as_it_says(allowed: int, of: int):
    assert math.floor(0.29 * 100) == 28  # what floats alone would make of it
    curve = roc(np.arange(of) + 0.5, np.arange(of))
    assert curve.false_positives[curve.at(allowed / of)] == allowed


@given(SCORES, SCORES)
def test_a_monotone_map_changes_nothing(members: np.ndarray, nonmembers: np.ndarray):
    one, other = roc(members, nonmembers), roc(np.exp(members) * 7, np.exp(nonmembers) * 7)
    assert (one.auc, one.auc_error) == (other.auc, other.auc_error)
    assert one.tpr.tolist() == other.tpr.tolist()


@given(SCORES, SCORES)
def test_the_other_direction_is_the_mirrored_curve(members: np.ndarray, nonmembers: np.ndarray):
    assert roc(members, nonmembers).auc == pytest.approx(1 - roc(-members, -nonmembers).auc)


@given(SCORES, SCORES)
def test_the_curve_lies_in_its_band(members: np.ndarray, nonmembers: np.ndarray):
    curve = roc(members, nonmembers)
    low, high = curve.band(0.9)
    assert (low <= curve.tpr).all()
    assert (curve.tpr <= high).all()
    inside, outside = curve.auc_interval()
    assert 0 <= inside <= curve.auc <= outside <= 1


def test_delongs_error_is_that_of_the_structural_components():
    """Against the definition, a double loop over pairs (DeLong et al. 1988)."""
    rng = np.random.default_rng(0)
    members, nonmembers = np.round(rng.normal(1, 1, 40), 1), np.round(rng.normal(0, 1, 25), 1)
    wins = (members[:, None] > nonmembers) + (members[:, None] == nonmembers) / 2
    expected = wins.mean(1).var(ddof=1) / 40 + wins.mean(0).var(ddof=1) / 25
    assert roc(members, nonmembers).auc_error == pytest.approx(math.sqrt(expected), rel=1e-12)


def test_delongs_interval_covers_the_truth():
    """AUC of N(1, 1) against N(0, 1) is Φ(1/√2); of 600 intervals 95 % ± 2.7 % (3 s.d.) cover."""
    rng, truth = np.random.default_rng(1), 0.7602499389065233
    covered = 0
    for _ in range(600):
        low, high = roc(rng.normal(1, 1, 80), rng.normal(0, 1, 60)).auc_interval()
        covered += low <= truth <= high
    assert covered / 600 == pytest.approx(0.95, abs=0.027)


def test_perfect_separation_is_not_certainty():
    assert roc([2, 3, 4], [0, 1]).auc_error == 0
    assert roc([2, 3, 4], [0, 1]).auc_interval() == (pytest.approx(0.025**0.5), 1.0)
    assert roc([0, 1], [2, 3, 4]).auc_interval() == (0.0, pytest.approx(1 - 0.025**0.5))


def test_binomial_limits_are_clopper_and_pearsons():
    low, high = binomial_limits([0, 3, 10], 10, confidence=0.9)
    assert low == pytest.approx([0, beta.ppf(0.05, 3, 8), beta.ppf(0.05, 10, 1)], rel=1e-12)
    assert high == pytest.approx([beta.ppf(0.95, 1, 10), beta.ppf(0.95, 4, 7), 1], rel=1e-12)


def test_the_band_of_many_records_is_that_of_each():
    rng = np.random.default_rng(2)
    curve = roc(rng.normal(1, 1, 20_000), rng.normal(0, 1, 20_000))
    low, high = curve.band()
    some = rng.integers(0, len(low), 200)
    exact = binomial_limits(curve.true_positives[some], 20_000, confidence=0.95)
    np.testing.assert_allclose([low[some], high[some]], exact, atol=2e-6)


@pytest.mark.parametrize("decimals", [9, 0], ids=["distinct", "tied"])
def test_bootstrap_bands_are_those_of_drawing_records(decimals: int):
    rng = np.random.default_rng(3)
    members = np.round(rng.normal(1, 1, 60), decimals)
    nonmembers = np.round(rng.normal(0, 1, 50), decimals)
    rates = np.array([0.02, 0.1, 0.5, 1.0])
    low, high = roc(members, nonmembers).bootstrap_band(rates, draws=4000, seed=1)
    drawn = []
    for _ in range(4000):
        curve = roc(rng.choice(members, 60), rng.choice(nonmembers, 50))
        drawn.append([curve.tpr_at(rate) for rate in rates])
    # Quantiles of 4,000 draws scatter by about a hundredth, a record is 0.017.
    np.testing.assert_allclose([low, high], np.quantile(drawn, [0.025, 0.975], axis=0), atol=0.035)


def test_too_few_nonmembers_do_not_resolve_a_rate():
    curve = roc(np.arange(50.0), np.arange(50.0))
    assert curve.resolves(0.02)
    assert not curve.resolves(0.019)


@pytest.mark.parametrize(
    ("members", "nonmembers", "words"),
    [
        ([], [1.0], "member_scores has shape"),
        ([1.0], [], "nonmember_scores has shape"),
        ([1.0, math.nan], [1.0], "NaN for 1 of 2"),
        ([[1.0]], [1.0], "member_scores has shape"),
        (["a"], [1.0], "no number"),
    ],
)
def test_what_is_no_score_is_refused(members: list, nonmembers: list, words: str):
    with pytest.raises(InputError, match=words):
        roc(members, nonmembers)


@pytest.mark.parametrize("fpr", [-0.1, 1.1, math.nan])
def test_a_rate_outside_is_refused(fpr: float):
    with pytest.raises(InputError, match="must lie in"):
        roc([1.0], [0.0]).tpr_at(fpr)


def test_constant_scores_tell_nothing():
    curve = roc(np.ones(5), np.ones(7))
    assert (curve.auc, curve.tpr_at(0.5)) == (0.5, 0.0)


def test_infinite_scores_are_ordered():
    curve = roc([math.inf, 1.0], [-math.inf, 1.0])
    assert curve.auc == 0.875
