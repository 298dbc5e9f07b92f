"""A ruler of ε: what bounds it from above, what refutes it from below, and what only estimates."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.analysis.ruler import CAP, UPPER, Mark
from workbench.figures.theme import BLUE, GREEN, GREY, ORANGE, PINK, Traces, axis, figure, layout

_LOOKS = {
    UPPER: (GREEN, "triangle-left"),
    "certificate": (BLUE, "triangle-right"),
    "rejects a curve": (BLUE, "triangle-right-open"),
    "estimate": (ORANGE, "circle-open"),
    "heuristic": (PINK, "diamond-open"),
    CAP: (GREY, "line-ns-open"),
}
LOWEST = 0.01  # where zero stands on the logarithmic axis
_ROOM = 1.6


def ruler_traces(marks: Sequence[Mark], *, log: bool) -> Traces:
    """Marks with their values, and lines to the side on which each says that ε lies."""
    high = _highest(marks)
    low = LOWEST if log else 0.0
    rows = np.arange(len(marks), dtype=float)
    places = np.array([low if math.isinf(m.value) else max(low, m.value) for m in marks])
    looks = [_LOOKS[mark.kind] for mark in marks]
    reach_x, reach_y = [], []
    for row, mark, place in zip(rows, marks, places, strict=True):
        if mark.sign != "≈" and math.isfinite(mark.value):
            reach_x += [place, high if mark.sign == "≥" else low, np.nan]
            reach_y += [row, row, np.nan]
    return {
        "where ε may lie": {"x": np.array(reach_x), "y": np.array(reach_y)},
        "ε": {
            "x": places,
            "y": rows,
            "text": [f"  {mark.written}" for mark in marks],
            "customdata": [mark.words for mark in marks],
            "marker": {
                "symbol": [symbol for _, symbol in looks],
                "color": [colour for colour, _ in looks],
                "opacity": [0.0 if math.isinf(mark.value) else 1.0 for mark in marks],
                "size": 13,
                "line": {"width": 2.5, "color": [colour for colour, _ in looks]},
            },
        },
    }


def ruler_layout(marks: Sequence[Mark], *, log: bool) -> dict[str, Any]:
    """Axes that hold every mark, with its name and kind on the left."""
    high = _highest(marks)
    x = (
        {"type": "log", "dtick": 1, "range": [math.log10(LOWEST) - 0.05, math.log10(high)]}
        if log
        else {"type": "linear", "dtick": None, "tickmode": "auto", "range": [-0.01 * high, high]}
    )
    return {
        "xaxis": x,
        "yaxis": {
            "tickvals": list(range(len(marks))),
            "ticktext": [f"{mark.name} · <b>{mark.kind}</b> " for mark in marks],
            "range": [len(marks) - 0.5, -0.5],
        },
    }


def told(marks: Sequence[Mark]) -> str:
    """Every mark, in a line."""
    return "; ".join(f"{mark.name}, {mark.kind}: ε {mark.written}" for mark in marks)


def ruler_figure(marks: Sequence[Mark], *, log: bool = True, height: int = 300) -> go.Figure:
    """A row a mark."""
    styles: dict[str, dict[str, Any]] = {
        "where ε may lie": {
            "mode": "lines",
            "line": {"color": GREY, "width": 1.5, "dash": "dot"},
            "hoverinfo": "skip",
        },
        "ε": {
            "mode": "markers+text",
            "textposition": "top right",
            "textfont": {"size": 12, "color": GREY},
            "cliponaxis": False,
            "hovertemplate": "%{customdata}<extra></extra>",
        },
    }
    changing = ruler_traces(marks, log=log)
    traces = {name: {**style, **changing[name]} for name, style in styles.items()}
    built = figure(
        traces,
        layout(
            height=height,
            shows=told(marks),
            margin={"l": 280, "r": 30, "t": 10, "b": 40},
            xaxis=axis("ε"),
            yaxis=axis("", showgrid=False, automargin=False),
        ),
    )
    return built.update_layout(**ruler_layout(marks, log=log))


def _highest(marks: Sequence[Mark]) -> float:
    """The end of the axis."""
    finite = [mark.value for mark in marks if math.isfinite(mark.value)]
    return max(1.0, _ROOM * max(finite, default=1.0))
