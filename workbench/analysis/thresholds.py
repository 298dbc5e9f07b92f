"""What one threshold does to the scores of a membership test: counts, rates, and who falls where.

Everything is looked up in sorted scores, so that it follows a slider.

>>> ranking = Ranking(np.array([3.0, 2.0, 2.0, 1.0]), np.array([True, True, False, False]))
>>> outcome = ranking.at(2.0)
>>> outcome.true_positives, outcome.false_positives, round(outcome.precision, 2)
(2, 1, 0.67)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from workbench.audit.curves import Roc, binomial_limits, roc
from workbench.errors import InputError

DRAWN = 3000  # corners of a curve that a picture shows: a third of them a pixel apart
_MARGIN = 0.02  # of the scores' range that a slider has beyond them
CELLS = ("true positives", "false positives", "false negatives", "true negatives")


@dataclass(frozen=True)
class Outcome:
    """What a threshold decides; a record is called a member where its score is at least that.

    Attributes:
        threshold: in units of the score.
        true_positives: members called members.
        false_positives: others called members.
        false_negatives: members missed.
        true_negatives: others let go.
        tpr_low, tpr_high: Clopper–Pearson limits of the true positive rate, at 95 %.
    """

    threshold: float
    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int
    tpr_low: float
    tpr_high: float

    @property
    def tpr(self) -> float:
        """The share of members that are called so."""
        return self.true_positives / (self.true_positives + self.false_negatives)

    @property
    def nonmembers(self) -> int:
        """How many records are no members."""
        return self.false_positives + self.true_negatives

    @property
    def fpr(self) -> float:
        """The share of others that are called members."""
        return self.false_positives / self.nonmembers

    @property
    def precision(self) -> float:
        """The share of true ones among those called members; NaN if nobody is."""
        called = self.true_positives + self.false_positives
        return self.true_positives / called if called else np.nan

    @property
    def resolved(self) -> bool:
        """Whether so many non-members can show a false positive rate this low."""
        return self.false_positives > 0


class Ranking:
    """The scores of one signal under one model, sorted; records without a score are left out.

    Args:
        scores: (records,) higher saying "member"; NaN where there is none.
        member: (records,) the truth.
    """

    def __init__(self, scores: np.ndarray, member: np.ndarray) -> None:
        self.scores, self.member = np.asarray(scores, float), np.asarray(member, bool)
        self.records = np.flatnonzero(~np.isnan(self.scores))
        self._sides = {side: self._sorted(side) for side in (True, False)}
        if not all(len(records) for records in self._sides.values()):
            raise InputError(
                "One side has no score, so there is no curve; choose a signal that scores members "
                "and others."
            )

    @cached_property
    def curve(self) -> Roc:
        """The exact ROC curve."""
        return roc(*(self.scores[self._sides[side]] for side in (True, False)))

    @cached_property
    def span(self) -> tuple[float, float]:
        """From where to where a slider goes: all finite scores and a little more."""
        finite = self.scores[np.isfinite(self.scores)]
        if not finite.size:
            return 0.0, 1.0
        low, high = float(finite.min()), float(finite.max())
        room = _MARGIN * (high - low) or 1.0
        return low - room, high + room

    def at(self, threshold: float) -> Outcome:
        """What ``threshold`` decides."""
        above = {
            side: len(records) - self._place(records, threshold)
            for side, records in self._sides.items()
        }
        members, others = (len(self._sides[side]) for side in (True, False))
        low, high = binomial_limits(above[True], members, confidence=0.95)
        return Outcome(
            threshold,
            above[True],
            above[False],
            members - above[True],
            others - above[False],
            float(low),
            float(high),
        )

    def nearest(self, threshold: float, count: int) -> Mapping[str, np.ndarray]:
        """The records of each of `CELLS` whose scores are nearest to ``threshold``."""
        found = {}
        for side, above, below in (
            (True, "true positives", "false negatives"),
            (False, "false positives", "true negatives"),
        ):
            records = self._sides[side]
            place = self._place(records, threshold)
            found[above] = records[place : place + count]
            found[below] = records[max(0, place - count) : place][::-1]
        return {cell: found[cell] for cell in CELLS}

    def threshold_at(self, fpr: float) -> float:
        """The threshold of the largest achieved false positive rate ≤ ``fpr``."""
        threshold = float(self.curve.thresholds[self.curve.at(fpr)])
        return threshold if np.isfinite(threshold) else self.span[1]

    def _sorted(self, side: bool) -> np.ndarray:
        own = self.records[self.member[self.records] == side]
        return own[np.argsort(self.scores[own], kind="stable")]

    def _place(self, records: np.ndarray, threshold: float) -> int:
        return int(np.searchsorted(self.scores[records], threshold, side="left"))


def drawn_corners(curve: Roc, *, most: int = DRAWN) -> np.ndarray:
    """Indices of the corners to draw: all, or so many that no pixel of either scale tells.

    The exact numbers never come from what is drawn.
    """
    last = len(curve.thresholds) - 1
    if last < most:
        return np.arange(last + 1)
    third = most // 3
    places = [np.arange(third), np.geomspace(1, last, third), np.linspace(0, last, third)]
    return np.unique(np.concatenate(places).round().astype(int))
