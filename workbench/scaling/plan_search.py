"""The best of all runs that a law can tell of."""

from dataclasses import replace

import numpy as np

from workbench.errors import InputError
from workbench.scaling.plan_cells import Cells, Question, cells, frame_of, most_records
from workbench.scaling.plan_sources import LawSource
from workbench.scaling.plans import Kind, Plan, Planned, large_delta

SATURATED = 1.01  # times the lowest loss
LARGEST_RHO = 1.25
_BISECTIONS = 12
_ONLY_LOUD = (
    "No batch of ρ ≤ 1.25 reaches the target for this compute, so that this one bears more noise "
    "than its ε asks for."
)


def by_law(question: Question, law: LawSource, target: float | None) -> Planned:
    """All answers that a law gives."""
    found = cells(question, law)
    optimal = None
    if question.compute is not None:
        affordable = found.within(question.compute)
        if not affordable.any():
            raise InputError(
                f"compute is {question.compute:g} but even the smallest run that the source knows "
                f"takes {found.compute.min():.3g} FLOPs; give more."
            )
        optimal = _best(question, law, found, affordable)
    return Planned(
        law.words,
        optimal,
        _saturating(question, law, found),
        *_towards(question, law, found, target),
    )


def _best(question: Question, law: LawSource, found: Cells, allowed: np.ndarray) -> Plan:
    """The lowest loss; a batch whose ρ is too large only with the reason."""
    loss = np.where(allowed, found.loss, np.inf)
    at, notes = int(np.argmin(loss)), ()
    if found.rho[at] > LARGEST_RHO:
        quiet = np.where(found.rho <= LARGEST_RHO, loss, np.inf)
        other = int(np.argmin(quiet))
        if quiet[other] <= 1.001 * loss[at]:
            at = other
        else:
            notes = (_why_loud(found, at, other, float(quiet[other]), question),)
    return _plan("compute_optimal", question, law, found, at, notes)


def _saturating(question: Question, law: LawSource, found: Cells) -> Plan:
    """The least compute within 1 % of the lowest loss at any compute."""
    lowest = float(found.loss.min())
    enough = found.loss <= SATURATED * lowest
    quiet = enough & (found.rho <= LARGEST_RHO)
    allowed, notes = (quiet, ()) if quiet.any() else (enough, ("No batch has ρ ≤ 1.25 here.",))
    at = int(np.argmin(np.where(allowed, found.compute, np.inf)))
    best = int(np.argmin(found.loss))
    for name in ("n_params", "steps"):
        values = np.asarray(found.frame[name])
        if values[best] >= values.max() * 0.999:
            notes += (
                f"The lowest loss is at the largest {name} that the source lets plan, so that more "
                "compute may still help.",
            )
    return _plan("saturating", question, law, found, at, notes)


def _towards(
    question: Question, law: LawSource, found: Cells, target: float | None
) -> tuple[Plan | None, str]:
    """The cheapest run that reaches the target loss, or why none does."""
    if target is None:
        return None, ""
    reached = found.loss <= target
    if question.compute is not None:
        reached &= found.within(question.compute)
    if reached.any():
        quiet = reached & (found.rho <= LARGEST_RHO)
        allowed = quiet if quiet.any() else reached
        at = int(np.argmin(np.where(allowed, found.compute, np.inf)))
        notes = () if quiet.any() else (_ONLY_LOUD,)
        return _plan("target", question, law, found, at, notes), ""
    if question.compute is not None and (found.loss <= target).any():
        least = float(found.compute[found.loss <= target].min())
        return None, (
            f"Perplexity {np.exp(target):.4g} takes {least:.3g} FLOPs but compute is "
            f"{question.compute:.3g}; give more."
        )
    floor = float(found.loss.min())
    more = fewest_records(question, law, target)
    remedy = (
        f"about {more:.2g} records would reach it"
        if more is not None
        else "no number of records does, so that ε or the model has to change"
    )
    return None, (
        f"Perplexity {np.exp(target):.4g} cannot be reached with this data at ε = "
        f"{question.target_epsilon:g}: the floor is {np.exp(floor):.4g} ({floor:.3g} nats); "
        f"{remedy}."
    )


def fewest_records(question: Question, law: LawSource, target: float) -> float | None:
    """The fewest records with which some run reaches the target; None if none do."""
    low, high = np.log(max(question.records, 100.0)), np.log(most_records(question, law))
    if low >= high:
        return None

    def reached(log_records: float) -> bool:
        asked = replace(question, records=float(np.exp(log_records)), compute=None)
        return bool((cells(asked, law).loss <= target).any())

    if not reached(high):
        return None
    if reached(low):
        return float(np.exp(low))
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return float(np.exp(high))


def never(law: LawSource, question: Question, target: float) -> str:
    """That no number of records reaches the target, and the floor."""
    most = replace(question, records=most_records(question, law), compute=None)
    floor = float(cells(most, law).loss.min())
    return (
        f"Perplexity {np.exp(target):.4g} cannot be reached with any data at ε = "
        f"{question.target_epsilon:g}: the floor is {np.exp(floor):.4g} ({floor:.3g} nats)."
    )


def _plan(
    kind: Kind,
    question: Question,
    law: LawSource,
    found: Cells,
    at: int,
    notes: tuple[str, ...],
) -> Plan:
    """A cell as a plan, with a whole batch and whole steps."""
    row = found.frame.iloc[at]
    batch = int(min(max(1, round(row["expected_batch_size"])), question.records))
    one = frame_of(
        question,
        np.array([row["n_params"]]),
        np.array([float(batch)]),
        np.array([row["steps"]]),
        found.noise_multiplier[[at]],
    )
    low, high = law.interval(one)[0].tolist()
    outside = law.outside(one)
    if outside:
        far = ", ".join(f"{name} {times:.3g}×" for name, times in outside.items())
        notes += (f"Extrapolated beyond the source's points: {far}.",)
    if law.law.status:
        notes += (law.law.status,)
    notes += large_delta(question.records, question.delta)
    return Plan(
        kind=kind,
        source=law.words,
        loss_kind="causal_lm",
        records=question.records,
        record_tokens=question.record_tokens,
        target_epsilon=question.target_epsilon,
        delta=question.delta,
        n_params=float(row["n_params"]),
        expected_batch_size=batch,
        steps=int(row["steps"]),
        noise_multiplier=float(found.noise_multiplier[at]),
        rho=float(found.rho[at]),
        loss=float(np.exp(law.log_loss(one)[0])),
        loss_interval=(low, high),
        outside=outside,
        notes=notes,
    )


def _why_loud(found: Cells, at: int, other: int, quiet: float, question: Question) -> str:
    lost = (
        f"the best batch of ρ ≤ {LARGEST_RHO:g} here, "
        f"{found.frame['expected_batch_size'].iloc[other]:.0f}, loses "
        f"{quiet - found.loss[at]:.2g} nats"
        if np.isfinite(quiet)
        else f"no batch of ρ ≤ {LARGEST_RHO:g} is affordable"
    )
    return (
        f"ρ is {found.rho[at]:.3g}, so that a larger batch would lower the noise, but with compute "
        f"{question.compute:.3g} {lost}, because fewer steps are left."
    )
