"""A fitted law as text and as JSON."""

import math
from typing import Any

import numpy as np

from workbench.scaling.fitted import FittedLaw
from workbench.scaling.isoflop import FittedIsoflop
from workbench.scaling.plan_hardware import Hardware
from workbench.scaling.plans import Plan


def as_dict(fitted: FittedLaw) -> dict[str, Any]:
    """Everything but the points, for JSON, which has no infinity: null is an end that is none."""
    told: dict[str, Any] = {
        "law": fitted.name,
        "formula": fitted.formula,
        "params": {name: _finite(value) for name, value in fitted.params.items()},
        "intervals": {n: [_finite(end) for end in pair] for n, pair in fitted.intervals.items()},
        "fixed": dict(fitted.fixed),
        "points": len(fitted.residuals),
        "objective": fitted.objective,
        "median_error": float(np.median(np.abs(fitted.residuals))),
        "status": fitted.status,
        "reason": fitted.reason,
    }
    if isinstance(fitted, FittedIsoflop):
        told["minima"] = [
            {key: _finite(value) for key, value in row.items()}
            for row in fitted.minima.to_dict("records")
        ]
    return told


def as_text(fitted: FittedLaw) -> str:
    """The law, its parameters with 95 % intervals, its error, and why not to rely on it."""
    lines = [fitted.formula]
    for name, value in fitted.params.items():
        low, high = fitted.intervals[name]
        note = "given" if name in fitted.fixed else f"95 %: {low:.4g} to {high:.4g}"
        lines.append(f"{name} = {value:.4g} ({note})")
    median = float(np.median(np.abs(fitted.residuals)))
    lines.append(
        f"{len(fitted.residuals)} points; half of the residuals are within {100 * median:.2g} % of "
        f"the loss; objective {fitted.objective:.4g}"
    )
    if fitted.status:
        lines.append(f"Do not rely on it: {fitted.status}")
    return "\n".join(lines)


_TITLES = {
    "compute_optimal": "Compute-optimal: the lowest loss for this compute",
    "saturating": "Saturating: the least compute within 1 % of the lowest loss",
    "target": "Cheapest run that reaches the target",
}


def plan_as_text(plan: Plan, machines: Hardware) -> str:
    """A plan, what it is read from, what it guarantees and what it takes."""
    low, high = plan.loss_interval
    loss = f"loss {plan.loss:.4g} nats a token (95 %: {low:.4g} to {high:.4g})"
    if plan.perplexity is not None:
        loss += f", perplexity {plan.perplexity:.4g}"
    else:
        loss += ", of a masked language model, which is no perplexity"
    certified = "" if plan.guarantee is None else f": {plan.guarantee}"
    fits = ""
    if machines.memory_gb is not None:
        fits = (
            f", {machines.physical_batch_size} records at once ({machines.memory_gb:.3g} GB, "
            f"{machines.engine}, width {machines.width}, {machines.layers} layers)"
        )
    lines = [
        f"{_TITLES[plan.kind]}, from {plan.source}",
        f"  {plan.n_params:.3g} parameters, batch {plan.expected_batch_size}, {plan.steps} steps, "
        f"σ = {plan.noise_multiplier:.4g}{certified}",
        f"  {loss}",
        f"  {plan.records:.3g} records, {plan.tokens:.3g} tokens seen, {plan.epochs:.3g} epochs, "
        f"{plan.compute:.3g} FLOPs, ρ = {plan.rho:.3g}",
        f"  {machines.gpu_hours:.3g} hours of {machines.card}; {machines.cards} of them take "
        f"{machines.days:.3g} days{fits}",
        *(f"  {note}" for note in (*plan.notes, machines.note)),
    ]
    return "\n".join(lines)


def _finite(value: Any) -> Any:
    """None in place of what JSON cannot hold."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
