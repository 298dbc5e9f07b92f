"""A logistic regression by scipy alone, and scores of records that it has not seen.

Cross-fitting by duplicate group: no record is scored by a model that has seen it or a copy of it.
Each record's score still depends on the others' membership, so that counts of right guesses are no
independent trials: what follows from such scores is an estimate, never a certificate.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse
from scipy.optimize import minimize
from scipy.special import expit

from workbench.audit.per_token import TokenScores
from workbench.errors import InputError

FOLDS = 5
_PENALTY = 1.0  # on each squared weight, with standardised features


def cross_fitted(
    features: Any, member: np.ndarray, group: np.ndarray, *, folds: int = FOLDS, seed: int = 0
) -> np.ndarray:
    """Log odds of membership, each from a regression on the other groups, (records,).

    Args:
        features: (records, features), dense or sparse.
        member: (records,) the truth.
        group: (records,) what stays together.
        folds: in how many parts the groups go.
        seed: of which group goes into which part.

    Raises `InputError` if a part leaves only one side to learn from.
    """
    names, which = np.unique(group, return_inverse=True)
    fold = np.random.default_rng(seed).permutation(len(names))[which] % folds
    scores = np.empty(len(member))
    for held in range(folds):
        own = fold == held
        if not own.any():
            continue
        if len(np.unique(member[~own])) < 2:
            raise InputError(
                "A fold of the learned attack holds members or non-members alone; give more "
                "records of the rarer kind."
            )
        scores[own] = _fitted(features[~own], member[~own], features[own])
    # Odds differ by fold for reasons that are no record's: which side was the larger in the rest.
    for held in range(folds):
        own = fold == held
        scores[own] -= np.median(scores[own]) if own.any() else 0.0
    return scores


def _fitted(features: Any, member: np.ndarray, others: Any) -> np.ndarray:
    """Log odds of ``others`` under a ridge-penalised logistic regression on ``features``."""
    features, others = _standardised(features, others)
    sign = np.where(member, 1.0, -1.0)

    def objective(weights: np.ndarray) -> tuple[float, np.ndarray]:
        odds = sign * (features @ weights[1:] + weights[0])
        pull = -sign * expit(-odds)
        loss = np.logaddexp(0, -odds).sum() + 0.5 * _PENALTY * weights[1:] @ weights[1:]
        gradient = np.concatenate([[pull.sum()], features.T @ pull + _PENALTY * weights[1:]])
        return float(loss), gradient

    start = np.zeros(features.shape[1] + 1)
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 200})
    return others @ found.x[1:] + found.x[0]


def _standardised(features: Any, others: Any) -> tuple[Any, Any]:
    """Both by the first one's mean and deviation; sparse features keep their zeros."""
    if sparse.issparse(features):
        squares = np.asarray(features.multiply(features).mean(axis=0)).ravel()
        scale = sparse.diags(1 / np.sqrt(np.maximum(squares, 1e-12)))
        return (features @ scale).tocsr(), (others @ scale).tocsr()
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    deviation = np.where(deviation > 1e-12, deviation, 1.0)
    return (features - mean) / deviation, np.clip((others - mean) / deviation, -10, 10)


def attack_features(told: TokenScores, signals: Sequence[np.ndarray]) -> np.ndarray:
    """What the learned attack sees of each record: every finite signal, and how its tokens lie.

    Beside the ``signals``: length, mean entropy, share of first guesses, and quantiles of log p.
    """
    quantiles = [np.quantile(log_p, [0.05, 0.25, 0.5, 0.75]) for log_p in told.of(told.log_p)]
    columns = [
        *(np.asarray(signal, dtype=float) for signal in signals if np.isfinite(signal).all()),
        np.log(told.counts),
        told.sums(told.entropy) / told.counts,
        told.sums(told.first_guess) / told.counts,
    ]
    return np.column_stack([*columns, np.array(quantiles)])
