"""Who is most exposed, where in the record, and how much less another model gives away."""

import numpy as np
import pytest

from workbench.analysis.exposure import lower_risk, most_exposed, shares_below, token_gains
from workbench.audit.per_token import TokenScores
from workbench.errors import InputError

N = 400
MEMBER = np.arange(2 * N) < N


def shifted(shift: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=2 * N) + shift * MEMBER


def told(log_p: list[float], offsets: list[int]) -> TokenScores:
    values = np.array(log_p)
    many = np.zeros(len(values))
    return TokenScores(np.array(offsets), many.astype(int), values, many, many, many.astype(bool))


def test_the_share_below_counts_ties_half():
    shares = shares_below(np.array([2.0, 1.0, 1.0, 3.0]), np.array([True, True, False, False]))
    assert shares[:2].tolist() == [0.5, 0.25]


def test_only_members_are_listed_the_highest_score_first():
    scores = np.array([5.0, 9.0, 7.0, np.nan])
    member = np.array([True, False, True, True])
    frame = most_exposed({"a": scores, "b": -scores}, member, list("wxyz"), by="a", count=5)
    assert frame["text"].tolist() == ["y", "w"]
    assert frame["b: score"].tolist() == [-7.0, -5.0]


def test_gains_are_of_the_records_own_tokens():
    own, other = told([-1, -2, -3], [0, 1, 3]), told([-2, -2, -2], [0, 1, 3])
    assert token_gains(own, other, 1).tolist() == [0.0, -1.0]
    with pytest.raises(InputError, match="other tokens"):
        token_gains(own, told([-2, -2, -2], [0, 2, 3]), 1)


def test_the_same_model_is_no_lower_risk():
    for risk in lower_risk(shifted(1.5), shifted(1.5), MEMBER):
        assert risk.reduction == risk.low == risk.high == 0


def test_a_model_that_tells_nothing_has_all_of_the_risk_taken_away():
    advantage = lower_risk(shifted(1.5), shifted(0.0, seed=1), MEMBER)[0]
    assert advantage.first == pytest.approx(0.71, abs=0.05)  # 2Φ(1.5/√2) − 1
    assert advantage.low < 1 < advantage.high
    assert advantage.reduction == pytest.approx(1, abs=0.15)


def test_where_nothing_was_to_be_lowered_no_percentage_is_made_up():
    for risk in lower_risk(shifted(0.0), shifted(0.0, seed=1), MEMBER):
        assert np.isnan(risk.reduction)


def test_the_rate_follows_the_step_rule():
    from workbench.audit import roc

    scores = shifted(1.0)
    curve = roc(scores[MEMBER], scores[~MEMBER])
    place = curve.at(0.1)
    rate = lower_risk(scores, scores, MEMBER, draws=2)[1]
    assert rate.first == pytest.approx(curve.tpr[place] - curve.fpr[place])
