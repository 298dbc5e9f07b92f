"""The look that all figures share.

Text and axes take a middle grey that reads on white and on black; a panel's style sheet replaces
it by the theme's own colour. Lines differ in dash or marker as well as in colour.
"""

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

BLUE, ORANGE, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
GREY = "#767676"
GRID = "rgba(128, 128, 128, 0.25)"
HEAT = "Cividis"
CONFIG = {
    "showSendToCloud": False,
    "displaylogo": False,
    "responsive": True,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],  # nothing is selected here
}
LEGEND = {
    "showlegend": True,
    "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 11}},
}
Traces = Mapping[str, Mapping[str, Any]]

_AXIS = {
    "gridcolor": GRID,
    "linecolor": GREY,
    "zeroline": False,
    "showline": True,
    "ticks": "outside",
    "tickcolor": GREY,
    "ticklen": 4,
    "exponentformat": "power",
    "title": {"standoff": 6},
    "automargin": True,
}


def layout(*, height: int, shows: str = "", newest: bool = False, **more: Any) -> dict[str, Any]:
    """Layout of a figure on a transparent ground, fluid in width, ``height`` in pixels.

    ``shows`` says in a line what there is to see, for those who do not see it; with ``newest`` the
    last point of each curve is said after it. Without it the titles of the axes are said.
    """
    return {
        "meta": {"shows": shows, "newest": newest},
        "template": "none",
        "paper_bgcolor": "rgba(0, 0, 0, 0)",
        "plot_bgcolor": "rgba(0, 0, 0, 0)",
        "font": {"color": GREY, "size": 12, "family": "system-ui, sans-serif"},
        "margin": {"l": 56, "r": 18, "t": 30, "b": 44},
        "height": height,
        "autosize": True,
        "showlegend": False,
        "dragmode": False,
        "hoverlabel": {"font": {"family": "system-ui, sans-serif"}},
        **more,
    }


def axis(title: str, *, log: bool = False, **more: Any) -> dict[str, Any]:
    """An axis with a title; a logarithmic one labels decades only.

    The type is always given: plotly guesses it from the data, and stumbles where there is none yet.
    """
    scale: dict[str, Any] = {"type": "log", "dtick": 1} if log else {"type": "linear"}
    return {**_AXIS, **scale, **more, "title": {**_AXIS["title"], "text": title}}


def figure(traces: Traces, figure_layout: Mapping[str, Any]) -> go.Figure:
    """A figure of named traces."""
    return go.Figure(
        data=[{"name": name, **values} for name, values in traces.items()],
        layout=dict(figure_layout),
    )
