"""The article's own membership numbers, by its definition, to stand beside the exact ones.

Its estimator takes the best true positive rate among a thousand percentile thresholds whose false
positive rate lies within 0.01 of 0.1. It is biased upwards, and 0 where no threshold comes that
close, as with 25 or 45 records a side: that says nothing of privacy.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from workbench.errors import InputError

TARGET_FPR, TOLERANCE = 0.1, 0.01
ALARM_TPR, EXPECTED_GAP, ALARM_GAP = 0.25, 0.2, 0.5


@dataclass(frozen=True)
class ArticleNumbers:
    """What the article computes from losses, and what it would say.

    Attributes:
        tpr: its "TPR @ FPR = 0.1"; 0 also where no threshold fell into its window.
        in_window: how many of its thresholds did.
        loss_gap: mean loss of non-members less that of members, nats a token.
    """

    tpr: float
    in_window: int
    loss_gap: float

    @property
    def words(self) -> str:
        """Its reading by its own thresholds; what that shows is another matter."""
        if not self.in_window:
            return "0 because no threshold fell into its window: undefined"
        leak = "leakage problem" if self.tpr >= ALARM_TPR else "effective"
        gap = (
            "leakage risk"
            if self.loss_gap > ALARM_GAP
            else "typical"
            if self.loss_gap < EXPECTED_GAP
            else "above typical"
        )
        return f"TPR {leak}, loss gap {gap}"

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {**vars(self), "words": self.words}


def article_numbers(member_losses: np.ndarray, nonmember_losses: np.ndarray) -> ArticleNumbers:
    """The article's numbers from losses, (members,) and (nonmembers,), lower saying "member".

    Source: the article's `run_mia_benchmark`, whose definition this follows.
    """
    if not len(member_losses) or not len(nonmember_losses):
        raise InputError("One side has no losses; give members and non-members.")
    everything = np.concatenate([member_losses, nonmember_losses])
    thresholds = np.percentile(everything, np.linspace(0, 100, 1000))
    tpr = np.searchsorted(np.sort(member_losses), thresholds, side="left") / len(member_losses)
    fpr = np.searchsorted(np.sort(nonmember_losses), thresholds, side="left")
    near = np.abs(fpr / len(nonmember_losses) - TARGET_FPR) < TOLERANCE
    gap = float(nonmember_losses.mean() - member_losses.mean())
    return ArticleNumbers(float(tpr[near].max(initial=0.0)), int(near.sum()), gap)
