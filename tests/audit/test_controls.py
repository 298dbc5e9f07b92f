"""Controls: what a split without any model tells, and what chance does."""

from typing import Any

import numpy as np
import pytest

from workbench.audit.article import article_numbers
from workbench.audit.controls import blind_baseline, shuffled
from workbench.audit.curves import roc
from workbench.audit.learned import cross_fitted
from workbench.audit.measures import SignalResult, measured
from workbench.audit.verdict import verdict
from workbench.errors import InputError

TERMS: dict[str, Any] = {"delta": 1e-5, "significance": 0.05}
N = 300
MEMBER = np.arange(N) % 2 == 0


def bags(shift: int) -> list[str]:
    """Texts whose members use words that begin ``shift`` further."""
    rng = np.random.default_rng(0)
    return [" ".join(f"w{w + shift * m}" for w in rng.integers(0, 60, 20)) for m in MEMBER]


def result(auc_shift: float, seed: int = 0, name: str = "loss") -> SignalResult:
    scores = np.random.default_rng(seed).normal(auc_shift * MEMBER)
    return measured(name, scores, MEMBER, **TERMS)


def test_a_split_by_topic_is_seen_without_a_model_and_a_random_one_is_not():
    group = np.arange(N)
    assert blind_baseline(bags(20), MEMBER, group).auc > 0.9
    fair = blind_baseline(bags(0), MEMBER, group)
    assert not fair.succeeds
    assert 0.4 < fair.auc < 0.6


def test_copies_stay_together_in_cross_fitting():
    """The planted bug: with every record its own group, copies of members give them away."""
    rng = np.random.default_rng(1)
    features = np.repeat(rng.normal(size=(N // 2, 40)), 2, axis=0)
    member = np.repeat(rng.random(N // 2) < 0.5, 2)
    apart = cross_fitted(features, member, np.arange(N))
    together = cross_fitted(features, member, np.repeat(np.arange(N // 2), 2))
    assert roc(apart[member], apart[~member]).auc > 0.7
    assert roc(together[member], together[~member]).auc < 0.62


def test_cross_fitting_learns_what_there_is():
    rng = np.random.default_rng(2)
    features = rng.normal(size=(N, 5))
    features[:, 3] += 1.5 * MEMBER
    told = cross_fitted(features, MEMBER, np.arange(N))
    alone = roc(features[MEMBER, 3], features[~MEMBER, 3]).auc
    assert roc(told[MEMBER], told[~MEMBER]).auc == pytest.approx(alone, abs=0.04)
    with pytest.raises(InputError, match="members or non-members alone"):
        cross_fitted(features, np.zeros(N, dtype=bool), np.arange(N))


def test_shuffled_membership_is_chance_by_its_known_spread():
    """Mann–Whitney: variance (m + n + 1)/(12mn)."""
    control = shuffled(np.random.default_rng(0).normal(3.0 * MEMBER), MEMBER)
    spread = 1.96 * np.sqrt((N + 1) / (12 * (N / 2) ** 2))
    assert control.auc == pytest.approx(0.5, abs=0.01)
    assert control.high - 0.5 == pytest.approx(spread, rel=0.25)
    assert shuffled(np.zeros(N), MEMBER).auc == 0.5


@pytest.mark.parametrize(
    ("target", "blind", "positive", "outcome", "words"),
    [
        (0.0, 0, [0.0], "attack too weak to conclude", "Attack too weak to conclude"),
        (0.0, 0, [2.0], "no leak found", "not ε"),
        (0.0, 0, [], "no leak found, no positive control", "positive control"),
        (2.0, 0, [], "leak found", "certificate"),
        (2.0, 20, [2.0], "the split is separable", "no attack's success here shows"),
    ],
)
def test_the_verdict(target: float, blind: int, positive: list, outcome: str, words: str):
    control = blind_baseline(bags(blind), MEMBER, np.arange(N))
    told = verdict([result(target)], control, [result(p, 1) for p in positive])
    assert told.outcome == outcome
    assert words in told.words


def test_many_signals_share_the_level_of_the_verdict():
    """A hundred signals that know nothing: about two would pass an interval of their own."""
    results = [result(0.0, seed, f"s{seed}") for seed in range(60)]
    assert any(r.auc_low > 0.5 for r in results)
    control = blind_baseline(bags(0), MEMBER, np.arange(N))
    assert verdict(results, control).outcome == "no leak found, no positive control"


def test_numbers_of_a_signal():
    scores = np.random.default_rng(0).normal(MEMBER)
    scores[4] = np.nan
    told = measured("loss", scores, MEMBER, **TERMS)
    kept = ~np.isnan(scores)
    assert told.missing == 1
    assert told.curve.members == MEMBER.sum() - 1
    mean = [scores[kept & side].mean() for side in (MEMBER, ~MEMBER)]
    assert told.gap == pytest.approx(mean[0] - mean[1])
    assert told.article is not None
    assert told.article.loss_gap == pytest.approx(told.gap)
    assert [rate.resolved for rate in told.rates] == [False, True, True]
    for rate in told.rates:
        assert rate.low <= rate.tpr <= rate.high
        assert rate.band_low <= rate.tpr <= rate.band_high
        assert rate.achieved <= rate.fpr
    assert {e.kind for e in told.epsilons} == {"certificate", "rejects a curve", "estimate"}
    assert told.best.kind == "certificate"
    weaker = measured("loss", scores, MEMBER, **TERMS, premise="no coins")
    assert {e.kind for e in weaker.epsilons} == {"estimate"}


def test_the_articles_estimator():
    """Its loop, as it is written: 0 at n = 25 and 45; at 500 it is above the exact rate."""
    rng = np.random.default_rng(0)
    for n in (25, 45, 500):
        inside, outside = rng.normal(size=n), rng.normal(size=n)
        best = 0.0
        for threshold in np.percentile(
            np.concatenate([inside, outside]), np.linspace(0, 100, 1000)
        ):
            if abs((outside < threshold).mean() - 0.1) < 0.01:
                best = max(best, (inside < threshold).mean())
        told = article_numbers(inside, outside)
        assert told.tpr == pytest.approx(best)
        if n < 500:
            assert (told.tpr, told.in_window) == (0, 0)
            assert "undefined" in told.words
    assert np.mean(
        [article_numbers(*rng.normal(size=(2, 500))).tpr for _ in range(200)]
    ) == pytest.approx(0.114, abs=0.004)
