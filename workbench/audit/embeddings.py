"""Whether a model's inner representations tell members, layer by layer.

Who serves embeddings serves more than text. The attack is a linear classifier on each layer's
pooled hidden state. It is cross-fitted: no record is scored by a classifier that has seen it or a
copy of it. One ε covers embeddings too, as anything computed from the weights. Sources: Song &
Raghunathan 2020 (arXiv 2004.00053) for the attack; DeLong et al. 1988 for the error of an AUC.

Cross-fitted scores are not independent: of two folds, each teaches the other's classifier. Where
nothing is to be found, every pair of records counts twice in the same sense, which doubles the
variance of the AUC. So the intervals here are DeLong's, wider by √2.

>>> chance = np.random.default_rng(0)
>>> member = chance.integers(2, size=300).astype(bool)
>>> states = chance.normal(size=(300, 2, 8))
>>> states[member, 1, 0] += 2.0
>>> attack = embedding_attack(states, member, seed=0)
>>> [layer.auc > 0.8 for layer in attack.layers]
[False, True]
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

from workbench.audit.curves import roc
from workbench.errors import InputError, probability, whole

_FEWEST = 20  # records of each side; below, one fold has none of them
_TWICE = np.sqrt(2.0)
_RIDGES = np.geomspace(1e-3, 1e4, 15)  # times the mean squared feature, chosen within each fold


@dataclass(frozen=True)
class LayerAttack:
    """How well one layer's representation tells members; the interval holds without any leak."""

    layer: int
    auc: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class EmbeddingAttack:
    """The attack on every layer, embeddings first.

    Attributes:
        layers: one entry a layer.
        scores: (records, layers) cross-fitted, in deviations of their fold; higher means member.
        member: (records,) which records are members.
    """

    layers: tuple[LayerAttack, ...]
    scores: np.ndarray
    member: np.ndarray


def embedding_attack(
    states: ArrayLike,
    member: ArrayLike,
    *,
    groups: Sequence[int] | np.ndarray | None = None,
    folds: int = 10,
    confidence: float = 0.95,
    seed: int = 0,
) -> EmbeddingAttack:
    """Attack every layer by ridge regression of membership on its hidden states.

    Args:
        states: (records, layers, width), pooled over each record's tokens.
        member: (records,) of truth.
        groups: (records,) a number for each group of duplicates, which stay in one fold; each
            record is a group of its own if not given.
        folds: into how many parts the groups are divided at random.
        confidence: of the intervals.
        seed: of the division.

    Raises `InputError` for shapes that do not match, values that are not finite, or too few
    members, non-members or groups to cross-fit.
    """
    values, truth, place = _checked(states, member, groups)
    folds = whole("folds", folds, least=2, remedy="choose 5 or 10")
    probability("confidence", confidence, remedy="choose one such as 0.95")
    fold = _folds(place, folds, seed)
    scores = np.stack(
        [_cross_fitted(values[:, layer], truth, fold) for layer in range(values.shape[1])], axis=1
    )
    reach = float(ndtri((1 + confidence) / 2))
    layers = []
    for layer, column in enumerate(scores.T):
        curve = roc(column[truth], column[~truth])
        error = reach * _TWICE * curve.auc_error
        low, high = max(0.0, float(curve.auc - error)), min(1.0, float(curve.auc + error))
        layers.append(LayerAttack(layer, curve.auc, low, high))
    return EmbeddingAttack(tuple(layers), scores, truth)


def _checked(
    states: ArrayLike, member: ArrayLike, groups: Sequence[int] | np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values, truth = np.asarray(states, dtype=float), np.asarray(member)
    if values.ndim != 3:
        raise InputError(
            f"states has shape {values.shape} but must be (records, layers, width); stack the "
            "pooled hidden states."
        )
    if not np.isfinite(values).all():
        raise InputError("states holds values that are not finite; leave those records out.")
    place = np.arange(len(values)) if groups is None else np.asarray(groups)
    if truth.dtype != bool or truth.shape != values.shape[:1] or place.shape != truth.shape:
        raise InputError(
            f"member and groups must have one truth value and one number for each of {len(values)} "
            "records; count them again."
        )
    fewest = min(int(truth.sum()), int((~truth).sum()))
    if fewest < _FEWEST:
        raise InputError(
            f"There are {int(truth.sum())} members and {int((~truth).sum())} others but an attack "
            f"on embeddings needs at least {_FEWEST} of each; give more."
        )
    return values, truth, place


def _folds(groups: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """(records,) the fold of each, the same for all of a group."""
    names, index = np.unique(groups, return_inverse=True)
    if len(names) < folds:
        raise InputError(
            f"There are {len(names)} groups of duplicates but {folds} folds; lower folds."
        )
    order = np.random.default_rng(seed).permutation(len(names))
    return (order % folds)[index]


def _cross_fitted(features: np.ndarray, member: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Scores of records by classifiers of the other folds, (records,).

    Folds differ in how many members the others have, which shifts all their scores: each fold's
    are taken from its own mean, which uses no label.
    """
    scores = np.zeros(len(member))
    for number in np.unique(fold):
        own = fold == number
        raw = _ridge_scores(features[~own], member[~own], features[own])
        scores[own] = (raw - raw.mean()) / (raw.std() or 1.0)
    return scores


def _ridge_scores(train: np.ndarray, member: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Ridge regression in closed form; how strong is chosen by leave-one-out error (Allen 1974)."""
    mean, spread = train.mean(axis=0), train.std(axis=0)
    spread[spread == 0] = 1.0  # a constant feature tells nothing
    x, target = (train - mean) / spread, member - member.mean()
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    along = u.T @ target
    best, fewest = np.zeros(len(s)), np.inf
    for ridge in _RIDGES * len(x):
        shrunk = s**2 / (s**2 + ridge)
        leverage = np.square(u) @ shrunk + 1 / len(x)  # with that of the mean
        residual = (target - u @ (shrunk * along)) / np.maximum(1 - leverage, 1e-9)
        error = float(np.square(residual).mean())
        if error < fewest:
            best, fewest = shrunk * along / np.maximum(s, 1e-12), error
    return ((test - mean) / spread) @ (vt.T @ best)
