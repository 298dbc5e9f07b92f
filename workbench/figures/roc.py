"""The ROC ceiling: the best that any membership test can do against the current point."""

from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.analysis import Ceilings
from workbench.figures.theme import BLUE, GREEN, GREY, LEGEND, ORANGE, PINK, Traces, axis, figure
from workbench.figures.theme import layout as shared_layout

_HOVER = "FPR %{x:.2g} · TPR ≤ %{y:.3g}<extra>%{fullData.name}</extra>"
_COMPARED = "FPR %{x:.2g} · TPR %{y:.3g}<extra>%{fullData.name}, no bound</extra>"
_STYLES: dict[str, dict[str, Any]] = {
    "guessing": {"line": {"color": GREY, "width": 1}, "showlegend": False},
    "pinned, as Gaussian": {
        "line": {"color": PINK, "width": 3, "dash": "dot"},
        "hovertemplate": _COMPARED,
    },
    "(ε, δ)": {"line": {"color": ORANGE, "width": 3, "dash": "dash"}},
    "Gaussian": {
        "line": {"color": GREEN, "width": 3, "dash": "dashdot"},
        "hovertemplate": _COMPARED,
    },
    "the mechanism": {"line": {"color": BLUE, "width": 3}},
}


def roc_traces(
    bounds: Ceilings, mechanism: np.ndarray | None = None, pinned: Ceilings | None = None
) -> Traces:
    """Two ceilings and a Gaussian to compare with; the mechanism's own is absent until computed."""
    rates = bounds.false_positive_rate
    nothing = np.full(rates.shape, np.nan)
    curves = {
        "guessing": rates,
        "pinned, as Gaussian": pinned.gaussian if pinned else nothing,
        "(ε, δ)": bounds.epsilon_delta,
        "Gaussian": bounds.gaussian,
        "the mechanism": nothing if mechanism is None else mechanism,
    }
    traces: dict[str, dict[str, Any]] = {
        name: {"x": rates, "y": curve} for name, curve in curves.items()
    }
    traces["pinned, as Gaussian"]["showlegend"] = pinned is not None
    return traces


def told(bounds: Ceilings, mechanism: np.ndarray | None = None) -> str:
    """What the picture shows, in a line, with the true positive rates at a false one of 1e-3."""
    place = int(np.argmin(np.abs(np.log(bounds.false_positive_rate / 1e-3))))
    rates = [f"{bounds.epsilon_delta[place]:.3g} by (ε, δ)"]
    if mechanism is not None and np.isfinite(mechanism[place]):
        rates.append(f"{mechanism[place]:.3g} by the mechanism")
    return (
        "Bounds on the true positive rate of a membership test against its false positive rate. "
        f"At {bounds.false_positive_rate[place]:.2g} it is at most {' and '.join(rates)}."
    )


def roc_scale(*, log: bool) -> dict[str, Any]:
    """Layout changes that put both axes on a logarithmic or a linear scale."""
    if log:
        shared = {"type": "log", "dtick": 1}
        return {"xaxis": {**shared, "range": [-6, 0]}, "yaxis": {**shared, "range": [-6, 0.05]}}
    shared = {"type": "linear", "dtick": 0.25, "range": [0, 1.02]}
    return {"xaxis": shared, "yaxis": shared}


def roc_figure(
    bounds: Ceilings,
    mechanism: np.ndarray | None = None,
    *,
    log: bool = True,
    height: int = 300,
) -> go.Figure:
    """True against false positive rate, with guessing as the thin diagonal."""
    changing = roc_traces(bounds, mechanism)
    traces = {
        name: {"mode": "lines", "hovertemplate": _HOVER, **style, **changing[name]}
        for name, style in _STYLES.items()
    }
    built = figure(
        traces,
        shared_layout(
            height=height,
            xaxis=axis("false positive rate"),
            yaxis=axis("true positive rate"),
            shows=told(bounds, mechanism),
            **LEGEND,
        ),
    )
    return built.update_layout(**roc_scale(log=log))
