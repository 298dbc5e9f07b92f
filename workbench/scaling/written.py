"""A fitted law as text and as JSON."""

import math
from typing import Any

import numpy as np

from workbench.scaling.fitted import FittedLaw
from workbench.scaling.isoflop import FittedIsoflop


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


def _finite(value: Any) -> Any:
    """None in place of what JSON cannot hold."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
