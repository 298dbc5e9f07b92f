"""Every ε that is known of an audited run, side by side, each with what kind of statement it is."""

import math
from dataclasses import dataclass, replace

from workbench.audit.canaries import CanaryAudit, canary_cap
from workbench.audit.evidence import EmpiricalEpsilon
from workbench.audit.measures import SignalResult
from workbench.privacy import Guarantee
from workbench.privacy.written import written_epsilon

UPPER, CAP = "upper bound", "cap"
_SHORT = {"one run against Gaussian curves": "one run"}  # as its kind says the rest
_SIGNS = {"certificate": "≥", "rejects a curve": "≥", "heuristic": "≤", UPPER: "≤", CAP: "≤"}


@dataclass(frozen=True)
class Mark:
    """One ε on the ruler.

    Attributes:
        name: whose it is, in two or three words.
        kind: of an empirical ε as in `workbench.audit.bounds`, "upper bound" or "cap".
        value: ε; infinite where nothing bounds it.
        words: method, confidence, counts and δ, in a sentence.
    """

    name: str
    kind: str
    value: float
    words: str

    @property
    def sign(self) -> str:
        """On which side of it the truth is said to lie."""
        return _SIGNS.get(self.kind, "≈")

    @property
    def written(self) -> str:
        """Its sign and value."""
        if math.isinf(self.value):
            return "no bound"
        value = written_epsilon(self.value) if self.kind == UPPER else f"{self.value:.2f}"
        return f"{self.sign} {value}"


def marks(
    result: SignalResult,
    *,
    guarantee: Guarantee | None,
    heuristic: EmpiricalEpsilon | None,
    canaries: CanaryAudit | None = None,
) -> tuple[Mark, ...]:
    """The marks of one signal's result, the accountant's first.

    Args:
        result: of the signal, or of the canaries.
        guarantee: what the accountant certifies; None if the run is not private.
        heuristic: what the last weights alone could show, if that is known.
        canaries: the audit that ``result`` comes from, if it is of canaries.
    """
    found = [_upper(guarantee, canaries)]
    if heuristic is not None and (canaries is None or canaries.planted.repeats == 1):
        found.append(Mark("last iterate", "heuristic", heuristic.value, str(heuristic)))
    found += [_mark(told) for told in result.epsilons]
    found.append(_cap(result.epsilons[0]))
    return tuple(found)


def canary_epsilons(found: CanaryAudit) -> tuple[EmpiricalEpsilon, ...]:
    """The three statements of a canary audit; of copies, each says whose ε it is."""
    told = (found.certificate, found.rejects_gaussian, found.order_statistics)
    if found.planted.repeats == 1:
        return told
    unit = f"of a {found.planted.unit}, not of one record"
    return tuple(
        replace(each, premise=f"{each.premise}; {unit}" if each.premise else unit) for each in told
    )


def _cap(told: EmpiricalEpsilon) -> Mark:
    """The most that so many records could have shown, at the same confidence."""
    records, significance = told.counts["n_canaries"], told.significance
    assert significance is not None
    words = f"had every guess been right: {records:,} records of one run certify no more"
    cap = canary_cap(records, delta=told.delta, significance=significance)
    return Mark("largest certificate possible", CAP, cap, words)


def _upper(guarantee: Guarantee | None, canaries: CanaryAudit | None) -> Mark:
    if guarantee is None:
        return Mark("accountant", UPPER, math.inf, "not private: nothing bounds ε")
    if canaries is not None and canaries.planted.repeats > 1:
        epsilon, delta = canaries.ceiling
        unit = canaries.planted.unit
        words = f"of a {unit}, at δ = {delta:.2g}, from one record's {guarantee}"
        return Mark("accountant", UPPER, epsilon, words)
    return Mark("accountant", UPPER, guarantee.epsilon, str(guarantee))


def _mark(told: EmpiricalEpsilon) -> Mark:
    words = str(told) + (f"; premise: {told.premise}" if told.premise else "")
    return Mark(_SHORT.get(told.method, told.method), told.kind, told.value, words)
