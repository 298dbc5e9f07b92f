"""Membership signals as arithmetic on log-probabilities; a higher score always says "member".

All logarithms are natural. ``log_likelihood`` is a sum over a record's tokens where nothing else is
said. No function here runs a model.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import log_softmax

from workbench.errors import InputError, positive, probability

WINDOWS = (2, 3, 4, 6, 9, 13, 18, 25, 32, 40)


def token_log_probabilities(logits: ArrayLike, ids: ArrayLike) -> np.ndarray:
    """Log p of each token, (tokens,).

    Args:
        logits: (tokens, vocabulary); row t is what the model says *of* token t, before it sees it.
        ids: (tokens,) whole numbers below the vocabulary's size.

    Raises `InputError` if the two do not fit each other.
    """
    rows, tokens = _logits_and_ids(logits, ids)
    return log_softmax(rows, axis=1)[np.arange(len(tokens)), tokens]


def min_k(logits: ArrayLike, ids: ArrayLike, *, k: float) -> float:
    """Min-K %: the mean of the lowest max(1, ⌊k·tokens⌋) token log-probabilities.

    Args: ``logits`` and ``ids`` as in `token_log_probabilities`; ``k`` a share in (0, 1].

    Source: Shi et al. 2024 (arXiv 2310.16789).
    """
    return lowest_mean(token_log_probabilities(logits, ids), k=k)


def min_k_plus_plus(logits: ArrayLike, ids: ArrayLike, *, k: float) -> float:
    """Min-K %++: the same mean of (log p − μ)/σ, log p standardised over the vocabulary.

    μ and σ are the mean and the standard deviation of log p(z) for z drawn from the model's own
    distribution at that position; where σ = 0 the token counts 0.

    Source: Zhang et al. 2025 (arXiv 2404.02936).
    """
    rows, tokens = _logits_and_ids(logits, ids)
    log_p = log_softmax(rows, axis=1)
    mean, deviation = vocabulary_moments(log_p)
    of_tokens = log_p[np.arange(len(tokens)), tokens]
    return lowest_mean(standardised(of_tokens, mean, deviation), k=k)


def vocabulary_moments(log_p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of log p(z), z ~ p, of each row: (tokens,) each."""
    p = np.exp(log_p)
    finite = np.where(p > 0, log_p, 0.0)  # 0 · log 0 = 0
    mean = (p * finite).sum(axis=1)
    variance = (p * (finite - mean[:, None]) ** 2).sum(axis=1)
    return mean, np.sqrt(variance)


def standardised(log_p: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """(log p − μ)/σ, and 0 where σ is 0 up to rounding: all (tokens,)."""
    flat = deviation <= 1e-6 * np.maximum(1.0, np.abs(mean))
    return np.where(flat, 0.0, (log_p - mean) / np.where(flat, 1.0, deviation))


def lowest_mean(values: ArrayLike, *, k: float) -> float:
    """The mean of the lowest max(1, ⌊k·n⌋) of n values."""
    probability("k", k, one=True, remedy="choose a share of the tokens such as 0.2")
    array = _vector("values", values)
    count = max(1, math.floor(k * len(array) * (1 + 1e-9)))
    return float(np.partition(array, count - 1)[:count].mean())


def zlib_score(log_likelihood: float, *, compressed_bytes: int) -> float:
    """Log-likelihood over the length of the text compressed by zlib.

    Raises `InputError` if ``compressed_bytes`` is not above 0. Source: Carlini et al. 2021 (arXiv
    2012.07805), with the sign turned.
    """
    positive("compressed_bytes", compressed_bytes, remedy="compress the text with zlib")
    return log_likelihood / compressed_bytes


def recall_score(conditional: float, alone: float) -> float:
    """ReCaLL: log-likelihood behind a prefix of non-members over that without, both summed.

    A member loses more by the prefix. Raises `InputError` unless ``alone`` is below 0. Source: Xie
    et al. 2024 (arXiv 2406.15968).
    """
    if not (math.isfinite(alone) and alone < 0):
        raise InputError(
            f"alone is {alone:g} but a log-likelihood is a finite number below 0; leave out a "
            "record of which nothing is predicted."
        )
    return conditional / alone


def ez_score(target: ArrayLike, reference: ArrayLike, wrong: ArrayLike) -> float:
    """Errors zone: gains over losses of log p, target less reference, where the target errs.

    Args:
        target: (tokens,) log p under the model under test.
        reference: (tokens,) log p under the reference.
        wrong: (tokens,) whether the target's first guess is another token.

    Returns Σ max(Δ, 0) / Σ max(−Δ, 0) over those tokens, infinite where nothing is lost, also
    where the target never errs. Source: arXiv 2601.12104.
    """
    errs = _vector("wrong", wrong, like=_vector("target", target)).astype(bool)
    gain = _differences(target, reference)[errs]
    lost = float(np.maximum(-gain, 0).sum())
    return float(np.maximum(gain, 0).sum()) / lost if lost > 0 else math.inf


def window_score(
    target: ArrayLike, reference: ArrayLike, *, windows: Sequence[int] = WINDOWS
) -> float:
    """Window comparison: the mean over window lengths of the share of windows with ΣΔ > 0.

    Args:
        target: (tokens,) log p under the model under test.
        reference: (tokens,) log p under the reference.
        windows: lengths ≥ 1; those longer than the text are left out, and if all are, the text
            counts as one window.

    Source: arXiv 2601.02751.
    """
    gain = _differences(target, reference)
    if not windows or min(windows) < 1:
        raise InputError(f"windows is {tuple(windows)} but needs lengths of at least 1; give some.")
    fitting = [length for length in windows if length <= len(gain)] or [len(gain)]
    sums = np.concatenate([[0.0], np.cumsum(gain)])
    return float(np.mean([np.mean(sums[n:] - sums[:-n] > 0) for n in fitting]))


def lira_log_density(phi: ArrayLike, scores: ArrayLike) -> np.ndarray:
    """Log N(φ; μ, σ²) with mean and deviation of ``scores`` over its first axis, the models.

    Args:
        phi: (…) the score under test; on text the mean log p of the record.
        scores: (models, …) the same score under shadow models, at least two.

    The deviation is that of the sample (divided by n), as Carlini et al. 2022 fit it. Where all
    scores are equal the density is infinite at them and 0 elsewhere.
    """
    value, mean, deviation = _standardising(phi, scores)
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = (value - mean) / deviation
        density = -0.5 * distance**2 - np.log(deviation * math.sqrt(2 * math.pi))
    at = np.where(value == mean, np.inf, -np.inf)
    return np.where(deviation == 0, at, density)


def lira_online(phi: ArrayLike, inside: ArrayLike, outside: ArrayLike) -> np.ndarray:
    """LiRA: log density of φ among models trained with the record, less that without it.

    Args: ``inside`` and ``outside`` (models, …), each of at least two models.

    Source: Carlini et al. 2022 (arXiv 2112.03570).
    """
    return lira_log_density(phi, inside) - lira_log_density(phi, outside)


def lira_offline(phi: ArrayLike, outside: ArrayLike) -> np.ndarray:
    """LiRA without models of the record: z = (φ − μ_out)/σ_out.

    Not Φ(z), which is 1 for every z above 8.3 and would tie the most exposed records. Source:
    Carlini et al. 2022 (arXiv 2112.03570).
    """
    value, mean, deviation = _standardising(phi, outside)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(value == mean, 0.0, (value - mean) / deviation)


def rmia(
    p_x: ArrayLike,
    reference_x: ArrayLike,
    p_z: ArrayLike,
    reference_z: ArrayLike,
    *,
    a: float,
    gamma: float,
) -> np.ndarray:
    """RMIA: the share of the population that x's likelihood ratio exceeds γ times.

    Args:
        p_x: (records,) probabilities under the model under test; on text geometric means a token.
        reference_x: (records,) or (models, records) under models without the record.
        p_z: (population,) and
        reference_z: (population,) or (models, population): the same of other records.
        a: how the references without a record stand for all: p(x) = ½[(1 + a)·p_out + 1 − a].
        gamma: γ > 0, by how much x has to stand out.

    The share rises with x's own ratio alone, so its ROC is that of the reference ratio, with ties.
    Source: Zarifzadeh et al. 2024 (arXiv 2312.03262).
    """
    positive("gamma", gamma, remedy="choose one such as 1")
    if not 0 <= a <= 1:
        raise InputError(f"a is {a:g} but must lie in [0, 1]; choose one such as 0.3.")
    of_x = np.asarray(p_x, dtype=float) / _marginal(reference_x, p_x, a)
    of_z = np.sort(np.asarray(p_z, dtype=float) / _marginal(reference_z, p_z, a))
    if not of_z.size:
        raise InputError("p_z is empty; give the probabilities of other records.")
    return np.searchsorted(of_z * gamma, of_x, side="left") / of_z.size


def exposure(perplexity: float, reference_perplexities: ArrayLike) -> float:
    """log₂|R| − log₂ rank of a canary among |R| candidates, itself included, in bits.

    Args:
        perplexity: of the canary.
        reference_perplexities: (candidates,) of others of its kind, never trained on.

    A canary that ties with others ranks behind them. Source: Carlini et al. 2019 (arXiv
    1802.08232).
    """
    others = _vector("reference_perplexities", reference_perplexities)
    rank = 1 + int((others <= perplexity).sum())
    return math.log2(len(others) + 1) - math.log2(rank)


def _standardising(phi: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    table = np.asarray(scores, dtype=float)
    if table.ndim == 0 or len(table) < 2:
        raise InputError(
            f"The scores have shape {table.shape} but need at least two models on their first "
            "axis; train more shadow models."
        )
    return np.asarray(phi, dtype=float), table.mean(axis=0), table.std(axis=0)


def _marginal(reference: ArrayLike, like: ArrayLike, a: float) -> np.ndarray:
    out = np.asarray(reference, dtype=float)
    if out.ndim > np.ndim(like):
        out = out.mean(axis=0)
    return 0.5 * ((1 + a) * out + 1 - a)


def _differences(target: ArrayLike, reference: ArrayLike) -> np.ndarray:
    one = _vector("target", target)
    return one - _vector("reference", reference, like=one)


def _vector(name: str, values: ArrayLike, *, like: np.ndarray | None = None) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or not array.size or (like is not None and array.shape != like.shape):
        expected = "(tokens,), not empty" if like is None else f"{like.shape}"
        raise InputError(f"{name} has shape {array.shape} but must have {expected}.")
    if np.isnan(array).any():
        raise InputError(f"{name} holds NaN; leave that record out, or find out why it has none.")
    return array


def _logits_and_ids(logits: ArrayLike, ids: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    rows, tokens = np.asarray(logits, dtype=float), np.asarray(ids)
    if rows.ndim != 2 or tokens.shape != rows.shape[:1] or not len(tokens):
        raise InputError(
            f"logits has shape {rows.shape} and ids {tokens.shape} but they must be (tokens, "
            "vocabulary) and (tokens,), with at least one token."
        )
    if (
        not np.issubdtype(tokens.dtype, np.integer)
        or tokens.min() < 0
        or tokens.max() >= rows.shape[1]
    ):
        raise InputError(
            f"ids must be whole numbers from 0 to {rows.shape[1] - 1}, the vocabulary of logits; "
            "use the model's own tokenizer."
        )
    return rows, tokens
