"""A run's schedules of σ and batch, and what it has spent on the way."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.analysis.schedule import Stage
from workbench.figures.theme import BLUE, GREEN, LEGEND, ORANGE, Traces, axis, figure, layout

_STYLES: dict[str, dict[str, Any]] = {
    "σ": {"line": {"color": BLUE, "width": 3, "shape": "hv"}},
    "batch B": {
        "line": {"color": ORANGE, "width": 3, "shape": "hv", "dash": "dash"},
        "xaxis": "x",
        "yaxis": "y2",
    },
    "ε spent (certified)": {
        "mode": "lines+markers",
        "line": {"color": GREEN, "width": 2, "shape": "vh"},  # a bound at every step, not a guess
        "hovertemplate": "up to step %{x}: ε ≤ %{y:.3g}<extra></extra>",
        "marker": {"symbol": "square", "size": 8},
        "xaxis": "x2",
        "yaxis": "y3",
    },
}


def schedule_traces(stages: Sequence[Stage], spent: Mapping[int, float]) -> Traces:
    """σ and batch as steps; ``spent`` maps a step to the ε certified there, once it is known."""
    edges = np.array([0, *(stage.steps for stage in stages)], dtype=float)
    sigma = [stage.noise_multiplier for stage in stages]
    batch = [stage.batch_size for stage in stages]
    known = sorted(spent)
    return {
        "σ": {"x": edges, "y": np.array([*sigma, sigma[-1]])},
        "batch B": {"x": edges, "y": np.array([*batch, batch[-1]])},
        "ε spent (certified)": {
            "x": np.array([0, *known], dtype=float),
            "y": np.array([0, *(spent[step] for step in known)]),
        },
    }


def schedule_figure(
    stages: Sequence[Stage], spent: Mapping[int, float], *, height: int = 330
) -> go.Figure:
    """Left: σ and batch over the steps; right: ε spent."""
    changing = schedule_traces(stages, spent)
    traces = {
        name: {"type": "scatter", "mode": "lines", **style, **changing[name]}
        for name, style in _STYLES.items()
    }
    return figure(
        traces,
        layout(
            height=height,
            shows="σ and the batch against the step on the left, certified ε spent on the right.",
            newest=True,
            xaxis={**axis("step", rangemode="tozero"), "domain": [0, 0.4]},
            yaxis=axis("noise multiplier σ", rangemode="tozero"),
            yaxis2={
                **axis("batch B", rangemode="tozero", showgrid=False),
                "overlaying": "y",
                "side": "right",
                "tickmode": "auto",  # its own round numbers, not those beside the other axis
            },
            xaxis2={**axis("step", rangemode="tozero"), "domain": [0.64, 1], "anchor": "y3"},
            yaxis3={**axis("ε spent", rangemode="tozero"), "anchor": "x2"},
            **LEGEND,
        ),
    )
