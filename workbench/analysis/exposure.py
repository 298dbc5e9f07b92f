"""Which records a model gives away most, where in them, and how much less another model does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from workbench.audit.per_token import TokenScores
from workbench.errors import InputError

DRAWS = 400  # resamples of records
RATE = 0.1  # the false positive rate at which the article measures


@dataclass(frozen=True)
class LowerRisk:
    """How much lower one number of one attack is under the second model than under the first.

    Attributes:
        measure: which number.
        first, second: under either model.
        reduction: 1 − second/first; NaN where the first shows nothing to be lowered.
        low, high: 95 % limits over resampled records, the same for both models.
    """

    measure: str
    first: float
    second: float
    reduction: float
    low: float
    high: float


def shares_below(scores: np.ndarray, member: np.ndarray) -> np.ndarray:
    """For each record the share of non-members that score below it, ties half, (records,)."""
    others = np.sort(scores[~member & ~np.isnan(scores)])
    below = np.searchsorted(others, scores, "left") + np.searchsorted(others, scores, "right")
    return np.where(np.isnan(scores), np.nan, below / (2 * max(1, len(others))))


def most_exposed(
    scores: Mapping[str, np.ndarray],
    member: np.ndarray,
    texts: Sequence[str],
    *,
    by: str,
    count: int = 8,
) -> pd.DataFrame:
    """The members that score highest under the model ``by``, with their scores under every model.

    Args:
        scores: (records,) of one signal by the name of the model, on the same records.
        member: (records,) the truth.
        texts: (records,).
        by: the model whose members are listed.
        count: how many records.

    Returns a row a record: ``record``, ``text``, and for each model ``(model, "score")`` and
    ``(model, "above")``, the share of non-members below it.
    """
    own = np.where(member & ~np.isnan(scores[by]), scores[by], -np.inf)
    order = [i for i in np.argsort(-own, kind="stable")[:count] if own[i] > -np.inf]
    frame = pd.DataFrame({"record": order, "text": [texts[i] for i in order]})
    for name, values in scores.items():
        above = shares_below(values, member)
        frame[f"{name}: score"] = values[order]
        frame[f"{name}: above"] = above[order]
    return frame


def token_gains(told: TokenScores, reference: TokenScores, record: int) -> np.ndarray:
    """How much likelier than under the reference each predicted token of a record is, nats."""
    start, end = told.offsets[record], told.offsets[record + 1]
    if reference.offsets[record + 1] - reference.offsets[record] != end - start:
        raise InputError("The reference has other tokens for this record; give one that fits.")
    other = reference.offsets[record]
    return told.log_p[start:end] - reference.log_p[other : other + end - start]


def lower_risk(
    first: np.ndarray,
    second: np.ndarray,
    member: np.ndarray,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[LowerRisk, ...]:
    """How much lower an attack's numbers are under the second model, with intervals.

    Args:
        first: (records,) the attack's scores under one model.
        second: (records,) its scores of the same records under the other.
        member: (records,) the truth.
        draws: resamples of members and of others, the same for both models.
        seed: of these.

    The measures are the advantage 2·AUC − 1, and TPR − FPR at a false positive rate of 0.1. They
    say what this attack finds, and bound nobody else's.
    """
    there = ~(np.isnan(first) | np.isnan(second))
    pairs = np.stack([first[there], second[there]])
    inside, outside = pairs[:, member[there]], pairs[:, ~member[there]]
    if not inside.size or not outside.size:
        raise InputError("One side has no scores under both models; choose another signal.")
    rng = np.random.default_rng(seed)
    own = _advantages(inside, outside)
    drawn = np.stack(
        [
            _advantages(
                inside[:, rng.integers(inside.shape[1], size=inside.shape[1])],
                outside[:, rng.integers(outside.shape[1], size=outside.shape[1])],
            )
            for _ in range(draws)
        ]
    )
    names = ("advantage, 2·AUC − 1", f"TPR − FPR at FPR = {RATE:g}")
    return tuple(_lowered(name, own[place], drawn[:, place]) for place, name in enumerate(names))


def _lowered(name: str, own: np.ndarray, drawn: np.ndarray) -> LowerRisk:
    # A ratio to what may well be zero has no interval.
    if np.quantile(drawn[:, 0], 0.025) <= 0:
        return LowerRisk(name, float(own[0]), float(own[1]), np.nan, np.nan, np.nan)
    low, high = np.quantile(1 - drawn[:, 1] / drawn[:, 0], [0.025, 0.975])
    reduction = float(1 - own[1] / own[0])
    return LowerRisk(name, float(own[0]), float(own[1]), reduction, float(low), float(high))


def _advantages(inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """(measures, models) of scores (models, members) and (models, others)."""
    found = np.empty((2, len(inside)))
    for place, (members, others) in enumerate(zip(inside, outside, strict=True)):
        others = np.sort(others)
        n = len(others)
        below = np.searchsorted(others, members, "left") + np.searchsorted(others, members, "right")
        found[0, place] = below.mean() / n - 1
        # The step rule: the lowest threshold that at most a tenth of the others reach.
        threshold = others[n - 1 - int(RATE * n + 1e-9)]
        achieved = (others > threshold).mean()
        found[1, place] = (members > threshold).mean() - achieved
    return found
