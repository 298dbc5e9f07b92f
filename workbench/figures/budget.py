"""ε as training goes on, against the target."""

import math
from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.analysis import BudgetCurve, steps_within
from workbench.figures.theme import BLUE, LEGEND, ORANGE, PINK, Traces, axis, figure, layout
from workbench.privacy.surface import ABSOLUTE_ERROR

_NOTHING = np.array([np.nan])


def budget_traces(
    curve: BudgetCurve,
    *,
    steps: int,
    epsilon: float,
    target_epsilon: float,
    pinned: BudgetCurve | None = None,
) -> Traces:
    """The curve, the point on it, where it meets the target, and a pinned curve beside it."""
    ends = curve.steps[[0, -1]]
    last = steps_within(curve, target_epsilon)
    return {
        "pinned": {
            "x": pinned.steps if pinned else _NOTHING,
            "y": pinned.epsilon if pinned else _NOTHING,
            "showlegend": pinned is not None,
        },
        "target ε": {"x": ends, "y": np.full(2, target_epsilon)},
        "ε after T steps": {"x": curve.steps, "y": curve.epsilon},
        "budget spent": {
            "x": np.array([last]),
            "y": np.array([target_epsilon]),
            "text": [f"{last:,.0f} steps" if math.isfinite(last) else ""],
            "textposition": "bottom right" if last**2 < curve.steps[-1] else "top left",
        },
        "this run": {"x": np.array([float(steps)]), "y": np.array([epsilon])},
    }


def budget_ranges(curve: BudgetCurve, target_epsilon: float) -> dict[str, Any]:
    """Layout changes that show all steps, and ε by whole decades around curve and target.

    Nothing below 0.01 is shown: that is as far as a preview may be off.
    """
    shown = curve.epsilon[np.isfinite(curve.epsilon) & (curve.epsilon > 0)]
    low = max(ABSOLUTE_ERROR, min([*shown, target_epsilon]))
    high = max([*shown, target_epsilon, 10 * ABSOLUTE_ERROR])
    decades = [math.floor(math.log10(low)), min(5, math.ceil(math.log10(high) + 0.05))]
    return {
        "xaxis.range": [round(math.log10(step), 6) for step in curve.steps[[0, -1]]],
        "yaxis.range": decades,
        "yaxis.dtick": "D2" if decades[1] - decades[0] <= 2 else 1,
    }


def budget_figure(
    curve: BudgetCurve, *, steps: int, epsilon: float, target_epsilon: float, height: int = 300
) -> go.Figure:
    """ε against steps, both logarithmic, with the target as a dashed line."""
    changing = budget_traces(curve, steps=steps, epsilon=epsilon, target_epsilon=target_epsilon)
    traces = {name: {**style, **changing[name]} for name, style in _STYLES.items()}
    built = figure(
        traces,
        layout(
            height=height,
            xaxis=axis("steps T", log=True),
            yaxis=axis("ε (preview)", log=True),
            shows="ε, a preview, against the number of steps, with the target ε.",
            newest=True,
            **LEGEND,
        ),
    )
    return built.update_layout(**budget_ranges(curve, target_epsilon))


_HOVER = "%{x:,.4s} steps · ε %{y:.3g}<extra>%{fullData.name}</extra>"
_STYLES: dict[str, dict[str, Any]] = {
    "target ε": {"mode": "lines", "line": {"color": ORANGE, "width": 2, "dash": "dash"}},
    "pinned": {"mode": "lines", "line": {"color": PINK, "width": 3, "dash": "dot"}},
    "ε after T steps": {
        "mode": "lines",
        "line": {"color": BLUE, "width": 3},
        "hovertemplate": _HOVER,
    },
    "budget spent": {
        "mode": "markers+text",
        "marker": {"symbol": "x", "size": 9, "color": ORANGE},
        "hoverinfo": "skip",
        "showlegend": False,
    },
    "this run": {
        "mode": "markers",
        "marker": {"symbol": "circle-open", "size": 14, "color": BLUE, "line": {"width": 3}},
        "hovertemplate": _HOVER,
    },
}
