"""What a model says of each predicted token of each record, as flat arrays."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class RowScores:
    """One record: each array (tokens,), ``pooled`` (layers + 1, width) or None."""

    ids: np.ndarray
    log_p: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray
    first_guess: np.ndarray
    pooled: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class TokenScores:
    """What a model says of each predicted token of each record.

    Record i holds the places ``offsets[i]`` to ``offsets[i + 1]`` of the arrays of tokens.

    Attributes:
        offsets: (records + 1,).
        ids: the tokens.
        log_p: their log-probabilities, nats, float64 from float32.
        mean: μ = Σ p log p over the vocabulary at each position; minus the entropy.
        deviation: σ, the standard deviation of log p under p at each position.
        first_guess: whether no other token was likelier.
        pooled: (records, layers + 1, width) float32, the mean over a record's positions of the
            embeddings and of what each layer gives; None if not asked for.
    """

    offsets: np.ndarray
    ids: np.ndarray
    log_p: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray
    first_guess: np.ndarray
    pooled: np.ndarray | None = None

    @classmethod
    def joined(cls, rows: Sequence[RowScores]) -> "TokenScores":
        """Records one behind the other."""
        parts = [row.pooled for row in rows if row.pooled is not None]
        counts = [len(row.ids) for row in rows]
        return cls(
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            ids=np.concatenate([row.ids for row in rows]),
            log_p=np.concatenate([row.log_p for row in rows]).astype(float),
            mean=np.concatenate([row.mean for row in rows]).astype(float),
            deviation=np.concatenate([row.deviation for row in rows]).astype(float),
            first_guess=np.concatenate([row.first_guess for row in rows]),
            pooled=np.stack(parts) if len(parts) == len(rows) else None,
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def of(self, values: np.ndarray) -> Iterator[np.ndarray]:
        """One of the arrays, record by record."""
        return (values[a:b] for a, b in zip(self.offsets[:-1], self.offsets[1:], strict=True))

    @property
    def counts(self) -> np.ndarray:
        """How many tokens of each record are predicted, (records,)."""
        return np.diff(self.offsets)

    @property
    def entropy(self) -> np.ndarray:
        """The entropy of the model's prediction at each position, nats."""
        return -self.mean

    def sums(self, values: np.ndarray) -> np.ndarray:
        """The sum of each record's ``values``, (records,)."""
        return np.add.reduceat(values.astype(float), self.offsets[:-1])

    def log_likelihoods(self) -> np.ndarray:
        """The sum of each record's log-probabilities, (records,)."""
        return self.sums(self.log_p)

    def mean_log_p(self) -> np.ndarray:
        """The mean of each record's log-probabilities, (records,)."""
        return self.log_likelihoods() / self.counts
