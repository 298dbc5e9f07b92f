"""The same fit under other choices: what of its numbers is the points' and what the analyst's."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from workbench.scaling.compare import outliers, without_rows
from workbench.scaling.fitting import Problem, checked_problem
from workbench.scaling.huber import DELTA

_LOSSES = {
    "Huber, δ = 1e-2": 1e-2,
    "absolute deviations": 1e-6,
    "squares": 1e3,
}
OTHER_COUNTS = {
    "n_params_non_embedding": "without embeddings",
    "n_params_without_head": "without the head",
    "n_params_with_embeddings": "with embeddings",
}
"""Columns that count parameters otherwise than ``n_params``, and how the strip calls them."""

_FLOORS = (0.0, 0.5, 0.9, 1.1)  # times the fitted one


def sensitivity(
    frame: pd.DataFrame,
    law: str = "chinchilla",
    *,
    fixed: Mapping[str, float] | None = None,
    at: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """The fit and its variants, a row each.

    Args:
        frame: the points; columns of `OTHER_COUNTS` are tried in place of ``n_params``.
        law: a law that is a formula.
        fixed: parameters that are given in all variants.
        at: one row of covariates at which every variant predicts, such as the run to be planned.

    Returns columns ``kind`` (``as fitted``, ``loss``, ``points``, ``count`` or ``floor``),
    ``variant``, ``points``, one a parameter, ``error`` (median of |log residual|) and, with ``at``,
    ``prediction`` (nats a token).
    """
    problem, form = checked_problem(frame, law, fixed)
    best = problem.solve()[0]
    rows = []
    for kind, variant, changed, start in _variants(problem, best, frame, law, fixed):
        theta = changed.solve()[0] if start is None else start
        values = changed.law.values(changed.natural(theta))
        row = {"kind": kind, "variant": variant, "points": len(changed.log_loss)}
        row |= dict(zip(form.parameters, values.tolist(), strict=True))
        row["error"] = float(np.median(np.abs(changed.residuals(theta))))
        if at is not None:
            x = changed.law.covariates(_counted(at, variant))
            row["prediction"] = float(
                np.exp(changed.law.log_loss(changed.natural(theta)[None], x))[0, 0]
            )
        rows.append(row)
    return pd.DataFrame(rows)


def _variants(
    problem: Problem,
    best: np.ndarray,
    frame: pd.DataFrame,
    law: str,
    fixed: Mapping[str, float] | None,
) -> Iterator[tuple[str, str, Problem, np.ndarray | None]]:
    """Kind, name, problem, and where it ends if that is known."""
    yield "as fitted", f"Huber, δ = {DELTA:g}", problem, best
    for name, delta in _LOSSES.items():
        yield "loss", name, replace(problem, delta=delta), None
    out = outliers(problem, best)
    if out.any():
        yield "points", f"without {int(out.sum())} outliers", without_rows(problem, out), None
    if "n_params" in problem.law.columns:
        for column, name in OTHER_COUNTS.items():
            if column in frame:
                counted = frame.assign(n_params=frame[column])
                yield "count", name, checked_problem(counted, law, fixed)[0], None
    floor = problem.law.floor
    if floor is not None and floor not in problem.fixed:
        fitted = problem.law.values(problem.natural(best))
        own = float(fitted[problem.law.parameters.index(floor)])
        lowest = float(np.exp(problem.log_loss.min()))
        for share in _FLOORS:
            value = min(own * share, 0.999 * lowest)
            given = {**problem.fixed, floor: value}
            yield "floor", f"{floor} = {value:.3g}", checked_problem(frame, law, given)[0], None


def _counted(at: pd.DataFrame, variant: str) -> pd.DataFrame:
    """The row with parameters counted as the variant counts them, where it tells."""
    for column, name in OTHER_COUNTS.items():
        if name == variant and column in at:
            return at.assign(n_params=at[column])
    return at
