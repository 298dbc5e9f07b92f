"""From scores to what they say of ε: guesses by a rule fixed beforehand, and the kind of statement.

Guess counts and thresholds are never searched for free. There are three rules:

*fixed*: one count, given before the scores are seen, at the whole significance;
*paid*: K counts ⌈m·2⁻ʲ⌉, each at significance/K, of which the largest ε is told;
*split*: the best count on a random half of the records, then the other half at the whole
significance.

Scores that are equal are ordered by chance, not by where the records stand: constant scores know
nothing.

>>> told = certificate(np.array([3.0, 2.0, 1.0, 0.0] * 50), np.array([1, 1, 0, 0] * 50) == 1,
...                    delta=0, significance=0.05, rule=Rule("fixed", 100))
>>> print(told)
ε ≥ 3.49 (certificate, one run, 95 %: 100 of 100 guesses right among 200 records, δ = 0)
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from workbench.audit import bounds
from workbench.audit.bounds import Kind
from workbench.errors import InputError, probability, whole

PAID = 6  # guess counts of the paid rule

# They depend on counts alone, and a threshold that is dragged comes back to the same ones.
one_run_epsilon = lru_cache(maxsize=4096)(bounds.one_run_epsilon)
one_run_fdp_epsilon = lru_cache(maxsize=4096)(bounds.one_run_fdp_epsilon)
one_run_order_epsilon = lru_cache(maxsize=4096)(bounds.one_run_order_epsilon)


@dataclass(frozen=True)
class EmpiricalEpsilon:
    """An ε that an attack's success speaks for, and what kind of statement it is.

    Attributes:
        value: ε, 0 where nothing is shown.
        kind: "certificate", "rejects a curve", "estimate" or "heuristic".
        method: in words, such as "one run".
        significance: how often the statement may be wrong where its premises hold; None for a
            heuristic.
        delta: δ of the guarantee under test.
        counts: what was counted, such as ``n_canaries``, ``n_guesses`` and ``n_correct``.
        rule: how the threshold or the number of guesses was fixed.
        most: the ε that as many guesses would have shown, had all been right.
        premise: what must hold besides, or why it is no certificate; empty if nothing.
    """

    value: float
    kind: Kind
    method: str
    significance: float | None
    delta: float
    counts: Mapping[str, int] = field(default_factory=dict)
    rule: str = ""
    most: float = math.nan
    premise: str = ""

    def __str__(self) -> str:
        sign = {"certificate": "≥", "rejects a curve": "≥", "heuristic": "≤"}.get(self.kind, "≈")
        trust = None if self.significance is None else 100 * (1 - self.significance)
        level = "" if trust is None else f", {trust:.4g} %"
        what = self._counted()
        return (
            f"ε {sign} {self.value:.2f} ({self.kind}, {self.method}{level}"
            f"{': ' if what else ', '}{what}δ = {self.delta:g})"
        )

    def _counted(self) -> str:
        counts = self.counts
        if "n_guesses" in counts:
            return (
                f"{counts['n_correct']:,} of {counts['n_guesses']:,} guesses right among "
                f"{counts['n_canaries']:,} records, "
            )
        if "positives" in counts:
            return (
                f"{counts['true_positives']:,} of {counts['positives']:,} members and "
                f"{counts['false_positives']:,} of {counts['negatives']:,} others above, "
            )
        return ""

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON holds it; what is not finite is null."""
        numbers = {name: getattr(self, name) for name in ("value", "delta", "most")}
        return {
            "kind": self.kind,
            "method": self.method,
            **{k: v if math.isfinite(v) else None for k, v in numbers.items()},
            "significance": self.significance,
            "counts": dict(self.counts),
            "rule": self.rule,
            "premise": self.premise,
            "words": str(self),
        }


@dataclass(frozen=True)
class Rule:
    """How the number of guesses is fixed; ``guesses`` is for the rule "fixed" alone."""

    name: Literal["fixed", "paid", "split"] = "paid"
    guesses: int | None = None
    counts: int = PAID

    def __post_init__(self) -> None:
        if self.name not in ("fixed", "paid", "split"):
            raise InputError(f"rule is {self.name!r} but must be fixed, paid or split; choose one.")
        if (self.name == "fixed") != (self.guesses is not None):
            raise InputError(
                f"guesses is {self.guesses} with the rule {self.name!r}; give a number of guesses "
                "with the rule 'fixed' and with no other."
            )

    def offered(self, records: int) -> list[int]:
        """The guess counts that are tried on as many records, the largest first."""
        if self.name == "fixed":
            guesses = whole("guesses", self.guesses, least=1, remedy="guess some")
            if guesses > records:
                raise InputError(
                    f"guesses is {guesses} but there are {records} records; guess fewer."
                )
            return [guesses]
        return sorted({math.ceil(records / 2**j) for j in range(1, self.counts + 1)}, reverse=True)

    def __str__(self) -> str:
        match self.name:
            case "fixed":
                return f"{self.guesses} guesses, fixed beforehand"
            case "paid":
                return f"best of {self.counts} guess counts, each at 1/{self.counts} of the level"
            case _:
                return "the guess count that was best on one half, tested on the other"


def correct_guesses(order: np.ndarray, member: np.ndarray, guesses: int) -> int:
    """How many of ``guesses`` are right: the upper half of them "member", the lower half not.

    Args:
        order: (records,) indices from the highest score to the lowest, as `ranked` gives.
        member: (records,) the truth.
        guesses: with an odd number, one more is guessed a member.
    """
    upper, lower = (guesses + 1) // 2, guesses // 2
    out = ~member[order[len(order) - lower :]]
    return int(member[order[:upper]].sum() + out.sum())


def ranked(scores: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Indices from the highest score to the lowest, ties in random order."""
    mixed = np.random.default_rng(seed).permutation(len(scores))
    return mixed[np.argsort(-scores[mixed], kind="stable")]


_Bound = Callable[[int, int, int, float], float]


def certificate(
    scores: np.ndarray,
    member: np.ndarray,
    *,
    delta: float,
    significance: float,
    rule: Rule | None = None,
    premise: str = "",
    seed: int = 0,
    order: np.ndarray | None = None,
) -> EmpiricalEpsilon:
    """What one run's guesses refute of (ε, δ)-DP; an estimate if ``premise`` says what is missing.

    Args:
        scores: (records,) higher saying "member".
        member: (records,) decided by independent fair coins before training.
        delta: δ of the guarantee under test.
        significance: how often a true guarantee may be refuted.
        rule: how the number of guesses is fixed; "paid" if not given.
        premise: why the records are no independent coins, or the scores looked at them.
        seed: of ties and of the rule "split".
        order: what `ranked` gives for these scores, where it is known already.
    """

    def bound(m: int, r: int, v: int, level: float) -> float:
        return one_run_epsilon(m, r, v, delta=delta, significance=level)

    kind: Kind = "estimate" if premise else "certificate"
    empty = EmpiricalEpsilon(0.0, kind, "one run", significance, delta, premise=premise)
    return _by_rule(bound, empty, scores, member, rule or Rule(), seed, order)


def rejected_gaussian(
    scores: np.ndarray,
    member: np.ndarray,
    *,
    delta: float,
    significance: float,
    rule: Rule | None = None,
    premise: str = "",
    seed: int = 0,
    order: np.ndarray | None = None,
) -> EmpiricalEpsilon:
    """The ε of the largest Gaussian curve that one run's guesses refute; see `certificate`."""

    def bound(m: int, r: int, v: int, level: float) -> float:
        return one_run_fdp_epsilon(m, r, v, delta=delta, significance=level)

    kind: Kind = "estimate" if premise else "rejects a curve"
    method = "one run against Gaussian curves"
    empty = EmpiricalEpsilon(0.0, kind, method, significance, delta, premise=premise)
    return _by_rule(bound, empty, scores, member, rule or Rule(), seed, order)


def order_estimate(
    scores: np.ndarray,
    member: np.ndarray,
    *,
    delta: float,
    significance: float,
    rule: Rule | None = None,
    seed: int = 0,
    order: np.ndarray | None = None,
) -> EmpiricalEpsilon:
    """The ε that order statistics of one run suggest; see `certificate`."""

    def bound(m: int, r: int, v: int, level: float) -> float:
        return one_run_order_epsilon(m, r, v, delta=delta, significance=level)

    premise = "each score an independent draw of a Gaussian mechanism"
    empty = EmpiricalEpsilon(
        0.0, "estimate", "order statistics", significance, delta, premise=premise
    )
    return _by_rule(bound, empty, scores, member, rule or Rule(), seed, order)


def rate_estimates(
    scores: np.ndarray,
    member: np.ndarray,
    *,
    delta: float,
    significance: float,
    seed: int = 0,
    order: np.ndarray | None = None,
) -> tuple[EmpiricalEpsilon, EmpiricalEpsilon]:
    """Clopper–Pearson and GDP on the records of one run, which share its chance: estimates both.

    The threshold passes a tenth of all records, a share fixed beforehand.
    """
    order = ranked(scores, seed=seed) if order is None else order
    above = order[: max(1, len(scores) // 10)]
    true = int(member[above].sum())
    counts = {
        "true_positives": true,
        "positives": int(member.sum()),
        "false_positives": len(above) - true,
        "negatives": int((~member).sum()),
    }
    told = {"delta": delta, "significance": significance}
    shared = "records of one run share its chance, so this may exceed the truth"
    rule = "the threshold that a tenth of all records pass, fixed beforehand"
    one, other = (
        EmpiricalEpsilon(
            float(of(*counts.values(), **told)),
            "estimate",
            method,
            significance,
            delta,
            counts,
            rule,
            premise=shared,
        )
        for of, method in (
            (bounds.clopper_pearson_epsilon, "Clopper–Pearson on one run"),
            (bounds.gdp_audit_epsilon, "GDP on one run"),
        )
    )
    return one, other


def _by_rule(
    bound: _Bound,
    empty: EmpiricalEpsilon,
    scores: np.ndarray,
    member: np.ndarray,
    rule: Rule,
    seed: int,
    order: np.ndarray | None = None,
) -> EmpiricalEpsilon:
    """The largest ε among the guess counts that the rule allows, each at what it pays for."""
    scores, member = _checked(scores, member)
    assert empty.significance is not None
    probability("significance", empty.significance, remedy="choose one such as 0.05")
    if rule.name == "split":
        if len(scores) < 4:
            raise InputError(
                f"There are {len(scores)} records, too few to split; use the rule 'paid'."
            )
        half = np.random.default_rng([seed, 1]).permutation(len(scores)) < len(scores) // 2
        paid = Rule("paid", None, rule.counts)
        tuned = _by_rule(bound, empty, scores[half], member[half], paid, seed)
        share = tuned.counts["n_guesses"] / half.sum()
        guesses = max(1, round(share * int((~half).sum())))
        found = _by_rule(bound, empty, scores[~half], member[~half], Rule("fixed", guesses), seed)
        return replace(found, rule=str(rule))
    order = ranked(scores, seed=seed) if order is None else order
    offered = rule.offered(len(scores))
    level = empty.significance / (len(offered) if rule.name == "paid" else 1)
    told = []
    for guesses in offered:
        right = correct_guesses(order, member, guesses)
        told.append((bound(len(scores), guesses, right, level), right / guesses, guesses, right))
    value, _, guesses, right = max(told)
    return replace(
        empty,
        value=value,
        counts={"n_canaries": len(scores), "n_guesses": guesses, "n_correct": right},
        rule=str(rule),
        most=bound(len(scores), guesses, guesses, level),
    )


def _checked(scores: np.ndarray, member: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores, member = np.asarray(scores, dtype=float), np.asarray(member, dtype=bool)
    if scores.ndim != 1 or scores.shape != member.shape or not len(scores):
        raise InputError(
            f"scores has shape {scores.shape} and member {member.shape} but both must be "
            "(records,); give one score and one side a record."
        )
    if np.isnan(scores).any():
        raise InputError("scores holds NaN; leave those records out.")
    return scores, member
