"""Each signal against its definition, by hand, and at its edges."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import norm

from workbench import audit
from workbench.audit import signals
from workbench.errors import InputError

LOGITS = np.log([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.25, 0.25, 0.5], [1 / 3, 1 / 3, 1 / 3]])
IDS = np.array([0, 1, 2, 0])


def test_token_log_probabilities_are_those_of_the_tokens():
    told = signals.token_log_probabilities(LOGITS + 7.0, IDS)  # a constant a row cancels
    assert told == pytest.approx(np.log([0.7, 0.1, 0.5, 1 / 3]))


@pytest.mark.parametrize(
    ("k", "tokens"), [(0.2, [0.1]), (0.5, [0.1, 1 / 3]), (0.74, [0.1, 1 / 3]), (1.0, None)]
)
def test_min_k_is_the_mean_of_the_lowest(k: float, tokens: list[float] | None):
    expected = np.mean(np.log(tokens or [0.7, 0.1, 0.5, 1 / 3]))
    assert audit.min_k(LOGITS, IDS, k=k) == pytest.approx(expected)


def test_a_share_of_tokens_is_not_lost_to_rounding():
    assert signals.lowest_mean(np.arange(100.0), k=0.29) == 14.0  # 29 of them, 0 to 28


def test_min_k_plus_plus_is_standardised_over_the_vocabulary():
    """By hand: μ = Σ p log p, σ² = Σ p (log p − μ)²; the last row is flat and counts 0."""
    standardised = []
    for p, token in zip(np.exp(LOGITS[:3]), IDS[:3], strict=True):
        mean = sum(x * math.log(x) for x in p)
        deviation = math.sqrt(sum(x * (math.log(x) - mean) ** 2 for x in p))
        standardised.append((math.log(p[token]) - mean) / deviation)
    expected = np.mean([*standardised, 0.0])
    assert audit.min_k_plus_plus(LOGITS, IDS, k=1.0) == pytest.approx(expected)


def test_a_token_of_no_probability_is_no_nan():
    logits = np.array([[0.0, -np.inf, 1.0]])
    assert math.isfinite(audit.min_k_plus_plus(logits, np.array([0]), k=1.0))
    assert audit.min_k_plus_plus(np.array([[0.0, -np.inf]]), np.array([0]), k=1.0) == 0.0


def test_ratios():
    assert audit.zlib_score(-30.0, compressed_bytes=60) == -0.5
    assert audit.recall_score(-12.0, -10.0) == 1.2
    with pytest.raises(InputError, match="below 0"):
        audit.recall_score(-1.0, 0.0)
    with pytest.raises(InputError, match="compressed_bytes"):
        audit.zlib_score(-1.0, compressed_bytes=0)


def test_the_errors_zone_counts_where_the_target_errs():
    target, reference = [-1.0, -2.0, -3.0, -4.0], [-2.0, -2.5, -2.0, 0.0]
    wrong = [True, True, True, False]  # gains 1 and 0.5, loss 1; the last would be a loss of 4
    assert audit.ez_score(target, reference, wrong) == 1.5
    assert audit.ez_score(target, reference, [True, True, False, False]) == math.inf
    assert audit.ez_score(target, reference, [False] * 4) == math.inf


def test_windows_are_compared_by_their_sums():
    gain = np.array([1.0, -2.0, 0.5, 0.5])
    target, reference = gain - 5, np.full(4, -5.0)
    of_two, of_three = np.mean([-1 > 0, -1.5 > 0, 1 > 0]), np.mean([-0.5 > 0, -1 > 0])
    told = audit.window_score(target, reference, windows=[2, 3, 9])
    assert told == pytest.approx((of_two + of_three) / 2)
    assert audit.window_score(target, reference, windows=[9]) == 0.0  # the text: its sum is 0
    assert audit.window_score(target[2:], reference[2:], windows=[9]) == 1.0


@settings(deadline=None)
@given(arrays(float, st.integers(1, 60), elements=st.floats(-5, 5, width=16)))
def test_windows_by_a_plain_loop(gain: np.ndarray):
    shares = []
    for n in [w for w in signals.WINDOWS if w <= len(gain)] or [len(gain)]:
        sums = [gain[i : i + n].sum() for i in range(len(gain) - n + 1)]
        shares.append(np.mean([s > 1e-9 for s in sums]))
    ambiguous = any(
        abs(gain[i : i + n].sum()) <= 1e-9
        for n in {*signals.WINDOWS, len(gain)}
        for i in range(len(gain) - n + 1)
    )
    if not ambiguous:
        assert audit.window_score(gain, np.zeros_like(gain)) == pytest.approx(np.mean(shares))


def test_lira():
    inside, outside = np.array([[1.0, 5.0], [3.0, 7.0]]), np.array([[0.0, 4.0], [4.0, 4.0]])
    phi = np.array([2.0, 4.0])
    online = audit.lira_online(phi, inside, outside)
    assert online[0] == pytest.approx(norm.logpdf(2, 2, 1) - norm.logpdf(2, 2, 2))
    assert online[1] == -math.inf  # it is just what models without it say, all of them
    assert audit.lira_log_density(phi, inside) == pytest.approx(
        [norm.logpdf(2, 2, 1), norm.logpdf(4, 6, 1)]
    )
    assert audit.lira_offline(phi, outside).tolist() == [0.0, 0.0]
    assert audit.lira_offline([6.0, 5.0], outside).tolist() == [2.0, math.inf]
    with pytest.raises(InputError, match="two models"):
        audit.lira_offline(1.0, [1.0])


def test_offline_lira_does_not_tie_far_out():
    """Φ(z) is 1.0 for every z above 8.3."""
    far = audit.lira_offline([9.0, 10.0], np.array([[-1.0, -1.0], [1.0, 1.0]]))
    assert norm.cdf(far[0]) == norm.cdf(far[1])
    assert far[0] < far[1]


def test_rmia_is_a_share_of_the_population():
    p_x, out_x = np.array([0.4, 0.1]), np.array([[0.1, 0.1], [0.3, 0.1]])
    p_z, out_z = np.array([0.2, 0.5, 0.1]), np.array([0.2, 0.2, 0.2])
    a, gamma = 0.5, 1.2
    of_x = p_x / (0.5 * (1.5 * np.array([0.2, 0.1]) + 0.5))
    of_z = p_z / (0.5 * (1.5 * 0.2 + 0.5))
    expected = [(x / of_z > gamma).mean() for x in of_x]
    told = audit.rmia(p_x, out_x, p_z, out_z, a=a, gamma=gamma)
    assert told == pytest.approx(expected)


@settings(deadline=None)
@given(arrays(float, 20, elements=st.floats(0.001, 1)), st.floats(0, 1), st.floats(0.5, 4))
def test_rmia_rises_with_the_reference_ratio_alone(p: np.ndarray, a: float, gamma: float):
    x, z = p[:10], p[10:]
    reference = np.full(10, 0.1)
    shares = audit.rmia(x, reference, z, reference, a=a, gamma=gamma)
    assert (np.diff(shares[np.argsort(x)]) >= 0).all()


def test_exposure_is_of_the_rank_among_all_candidates():
    others = np.arange(2.0, 65.0)  # with the canary 64 candidates
    assert audit.exposure(1.0, others) == 6.0
    assert audit.exposure(100.0, others) == 0.0
    assert audit.exposure(2.0, others) == 5.0  # behind the one that it ties with


@pytest.mark.parametrize(
    ("logits", "ids"),
    [
        (LOGITS, IDS[:3]),
        (LOGITS, np.array([0, 1, 2, 3])),
        (LOGITS, np.array([0, 1, 2, -1])),
        (LOGITS, np.array([0.0, 1.0, 2.0, 0.0])),
        (LOGITS[:0], IDS[:0]),
        (LOGITS[0], IDS[:1]),
    ],
)
def test_logits_and_ids_that_do_not_fit_are_refused(logits: np.ndarray, ids: np.ndarray):
    with pytest.raises(InputError):
        audit.min_k(logits, ids, k=0.2)


@pytest.mark.parametrize("k", [0.0, 1.1, math.nan])
def test_a_share_outside_is_refused(k: float):
    with pytest.raises(InputError, match="k is"):
        audit.min_k(LOGITS, IDS, k=k)


def test_sequences_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="reference"):
        audit.window_score([1.0, 2.0], [1.0])
    with pytest.raises(InputError, match="NaN"):
        audit.ez_score([math.nan], [0.0], [True])
    with pytest.raises(InputError, match="windows"):
        audit.window_score([1.0], [0.0], windows=[0])
