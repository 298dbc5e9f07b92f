"""The ROC curve of a membership test, exact from its scores, and how uncertain it is.

A higher score says "member": a record is called a member where its score is at least the threshold.

>>> curve = roc([3.0, 2.0, 2.0], [2.0, 1.0, 0.0])
>>> round(curve.auc, 4), curve.tpr_at(0.0), curve.tpr_at(1 / 3)
(0.8889, 0.3333333333333333, 1.0)
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaincinv
from scipy.stats import norm

from workbench.errors import InputError, probability, whole

_DENSE = 1000
_SAME = 1e-9  # a rate of 0.29 of 100 records means 29 of them, whatever 0.29 * 100 rounds to


@dataclass(frozen=True, eq=False)
class Roc:
    """An ROC curve as its corners, from (0, 0) to (1, 1), without any smoothing.

    Attributes:
        thresholds: (corners,), falling; the first is infinite, where nobody is called a member.
        false_positives: (corners,) whole numbers, how many non-members reach each threshold.
        true_positives: (corners,) whole numbers, how many members do.
        members, nonmembers: how many of each there are.
        auc: the Mann–Whitney probability that a member scores above a non-member; ties count half.
        auc_error: its standard error by DeLong et al. 1988; 0 where all pairs agree, which says
            nothing about the uncertainty: see `auc_interval`.
    """

    thresholds: np.ndarray
    false_positives: np.ndarray
    true_positives: np.ndarray
    members: int
    nonmembers: int
    auc: float
    auc_error: float

    @cached_property
    def fpr(self) -> np.ndarray:
        """False positive rates (corners,), rising."""
        return self.false_positives / self.nonmembers

    @cached_property
    def tpr(self) -> np.ndarray:
        """True positive rates (corners,), rising."""
        return self.true_positives / self.members

    def at(self, fpr: float) -> int:
        """The corner with the largest achieved false positive rate ≤ ``fpr``, and there the last.

        Raises `InputError` if ``fpr`` lies outside [0, 1].
        """
        allowed = _whole_part(_rate("fpr", fpr), self.nonmembers)
        return int(np.searchsorted(self.false_positives, allowed, side="right")) - 1

    def tpr_at(self, fpr: float) -> float:
        """The true positive rate at the largest achieved false positive rate ≤ ``fpr``."""
        return float(self.tpr[self.at(fpr)])

    def resolves(self, fpr: float) -> bool:
        """Whether there are enough non-members to measure a rate of ``fpr``: at least 1/fpr."""
        return _whole_part(_rate("fpr", fpr), self.nonmembers) >= 1

    def tpr_interval(self, fpr: float, *, confidence: float = 0.95) -> tuple[float, float]:
        """Clopper–Pearson limits of the true positive rate at the corner of ``fpr``.

        They take the threshold as given. The rate *at a false positive rate* is also uncertain
        through the threshold, which `bootstrap_band` includes.
        """
        low, high = binomial_limits(
            self.true_positives[self.at(fpr)], self.members, confidence=confidence
        )
        return float(low), float(high)

    def band(self, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Clopper–Pearson limits of the true positive rate at every corner, (corners,) each.

        Each corner's interval holds by itself with this confidence, not all of them together.
        """
        counts = _enough_counts(self.true_positives, self.members)
        low, high = binomial_limits(counts, self.members, confidence=confidence)
        return (
            np.interp(self.true_positives, counts, low),
            np.interp(self.true_positives, counts, high),
        )

    def bootstrap_band(
        self,
        fpr: ArrayLike,
        *,
        confidence: float = 0.95,
        draws: int = 1000,
        seed: int = 0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Percentile limits of the true positive rate at each ``fpr`` (rates,) over resamples.

        Members and non-members are drawn again with replacement, both. No record is touched: of
        a resample's non-members only the threshold at each rate matters, an order statistic, and
        of its members how many reach it, so the work does not grow with the number of records.
        """
        rates = np.atleast_1d(np.asarray(fpr, dtype=float))
        rng = np.random.default_rng(seed)
        order = np.argsort(rates, kind="stable")
        drawn = np.empty((whole("draws", draws, least=2, remedy="draw some resamples"), len(rates)))
        drawn[:, order] = self._resampled([_rate("fpr", r) for r in rates[order]], draws, rng)
        outside = (1 - probability("confidence", confidence, remedy="choose one such as 0.95")) / 2
        low, high = np.quantile(drawn, [outside, 1 - outside], axis=0)
        return low, high

    def auc_interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Limits of the AUC: DeLong's, on the logit scale so that they stay within [0, 1].

        Where every pair agrees DeLong's error is 0. Then min(members, nonmembers) pairs that share
        no record are independent trials that all agreed, and their Clopper–Pearson limit is given.
        """
        outside = (1 - probability("confidence", confidence, remedy="choose one such as 0.95")) / 2
        pairs = min(self.members, self.nonmembers)
        if self.auc in (0.0, 1.0):
            limit = outside ** (1 / pairs)
            return (limit, 1.0) if self.auc else (0.0, 1 - limit)
        logit = math.log(self.auc / (1 - self.auc))
        reach = float(norm.isf(outside)) * self.auc_error / (self.auc * (1 - self.auc))
        return _logistic(logit - reach), _logistic(logit + reach)

    def _resampled(self, rates: list[float], draws: int, rng: np.random.Generator) -> np.ndarray:
        """True positive rates (draws, rates) of resamples; ``rates`` rise."""
        allowed = np.array([_whole_part(rate, self.nonmembers) for rate in rates])
        # In a resample of n, the threshold lies just above the (k + 1)-th largest non-member. Its
        # place among the original ones is that of a uniform order statistic, and spacings of those
        # are gamma variables (Devroye 1986, section V.2).
        steps = np.diff(allowed + 1, prepend=0)
        gammas = rng.standard_gamma(np.maximum(steps, 1e-300), size=(draws, len(rates)))
        gammas[:, steps == 0] = 0.0
        rest = rng.standard_gamma(np.maximum(self.nonmembers - allowed[-1], 1e-300), size=draws)
        places = gammas.cumsum(axis=1)
        places /= (places[:, -1] + rest)[:, None]
        above = np.clip(np.floor(places * self.nonmembers), 0, self.nonmembers - 1)
        corner = np.searchsorted(self.false_positives, above, side="right") - 1
        reached = self.tpr[corner]
        reached[:, allowed == self.nonmembers] = 1.0
        return _counts(np.maximum.accumulate(reached, axis=1), self.members, rng) / self.members


def roc(member_scores: ArrayLike, nonmember_scores: ArrayLike) -> Roc:
    """The exact ROC curve of a score, higher meaning "member".

    Args:
        member_scores: (members,), any order; infinite scores are ordered like others.
        nonmember_scores: (nonmembers,).

    Raises `InputError` if one side is empty, is not one-dimensional or holds NaN.

    Source: Mann–Whitney AUC and its error as in DeLong, DeLong & Clarke-Pearson 1988
    (Biometrics 44), computed from midranks (Sun & Xu 2014).
    """
    inside, outside = (
        _scores("member_scores", member_scores),
        _scores("nonmember_scores", nonmember_scores),
    )
    m, n = len(inside), len(outside)
    scores = np.concatenate([inside, outside])
    order = np.argsort(-scores, kind="stable")
    falling, is_member = scores[order], order < m
    last_of_tie = np.append(falling[1:] != falling[:-1], True)
    true_positives = np.append(0, np.cumsum(is_member)[last_of_tie])
    false_positives = np.append(0, np.cumsum(~is_member)[last_of_tie])
    auc, error = _delong(true_positives, false_positives, m, n)
    return Roc(
        thresholds=np.append(np.inf, falling[last_of_tie]),
        false_positives=false_positives,
        true_positives=true_positives,
        members=m,
        nonmembers=n,
        auc=auc,
        auc_error=error,
    )


def binomial_limits(
    successes: ArrayLike, trials: int, *, confidence: float
) -> tuple[np.ndarray, np.ndarray]:
    """Clopper–Pearson limits of a proportion, two-sided, shapes as ``successes``."""
    outside = (1 - probability("confidence", confidence, remedy="choose one such as 0.95")) / 2
    hits = np.asarray(successes, dtype=float)
    low = betaincinv(np.maximum(hits, 1), np.maximum(trials - hits + 1, 1), outside)
    high = betaincinv(hits + 1, np.maximum(trials - hits, 1), 1 - outside)
    return np.where(hits == 0, 0.0, low), np.where(hits == trials, 1.0, high)


def _enough_counts(counts: np.ndarray, trials: int) -> np.ndarray:
    """The distinct counts, or where these are too many some between which limits are straight.

    A limit takes tens of microseconds. Straight lines between these counts are off by less than
    2e-6, because limits bend at the ends alone.
    """
    distinct = np.unique(counts)
    if len(distinct) <= 3 * _DENSE:
        return distinct
    ends = np.arange(_DENSE)
    between = np.linspace(0, trials, _DENSE).round()
    return np.unique(np.concatenate([ends, trials - ends, between]))


def _delong(
    true_positives: np.ndarray, false_positives: np.ndarray, m: int, n: int
) -> tuple[float, float]:
    """AUC and its standard error from the corners of the curve.

    A tied group of a members and b non-members has the same structural component for each of
    them: the share of the other side below the group, plus half of the share within it.
    """
    a, b = np.diff(true_positives), np.diff(false_positives)
    of_members = 1 - (false_positives[:-1] + b / 2) / n
    of_nonmembers = (true_positives[:-1] + a / 2) / m
    auc = float(a @ of_members / m)
    spread_members = float(a @ (of_members - auc) ** 2) / max(m - 1, 1)
    spread_nonmembers = float(b @ (of_nonmembers - auc) ** 2) / max(n - 1, 1)
    return auc, math.sqrt(spread_members / m + spread_nonmembers / n)


def _counts(shares: np.ndarray, trials: int, rng: np.random.Generator) -> np.ndarray:
    """How many of ``trials`` fall below each rising share, (draws, rates), drawn jointly."""
    total = np.zeros(shares.shape)
    counted, below = np.zeros(len(shares), dtype=np.int64), np.zeros(len(shares))
    for column in range(shares.shape[1]):
        left = np.maximum(1 - below, 1e-300)
        odds = np.clip((shares[:, column] - below) / left, 0, 1)
        counted = counted + rng.binomial(trials - counted, odds)
        below = shares[:, column]
        total[:, column] = counted
    return total


def _whole_part(rate: float, count: int) -> int:
    """How many of ``count`` records a rate allows."""
    return min(count, math.floor(rate * count * (1 + _SAME) + _SAME))


def _rate(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise InputError(f"{name} is {value:g} but must lie in [0, 1]; give a rate.")
    return float(value)


def _logistic(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value > -700 else 0.0


def _scores(name: str, values: ArrayLike) -> np.ndarray:
    try:
        scores = np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        raise InputError(
            f"{name} holds something that is no number; give one score a record."
        ) from None
    if scores.ndim != 1 or not scores.size:
        raise InputError(
            f"{name} has shape {scores.shape} but must be (records,) with at least one; give one "
            "score a record."
        )
    if missing := int(np.isnan(scores).sum()):
        raise InputError(
            f"{name} has NaN for {missing:,} of {scores.size:,} records; leave those records out, "
            "or find out why they have no score."
        )
    return scores
