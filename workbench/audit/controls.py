"""Three controls without which no attack's success or failure says anything.

*blind*: a classifier that sees the texts and no model. Where it succeeds, the split itself is
separable, and so is whatever an attack finds on it (Das et al. 2024, arXiv 2406.16201).
*positive*: the same attack on a model that surely remembers, the non-private twin.
*negative*: the same scores against shuffled membership, which shows what chance does here.
"""

import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.stats import rankdata

from workbench.audit.curves import Roc, roc
from workbench.audit.learned import cross_fitted

BUCKETS = 4096  # of hashed words
SHUFFLES = 200
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Control:
    """An AUC with its 95 % interval, and whether it is above what guessing gives."""

    name: str
    auc: float
    low: float
    high: float

    @property
    def succeeds(self) -> bool:
        """Whether guessing is outside the interval, below."""
        return self.low > 0.5

    def __str__(self) -> str:
        return f"{self.name}: AUC {self.auc:.3f} (95 %: {self.low:.3f}–{self.high:.3f})"


def of_curve(name: str, curve: Roc, *, confidence: float = 0.95) -> Control:
    """A control from its ROC curve, with DeLong's interval."""
    return Control(name, curve.auc, *curve.auc_interval(confidence))


def blind_scores(
    texts: Sequence[str], member: np.ndarray, group: np.ndarray, *, seed: int = 0
) -> np.ndarray:
    """How much each text looks like a member's to a bag of words that sees no model, (records,).

    Cross-fitted by group on hashed counts of words and on length.
    """
    return cross_fitted(_bag_of_words(texts), member, group, seed=seed)


def blind_baseline(
    texts: Sequence[str], member: np.ndarray, group: np.ndarray, *, seed: int = 0
) -> Control:
    """The AUC of `blind_scores`."""
    scores = blind_scores(texts, member, group, seed=seed)
    return of_curve("blind baseline", roc(scores[member], scores[~member]))


def shuffled(scores: np.ndarray, member: np.ndarray, *, seed: int = 0) -> Control:
    """The AUC of the same scores against 200 shuffles of membership: their mean and middle 95 %."""
    rng = np.random.default_rng(seed)
    ranks, members = rankdata(scores), int(member.sum())
    picked = rng.random((SHUFFLES, len(ranks))).argpartition(members - 1, axis=1)[:, :members]
    least = members * (members + 1) / 2
    aucs = (ranks[picked].sum(axis=1) - least) / (members * (len(ranks) - members))
    low, high = np.quantile(aucs, [0.025, 0.975])
    return Control("shuffled membership", float(aucs.mean()), float(low), float(high))


def _bag_of_words(texts: Sequence[str]) -> sparse.csr_matrix:
    """Square roots of hashed counts of words, and the length, (texts, buckets + 1)."""
    rows, columns, values = [], [], []
    for row, text in enumerate(texts):
        words = _WORD.findall(text.lower())
        counts = Counter(zlib.crc32(word.encode("utf-8", "replace")) % BUCKETS for word in words)
        counts[BUCKETS] = len(text)
        rows += [row] * len(counts)
        columns += list(counts)
        values += [count**0.5 for count in counts.values()]
    shape = (len(texts), BUCKETS + 1)
    return sparse.csr_matrix((values, (rows, columns)), shape=shape)
