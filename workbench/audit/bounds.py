"""What an attack's success says about ε, and what kind of statement each such ε is.

*certificate*: the guarantee is refuted below it, at the stated significance, for any mechanism.
*rejects a curve*: one family of trade-off curves is refuted below it; the ε is that family's.
*estimate*: holds under a model of the mechanism, and may exceed the truth where that is wrong.
*heuristic*: computed from the configuration under an assumption about the attacker.

Counts of correct guesses presuppose that the number of guesses (or the threshold) was fixed before
the answers were seen. Scores are in nats, natural logarithms throughout.

>>> round(one_run_epsilon(100, 100, 100, delta=0, significance=0.05), 2)
3.49
>>> round(clopper_pearson_epsilon(500, 500, 0, 500, delta=0, significance=0.01), 4)
4.5419
"""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from scipy.special import bdtr, bdtrc, betaincinv, log_ndtr, ndtr, ndtri
from scipy.stats import binom

from workbench.audit.gaussian import gaussian_epsilon, gaussian_inverse
from workbench.errors import InputError, probability, whole

Kind = Literal["certificate", "rejects a curve", "estimate", "heuristic"]
KINDS: dict[str, Kind] = {
    "one_run_epsilon": "certificate",
    "clopper_pearson_epsilon": "certificate",
    "one_run_fdp_epsilon": "rejects a curve",
    "one_run_order_epsilon": "estimate",
    "gdp_audit_epsilon": "estimate",
    "last_iterate_epsilon": "heuristic",
}

_LARGEST_EPSILON = 700.0  # exp of more overflows
_LARGEST_MU = 40.0  # a Gaussian this far apart is told without error in 1e300 trials
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(80)


def one_run_epsilon(
    n_canaries: int, n_guesses: int, n_correct: int, *, delta: float, significance: float
) -> float:
    """The ε below which one run's guesses refute (ε, δ)-DP: a certificate.

    Args:
        n_canaries: m, each included by an independent fair coin before training.
        n_guesses: r ≤ m, how many of them the attacker guesses in or out, fixed beforehand.
        n_correct: v ≤ r, how many guesses are right.
        delta: δ of the guarantee under test, 0 for pure ε.
        significance: how often a true guarantee may be refuted.

    Returns 0 where nothing is refuted. Raises `InputError` for counts that do not nest.

    Source: Steinke, Nasr & Jagielski 2023 (arXiv 2305.08846).
    """
    m, r, v = _guesses(n_canaries, n_guesses, n_correct)
    _terms(delta, significance)

    def p_value(epsilon: float) -> float:
        return one_run_p_value(m, r, v, epsilon=epsilon, delta=delta)

    return _first_crossing(p_value, significance)


def one_run_p_value(
    n_canaries: int, n_guesses: int, n_correct: int, *, epsilon: float, delta: float
) -> float:
    """How likely as many right guesses are under (ε, δ)-DP, at most: min{1, β + 2mδα}."""
    m, r, v = _guesses(n_canaries, n_guesses, n_correct)
    if v == 0:
        return 1.0
    right = 1 / (1 + math.exp(-epsilon))
    beta = float(bdtrc(v - 1, r, right))
    if delta == 0 or beta >= 1:
        return min(1.0, beta)
    return min(1.0, beta + 2 * m * delta * _densest_window(r, v, right))


def clopper_pearson_epsilon(
    true_positives: int,
    positives: int,
    false_positives: int,
    negatives: int,
    *,
    delta: float,
    significance: float,
) -> float:
    """max{ln((TPR − δ)/FPR), ln((TNR − δ)/FNR)} at Clopper–Pearson limits.

    A certificate only where every positive and negative is a model trained independently, and the
    threshold was fixed beforehand. On canaries of one run, which share its chance, it is an
    estimate. Each limit is one-sided at ``significance``/2, and both ratios use the same two.

    Raises `InputError` for counts outside their totals.

    Source: Jagielski et al. 2020 (arXiv 2006.07709).
    """
    hit, false_alarm = _rate_limits(
        true_positives, positives, false_positives, negatives, significance=significance
    )
    _terms(delta, significance)
    ratios = [
        _log_ratio(hit - delta, false_alarm),
        _log_ratio(1 - false_alarm - delta, 1 - hit),
    ]
    return max(0.0, *ratios)


def gdp_audit_epsilon(
    true_positives: int,
    positives: int,
    false_positives: int,
    negatives: int,
    *,
    delta: float,
    significance: float,
) -> float:
    """The ε of the μ-GDP that the two rates refute, μ = Φ⁻¹(TPR) − Φ⁻¹(FPR) at their limits.

    An estimate: it supposes that the mechanism's trade-off curve is a Gaussian's. Limits are as in
    `clopper_pearson_epsilon`. Source: Nasr et al. 2023 (arXiv 2302.07956).
    """
    hit, false_alarm = _rate_limits(
        true_positives, positives, false_positives, negatives, significance=significance
    )
    _terms(delta, significance, least=True)
    mu = float(ndtri(hit) - ndtri(false_alarm))
    return gaussian_epsilon(mu, delta=delta) if mu > 0 else 0.0


def one_run_fdp_epsilon(
    n_canaries: int, n_guesses: int, n_correct: int, *, delta: float, significance: float
) -> float:
    """The ε of the largest Gaussian trade-off curve that one run's guesses refute.

    Arguments as in `one_run_epsilon`, and δ > 0. It rejects curves of μ-GDP; the run's own curve
    is tested by `one_run_rejects`. Source: Mahloujifar, Melis & Chaudhuri 2024 (arXiv 2410.22235),
    with ε from μ by Dong et al. 2022, corollary 2.13.
    """
    m, r, v = _guesses(n_canaries, n_guesses, n_correct)
    _terms(delta, significance, least=True)

    def rejected(mu: float) -> bool:
        return one_run_rejects(gaussian_inverse(mu), m, r, v, significance=significance)

    mu = _largest(rejected, _LARGEST_MU)
    return gaussian_epsilon(mu, delta=delta) if mu > 0 else 0.0


def one_run_rejects(
    inverse: Callable[[float], float],
    n_canaries: int,
    n_guesses: int,
    n_correct: int,
    *,
    significance: float,
) -> bool:
    """Whether one run's guesses refute a trade-off curve f.

    Args:
        inverse: f̄⁻¹ with f̄ = 1 − f, from a true positive rate in [0, 1] to the smallest false
            positive rate that allows it.
        n_canaries: as in `one_run_epsilon`, like the two that follow.
        n_guesses: how many were guessed.
        n_correct: how many guesses are right.
        significance: how often a true curve may be refuted.

    Source: Mahloujifar, Melis & Chaudhuri 2024 (arXiv 2410.22235).
    """
    m, r, v = _guesses(n_canaries, n_guesses, n_correct)
    share = r / m
    wrong, right = significance * (r - v) / m, significance * v / m
    for i in range(v - 1, -1, -1):
        more = max(wrong, inverse(min(1.0, right)))
        if more <= wrong:
            break  # nothing will change any more
        right = min(1.0, right + (more - wrong) * i / (r - i))
        wrong = more
        if right + wrong > share:
            return True
    return right + wrong > share


def one_run_fdp_p_value(
    inverse: Callable[[float], float], n_canaries: int, n_guesses: int, n_correct: int
) -> float:
    """The smallest significance at which `one_run_rejects` refutes the curve; 1 if none does."""

    def kept(significance: float) -> bool:
        return not one_run_rejects(
            inverse, n_canaries, n_guesses, n_correct, significance=significance
        )

    if kept(1.0):
        return 1.0
    low, high = -80.0, 0.0  # in natural logarithms
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if kept(math.exp(middle)) else (low, middle)
    return math.exp(high)


def one_run_order_epsilon(
    n_canaries: int, n_guesses: int, n_correct: int, *, delta: float, significance: float
) -> float:
    """The ε of the largest μ that the errors among the r most confident guesses make unlikely.

    An estimate, not a bound: it supposes that each canary's score is an independent draw of a
    Gaussian mechanism. Arguments as in `one_run_fdp_epsilon`.

    The confidence of the r-th guess is an order statistic, of which W ~ Beta(m − r, r + 1) is the
    quantile; above it a guess errs with probability γ̄(W), so that the errors are
    E_W Bin(r, γ̄(W)). Source: arXiv 2509.08704.
    """
    m, r, v = _guesses(n_canaries, n_guesses, n_correct)
    _terms(delta, significance, least=True)
    if r == 0:
        return 0.0
    below = np.zeros(1) if r == m else betaincinv(m - r, r + 1, (_NODES + 1) / 2)
    weights = np.ones(1) if r == m else _WEIGHTS / 2

    def too_few_errors(mu: float) -> bool:
        return float(weights @ bdtr(r - v, r, _error_above(below, mu))) <= significance

    mu = _largest(too_few_errors, _LARGEST_MU)
    return gaussian_epsilon(mu, delta=delta) if mu > 0 else 0.0


def _error_above(below: np.ndarray, mu: float) -> np.ndarray:
    """How often a guess errs whose confidence |L| is above its quantile ``below``, per quantile.

    L = μx − μ²/2 is N(±μ²/2, μ²) with the canary in or out, and a guess errs where its sign is
    wrong, so the share of errors above t is Φ((−t − μ²/2)/μ), and of all guesses that plus
    Φ((−t + μ²/2)/μ).
    """
    if mu == 0:
        return np.full(below.shape, 0.5)
    low, high = np.zeros(below.shape), np.full(below.shape, mu * mu / 2 + 40 * mu)
    for _ in range(50):
        middle = (low + high) / 2
        above = ndtr((-middle - mu * mu / 2) / mu) + ndtr((-middle + mu * mu / 2) / mu)
        too_low = above > 1 - below
        low, high = np.where(too_low, middle, low), np.where(too_low, high, middle)
    wrong = log_ndtr((-low - mu * mu / 2) / mu)
    every = np.logaddexp(wrong, log_ndtr((-low + mu * mu / 2) / mu))
    return np.exp(wrong - every)


def _densest_window(r: int, v: int, right: float) -> float:
    """Max over 1 ≤ i ≤ v of P[v − i ≤ Bin(r, right) < v] / i."""
    # Below the mode by ten deviations and more, a longer window only adds zeros.
    low = max(0, min(v - 1, math.floor(r * right - 10 * math.sqrt(r * right * (1 - right)) - 10)))
    counts = np.arange(v - 1, low - 1, -1)
    within = np.cumsum(binom.pmf(counts, r, right))
    return float((within / np.arange(1, len(counts) + 1)).max())


def _first_crossing(p_value: Callable[[float], float], significance: float) -> float:
    """The smallest ε from which on the p-value is no longer within ``significance``.

    p-values rise with ε. Should one dip again, what lies behind is not claimed: a true ε is then
    exceeded only if it is itself refuted.
    """
    if p_value(0.0) > significance:
        return 0.0
    low, step = 0.0, 0.25
    while p_value(low + step) <= significance:
        low += step
        if low > _LARGEST_EPSILON:
            return low
    return _bisected(lambda epsilon: p_value(epsilon) <= significance, low, low + step)


def _largest(holds: Callable[[float], bool], most: float) -> float:
    """The end of the stretch from 0 on which ``holds`` is true, 0 if it is not true at 0."""
    if not holds(0.0):
        return 0.0
    low, step = 0.0, 0.05
    while low < most and holds(low + step):
        low += step
        step = max(0.05, low / 8)
    return _bisected(holds, low, low + step)


def _bisected(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Where ``holds`` ends between ``low``, where it is true, and ``high``; from below."""
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _log_ratio(numerator: float, denominator: float) -> float:
    if numerator <= 0:
        return -math.inf
    return math.log(numerator / denominator) if denominator > 0 else math.inf


def _rate_limits(
    true_positives: int,
    positives: int,
    false_positives: int,
    negatives: int,
    *,
    significance: float,
) -> tuple[float, float]:
    """The lower limit of TPR and the upper one of FPR, each at ``significance``/2."""
    probability("significance", significance, remedy="choose one such as 0.05")
    hits, members = _nested("true_positives", true_positives, "positives", positives)
    alarms, others = _nested("false_positives", false_positives, "negatives", negatives)
    outside = significance / 2
    low = 0.0 if hits == 0 else float(betaincinv(hits, members - hits + 1, outside))
    high = 1.0 if alarms == others else float(betaincinv(alarms + 1, others - alarms, 1 - outside))
    return low, high


def _guesses(n_canaries: int, n_guesses: int, n_correct: int) -> tuple[int, int, int]:
    guesses, canaries = _nested("n_guesses", n_guesses, "n_canaries", n_canaries)
    correct, _ = _nested("n_correct", n_correct, "n_guesses", guesses, least=0)
    return canaries, guesses, correct


def _nested(name: str, part: int, of_name: str, total: int, *, least: int = 1) -> tuple[int, int]:
    total = whole(of_name, total, least=least, remedy="count them")
    part = whole(name, part, least=0, remedy="count them")
    if part > total:
        raise InputError(f"{name} is {part} but {of_name} is {total}; count them again.")
    return part, total


def _terms(delta: float, significance: float, *, least: bool = False) -> None:
    probability("significance", significance, remedy="choose one such as 0.05")
    if least or delta != 0:
        probability("delta", delta, remedy="choose that of the guarantee, such as 1e-5")
