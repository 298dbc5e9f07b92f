"""What a run's canaries say: scores, right guesses, and what follows for ε, each with its kind.

A canary is in the training set by a fair coin (`workbench.training.planting`). Its score is how
much likelier training has made the tokens that are scored, in nats; higher means "in". The coins
take no part in a score. Guesses follow the rule "paid" of `workbench.audit.evidence`: K counts
⌈m·2⁻ʲ⌉, fixed before any score, each at significance/K.

>>> round(canary_cap(500, delta=1e-5, significance=0.05), 2)
3.91
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workbench.audit.bounds import one_run_fdp_p_value
from workbench.audit.evidence import (
    EmpiricalEpsilon,
    Rule,
    certificate,
    correct_guesses,
    one_run_epsilon,
    order_estimate,
    ranked,
    rejected_gaussian,
)
from workbench.audit.own_curve import mechanism_inverse
from workbench.config import RunConfig
from workbench.errors import InputError, positive, probability, whole
from workbench.privacy import Guarantee
from workbench.privacy.schedule import History
from workbench.runs.folder import read_run
from workbench.runs.planted import Planted, read_planted
from workbench.runs.verify import verify


@dataclass(frozen=True, eq=False)
class CanaryAudit:
    """The audit of one run by its canaries.

    Attributes:
        planted: the canaries.
        scores: (canaries,) nats gained, higher meaning "in".
        guarantee: what the accountant certifies for one record.
        significance: of each statement by itself, over all guess counts.
        certificate: ε that any guarantee of one unit of the audit must exceed.
        rejects_gaussian: ε of the largest Gaussian curve refuted.
        order_statistics: an estimate.
        own_p_value: how likely so many right guesses are under the run's own (σ, q, T), at most;
            None where one record's curve does not speak of the audit.
        cap: the certificate if every guess had been right.
    """

    planted: Planted
    scores: np.ndarray
    guarantee: Guarantee
    significance: float
    certificate: EmpiricalEpsilon
    rejects_gaussian: EmpiricalEpsilon
    order_statistics: EmpiricalEpsilon
    own_p_value: float | None
    cap: float

    @property
    def ceiling(self) -> tuple[float, float]:
        """ε and δ that the accountant's guarantee allows for one unit of this audit."""
        own = self.guarantee
        return group_guarantee(own.epsilon, own.delta, size=self.planted.repeats)

    @property
    def contradicts(self) -> bool:
        """Whether the guarantee itself is refuted, by the certificate or the own curve."""
        own = self.own_p_value is not None and self.own_p_value <= self.significance
        one = self.planted.repeats == 1  # else the two are of other units
        return own or (one and self.certificate.value > self.guarantee.epsilon)

    def as_dict(self) -> dict[str, Any]:
        """All of it for JSON; an infinite ε is null."""
        epsilon, delta = self.ceiling
        return {
            "canary_kind": self.planted.kind,
            "canaries": len(self.planted),
            "in": int(self.planted.included.sum()),
            "unit": self.planted.unit,
            "certificate": self.certificate.as_dict(),
            "rejects_gaussian": self.rejects_gaussian.as_dict(),
            "order_statistics": self.order_statistics.as_dict(),
            "own_mechanism_p_value": self.own_p_value,
            "most_it_could_certify": self.cap,
            "ceiling_epsilon": epsilon if math.isfinite(epsilon) else None,
            "ceiling_delta": delta,
        }


def canary_audit(run_dir: str | Path, *, significance: float = 0.05) -> CanaryAudit:
    """Audit a run by the canaries that were planted in it.

    Args:
        run_dir: the run's folder, whose newest weights are scored.
        significance: how often each statement may be wrong of a true guarantee.

    Raises `InputError` if the run has no canaries or no weights yet, or its folder does not hold
    together. Source: Steinke et al. 2023 (arXiv 2305.08846) and `workbench.audit.evidence`.
    """
    planted, scores = canary_scores(run_dir)
    record = read_run(run_dir)
    private = record.config.privacy.private and planted.repeats == 1
    return audited(
        planted,
        scores,
        record.ledger.guarantee(),
        significance=significance,
        history=record.ledger.history if private else [],
    )


def audited(
    planted: Planted,
    scores: np.ndarray,
    guarantee: Guarantee,
    *,
    significance: float,
    history: History,
) -> CanaryAudit:
    """The audit of scores given; ``history`` is the run's own mechanism, or empty."""
    coins, delta = planted.included, guarantee.delta
    return CanaryAudit(
        planted=planted,
        scores=scores,
        guarantee=guarantee,
        significance=significance,
        certificate=certificate(scores, coins, delta=delta, significance=significance),
        rejects_gaussian=rejected_gaussian(scores, coins, delta=delta, significance=significance),
        order_statistics=order_estimate(scores, coins, delta=delta, significance=significance),
        own_p_value=own_p_value(scores, coins, history) if history else None,
        cap=canary_cap(len(planted), delta=delta, significance=significance),
    )


def own_p_value(scores: np.ndarray, coins: np.ndarray, history: History) -> float:
    """How likely so many right guesses are under the mechanism of ``history``, at most.

    The least of all guess counts, times how many they are.
    """
    inverse, order = mechanism_inverse(history), ranked(scores)
    offered = Rule().offered(len(scores))
    p_values = (
        one_run_fdp_p_value(inverse, len(scores), r, correct_guesses(order, coins, r))
        for r in offered
    )
    return min(1.0, len(offered) * min(p_values))


def canary_scores(run_dir: str | Path) -> tuple[Planted, np.ndarray]:
    """The canaries of a run and their scores, (canaries,) nats gained, higher meaning "in".

    The coins take no part in a score. Raises `InputError` as `canary_audit`.
    """
    from workbench.training import models
    from workbench.training.planting import canary_log_likelihoods

    verify(run_dir)
    record = read_run(run_dir)
    planted = read_planted(record.path, record.ledger.planted)
    if planted is None:
        raise InputError(
            f"{record.path} was trained without canaries, which have to be planted before the "
            "first step; set canaries.count and train again."
        )
    if record.checkpoint is None:
        raise InputError(f"{record.path} has no weights yet; let it reach its first checkpoint.")
    model, _ = models.from_directory(record.checkpoint)
    gained = canary_log_likelihoods(model, planted) - planted.before
    if not np.isfinite(gained).all():
        raise InputError(
            f"The weights in {record.checkpoint} give scores that are not finite; the run diverged,"
            " so train again with a lower learning rate."
        )
    return planted, gained


def canary_cap(n_canaries: int, *, delta: float, significance: float) -> float:
    """The most that so many canaries could certify, if every guess is right.

    Known before training: where it lies below the ε of interest, plant more.
    """
    m = whole("n_canaries", n_canaries, least=1, remedy="plant some")
    probability("significance", significance, remedy="choose one such as 0.05")
    offered = Rule().offered(m)
    level = significance / len(offered)
    return max(one_run_epsilon(m, r, r, delta=delta, significance=level) for r in offered)


def group_guarantee(epsilon: float, delta: float, *, size: int) -> tuple[float, float]:
    """What an (ε, δ) guarantee of one record says of ``size`` copies: (kε, δ·Σ_{j<k} e^{jε}).

    A δ of 1 promises nothing. Source: Dwork & Roth 2014, theorem 2.2, and its extension to δ.

    >>> group_guarantee(1.0, 1e-5, size=1)
    (1.0, 1e-05)
    >>> epsilon, delta = group_guarantee(1.0, 1e-5, size=4)
    >>> epsilon, round(delta, 6)
    (4.0, 0.000312)
    """
    k = whole("size", size, least=1, remedy="count the copies of one canary")
    if math.isinf(epsilon):
        return math.inf, 1.0 if k > 1 else delta
    positive("epsilon", epsilon, remedy="give the accountant's")
    terms = [j * epsilon for j in range(k)]
    total = math.log(delta) + float(np.logaddexp.reduce(terms)) if delta else -math.inf
    return k * epsilon, delta if k == 1 else min(1.0, math.exp(min(total, 0.0)))


def canary_preflight(config: RunConfig, *, significance: float = 0.05) -> str:
    """What the canaries of ``config`` could show, and what they change, in words; before training.

    Encodes the corpus and plants them as training would, so that whatever training refuses is
    refused here: too few public records, canaries without a loss, copies of training records.
    """
    from workbench.training.prepare import prepare

    asked = config.canaries
    if asked.count == 0:
        raise InputError("canaries.count is 0; set how many are to be planted, such as 500.")
    prepared = prepare(config)
    assert prepared.planted is not None
    cap = canary_cap(asked.count, delta=config.privacy.delta, significance=significance)
    told = [
        f"{asked.count} canaries ({asked.kind.replace('_', ' ')}), each in or out by a fair coin, "
        f"count as {asked.records} of N = {prepared.plan.dataset_size:,} records",
        "each has a loss after truncation and padding, and none is among the other records",
        f"if every guess is right they certify ε ≥ {cap:.2f} at most "
        f"(significance {significance:g}, δ = {config.privacy.delta:g})",
    ]
    if asked.new_tokens:
        told.append(f"the vocabulary and the embedding grow by {asked.new_tokens} tokens")
    if asked.repeats > 1:
        told.append(
            f"the audit is of groups of {asked.repeats} copies, for which the guarantee allows "
            f"{asked.repeats} times the ε of one record"
        )
    return "; ".join(told) + "."
