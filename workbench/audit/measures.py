"""The numbers of one signal: curve, rates, gaps, and every ε that it speaks for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from workbench.audit.article import ArticleNumbers, article_numbers
from workbench.audit.controls import Control, shuffled
from workbench.audit.curves import Roc, roc
from workbench.audit.evidence import (
    EmpiricalEpsilon,
    Rule,
    certificate,
    order_estimate,
    ranked,
    rate_estimates,
    rejected_gaussian,
)

RATES = (0.001, 0.01, 0.1)
CONFIDENCE = 0.95


@dataclass(frozen=True)
class RateAt:
    """The true positive rate at one false positive rate.

    Attributes:
        fpr: as asked.
        achieved: the largest achieved one below it.
        tpr: there.
        low, high: Clopper–Pearson limits, with the threshold as given.
        band_low, band_high: bootstrap limits, which include the threshold's own uncertainty.
        resolved: whether there are at least 1/fpr non-members; if not, grey it out.
    """

    fpr: float
    achieved: float
    tpr: float
    low: float
    high: float
    band_low: float
    band_high: float
    resolved: bool


@dataclass(frozen=True, eq=False)
class SignalResult:
    """All that is measured of one signal under one model.

    Attributes:
        signal: its name.
        curve: the exact ROC curve.
        auc_low, auc_high: DeLong limits at 95 %.
        rates: at each of `RATES`.
        balanced_accuracy: at the median of all scores, a threshold that needs no labels.
        gap: members' mean score less the others'; for "loss" in nats a token, the loss gap.
        shuffled: the negative control.
        epsilons: a statement a method, each with its kind.
        article: the article's numbers in its own definition, from the scores of "loss".
        missing: how many records have no score by this signal.
    """

    signal: str
    curve: Roc
    auc_low: float
    auc_high: float
    rates: tuple[RateAt, ...]
    balanced_accuracy: float
    gap: float
    shuffled: Control
    epsilons: tuple[EmpiricalEpsilon, ...]
    article: ArticleNumbers | None = None
    missing: int = 0

    @property
    def best(self) -> EmpiricalEpsilon:
        """The strongest kind of statement that was made."""
        order = ("certificate", "rejects a curve", "estimate", "heuristic")
        return min(self.epsilons, key=lambda told: (order.index(told.kind), -told.value))

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it, without the curve's corners."""
        return {
            "signal": self.signal,
            "members": self.curve.members,
            "nonmembers": self.curve.nonmembers,
            "missing": self.missing,
            "auc": self.curve.auc,
            "auc_low": self.auc_low,
            "auc_high": self.auc_high,
            "rates": [vars(rate) for rate in self.rates],
            "balanced_accuracy": self.balanced_accuracy,
            "gap": self.gap if np.isfinite(self.gap) else None,
            "shuffled": vars(self.shuffled),
            "epsilons": [told.as_dict() for told in self.epsilons],
            "article": None if self.article is None else self.article.as_dict(),
        }


def measured(
    signal: str,
    scores: np.ndarray,
    member: np.ndarray,
    *,
    delta: float,
    significance: float = 0.05,
    rule: Rule | None = None,
    premise: str = "",
    rates: Sequence[float] = RATES,
    seed: int = 0,
) -> SignalResult:
    """Every number of a signal.

    Args:
        signal: its name; "loss" also gets the article's numbers.
        scores: (records,) higher saying "member"; NaN where a record has none.
        member: (records,) the truth.
        delta: δ of the guarantee under test.
        significance: of every ε.
        rule: how guess counts are fixed; see `workbench.audit.evidence`.
        premise: why counts of right guesses are no certificate; empty if they are one.
        rates: false positive rates.
        seed: of ties, bootstraps and shuffles.

    Raises `InputError` if all scores of a side are missing.
    """
    there = ~np.isnan(scores)
    own, truth = scores[there], member[there]
    curve = roc(own[truth], own[~truth])
    level: dict[str, Any] = {"delta": delta, "significance": significance}
    order = ranked(own, seed=seed)
    by_rule = {**level, "rule": rule, "seed": seed, "order": order}
    # An estimate gains nothing from a search that is paid for.
    quarter = {**by_rule, "rule": Rule("fixed", max(1, len(own) // 4))}
    low, high = curve.auc_interval(CONFIDENCE)
    above = own > np.median(own)
    return SignalResult(
        signal=signal,
        curve=curve,
        auc_low=low,
        auc_high=high,
        rates=rates_at(curve, rates, seed=seed),
        balanced_accuracy=float((above[truth].mean() + (~above)[~truth].mean()) / 2),
        gap=float(np.mean(own[truth]) - np.mean(own[~truth])) if np.isfinite(own).all() else np.nan,
        shuffled=shuffled(own, truth, seed=seed),
        epsilons=(
            certificate(own, truth, premise=premise, **by_rule),
            rejected_gaussian(own, truth, premise=premise, **by_rule),
            order_estimate(own, truth, **quarter),
            *rate_estimates(own, truth, **level, order=order),
        ),
        article=article_numbers(-own[truth], -own[~truth]) if signal == "loss" else None,
        missing=int((~there).sum()),
    )


def rates_at(curve: Roc, rates: Sequence[float], *, seed: int = 0) -> tuple[RateAt, ...]:
    """The true positive rate at each false positive rate, with both kinds of limits."""
    lows, highs = curve.bootstrap_band(rates, confidence=CONFIDENCE, seed=seed)
    return tuple(
        RateAt(
            fpr,
            float(curve.fpr[curve.at(fpr)]),
            curve.tpr_at(fpr),
            *curve.tpr_interval(fpr, confidence=CONFIDENCE),
            float(low),
            float(high),
            curve.resolves(fpr),
        )
        for fpr, low, high in zip(rates, lows, highs, strict=True)
    )
