"""A picture that is drawn once and then only moved.

A live panel redraws often, so what changes (values, ranges) is kept apart from what stays (styles,
axes): the same `Picture` becomes a figure of its own or the next state of one on the screen.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures.theme import LEGEND, Traces, axis, figure, layout

# Filled areas would make plotly list the traces backwards.
_LEGEND = {**LEGEND, "legend": {**LEGEND["legend"], "traceorder": "normal"}}
_MOST_POINTS = 600  # more than a picture has pixels for, and every point costs at each redraw


@dataclass(frozen=True)
class Picture:
    """Traces and ranges as they are now, and the styles and axes they are drawn with.

    ``styles`` gives the order of drawing and holds every trace that may ever be shown; ``shows``
    says in a line what there is to see, and with ``newest`` the last points are said after it.
    """

    traces: Traces
    ranges: dict[str, Any]
    styles: Mapping[str, Mapping[str, Any]]
    axes: Mapping[str, Any]
    shows: str
    newest: bool = True

    def figure(self, *, height: int = 240) -> go.Figure:
        """The picture as a plotly figure, over steps unless ``axes`` says otherwise."""
        styled = {name: {**style, **self.traces[name]} for name, style in self.styles.items()}
        margin = {
            "l": 56,
            "r": 56 if "yaxis2" in self.axes else 12,
            "t": 44,
            "b": 42,
            "autoexpand": False,
        }
        fixed = {"xaxis": axis("step"), "margin": margin, **_LEGEND, **self.axes}
        told = layout(height=height, shows=self.shows, newest=self.newest, **fixed)
        return figure(styled, told).update_layout(**self.ranges)


def thinned(metrics: pd.DataFrame) -> pd.DataFrame:
    """At most so many rows as a picture can show, at equal distances, and always the last."""
    every = math.ceil(max(1, len(metrics)) / _MOST_POINTS)
    return metrics.iloc[(len(metrics) - 1) % every :: every] if every > 1 else metrics


def measured(metrics: pd.DataFrame, name: str) -> pd.DataFrame:
    """The same of the rows that have a number in ``name``."""
    return thinned(metrics.dropna(subset=[name]))


def column(metrics: pd.DataFrame, name: str) -> np.ndarray:
    """One column as floats (rows,)."""
    return metrics[name].to_numpy(float)


def right_axis(title: str, **more: Any) -> dict[str, Any]:
    """A second vertical axis, on the right and without a grid of its own."""
    return axis(title, anchor="x", overlaying="y", side="right", showgrid=False, **more)


def log_ticks(low: float, high: float) -> dict[str, Any]:
    """Ticks of a logarithmic axis from ``low`` to ``high``, written out: 1, 2, 5 or decades alone.

    Plotly's own ticks between decades show the digit alone, which reads as another number.
    """
    digits = (1, 2, 5) if high / low < 300 else (1,)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [digit * 10.0**decade for decade in decades for digit in digits]
    return {"tickvals": values, "ticktext": [f"{value:,.10g}" for value in values]}
