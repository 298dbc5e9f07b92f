"""ROC curves of audited runs, with bands, what theory allows, and where the threshold stands.

Rates of zero are drawn just below the logarithmic axes, which have no zero.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.analysis.point_metrics import Ceilings
from workbench.audit.article import ALARM_TPR, TARGET_FPR
from workbench.figures.theme import BLUE, GREEN, GREY, LEGEND, ORANGE, PINK, Traces, axis, figure
from workbench.figures.theme import layout as shared_layout

LINES: tuple[dict[str, Any], ...] = (
    {"color": BLUE, "dash": "solid"},
    {"color": ORANGE, "dash": "dash"},
    {"color": GREEN, "dash": "dashdot"},
    {"color": PINK, "dash": "dot"},
    {"color": "#56B4E9", "dash": "longdash"},
    {"color": "#B8860B", "dash": "longdashdot"},
)
RING, UNRESOLVED, ARTICLE = "threshold", "too few to tell", "the article’s marks"
_LEAST = 1e-9  # stands for a rate of zero
_LOWEST_DECADE = -4.0
_HOVER = "FPR %{x:.3g} · TPR %{y:.3g}<extra>%{fullData.name}</extra>"
_ALLOWED = ("(ε, δ) allows", "a Gaussian of that ε", "its mechanism allows")
_DASHES = ("dash", "dashdot", "solid")


@dataclass(frozen=True, eq=False)
class Curve:
    """A model's curve as it is drawn, (corners,) each; ``low`` and ``high`` are its band."""

    name: str
    fpr: np.ndarray
    tpr: np.ndarray
    band_fpr: np.ndarray
    low: np.ndarray
    high: np.ndarray


def curve_traces(curves: Sequence[Curve]) -> Traces:
    """Every curve and its band; NaN arrays draw nothing."""
    found: dict[str, dict[str, Any]] = {}
    for curve in curves:
        x = _drawable(curve.band_fpr)
        found[_top(curve.name)] = {"x": x, "y": _drawable(curve.high)}
        found[_band(curve.name)] = {"x": x, "y": _drawable(curve.low)}
        found[curve.name] = {"x": _drawable(curve.fpr), "y": _drawable(curve.tpr)}
    return found


def allowed_traces(bounds: Ceilings, mechanism: np.ndarray | None) -> Traces:
    """What theory allows the run whose threshold is on display; nothing for one without privacy."""
    rates = bounds.false_positive_rate
    nothing = np.full(rates.shape, np.nan)
    curves = (bounds.epsilon_delta, bounds.gaussian, nothing if mechanism is None else mechanism)
    return {
        name: {"x": rates, "y": curve, "showlegend": bool(np.isfinite(curve).any())}
        for name, curve in zip(_ALLOWED, curves, strict=True)
    }


def ring_traces(*, fpr: float, tpr: float) -> Traces:
    """The ring at the threshold."""
    return {RING: {"x": _drawable([fpr]), "y": _drawable([tpr])}}


def resolution_traces(nonmembers: int) -> Traces:
    """The grey part, where so many non-members cannot tell a rate from zero."""
    edge = 1 / nonmembers
    x, y = [_LEAST, edge, edge, _LEAST], [_LEAST, _LEAST, 1.0, 1.0]
    return {UNRESOLVED: {"x": np.array(x), "y": np.array(y)}}


def article_traces(*, shown: bool) -> Traces:
    """Its two marks at a false positive rate of 0.1, or nothing."""
    there = [TARGET_FPR, TARGET_FPR] if shown else [np.nan, np.nan]
    marks = {"x": np.array(there), "y": np.array([TARGET_FPR, ALARM_TPR]), "showlegend": shown}
    return {ARTICLE: marks}


def audit_scale(*, log: bool, nonmembers: int) -> dict[str, Any]:
    """Layout changes for the axes; the logarithmic ones end a little below 1/n."""
    if not log:
        linear = {"type": "linear", "dtick": 0.25, "range": [-0.02, 1.02]}
        return {"xaxis": linear, "yaxis": linear}
    low = max(_LOWEST_DECADE, float(np.log10(0.5 / nonmembers)))
    shared = {"type": "log", "dtick": 1, "range": [low, 0.03]}
    return {"xaxis": shared, "yaxis": shared}


def told(name: str, signal: str, *, auc: float, fpr: float, tpr: float) -> str:
    """What the picture shows, in a line."""
    return (
        f"ROC curves of {signal}: true against false positive rate. {name} has AUC {auc:.3f}; its "
        f"threshold is at a false positive rate of {fpr:.3g} and a true one of {tpr:.3g}."
    )


def audit_roc_figure(
    names: Sequence[str], traces: Traces, scale: Mapping[str, Any], *, shows: str, height: int = 400
) -> go.Figure:
    """The figure with every trace that may be redrawn: `curve_traces` of ``names`` and the rest."""
    styles = _styles(names)
    drawn = {name: {**style, **traces.get(name, {})} for name, style in styles.items()}
    built = figure(
        drawn,
        shared_layout(
            height=height,
            shows=shows,
            hovermode="closest",
            xaxis=axis("false positive rate"),
            yaxis=axis("true positive rate"),
            **{**LEGEND, "legend": {**LEGEND["legend"], "traceorder": "normal"}},
        ),
    )
    return built.update_layout(**scale)


def _styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    silent = {"hoverinfo": "skip", "showlegend": False, "mode": "lines"}
    nothing = {"x": np.array([np.nan]), "y": np.array([np.nan])}
    styles: dict[str, dict[str, Any]] = {
        UNRESOLVED: {
            **silent,
            "fill": "toself",
            "fillcolor": "rgba(128, 128, 128, 0.22)",
            "line": {"width": 0},
            "showlegend": True,
        },
        "guessing": {
            **silent,
            "x": np.geomspace(_LEAST, 1, 200),
            "y": np.geomspace(_LEAST, 1, 200),
            "line": {"color": GREY, "width": 1},
        },
    }
    for place, name in enumerate(names):
        line = LINES[place % len(LINES)]
        edge = {**silent, "line": {"width": 0, "shape": "hv"}}
        styles[_top(name)] = edge
        styles[_band(name)] = {**edge, "fill": "tonexty", "fillcolor": _pale(line["color"])}
    for dash, name in zip(_DASHES, _ALLOWED, strict=True):
        styles[name] = {
            "mode": "lines",
            "line": {"color": GREY, "width": 1.5, "dash": dash},
            "hovertemplate": "FPR %{x:.2g} · TPR ≤ %{y:.3g}<extra>%{fullData.name}</extra>",
            **nothing,
        }
    for place, name in enumerate(names):
        line = {**LINES[place % len(LINES)], "width": 2.5, "shape": "hv"}
        styles[name] = {"mode": "lines", "line": line, "hovertemplate": _HOVER, **nothing}
    styles[ARTICLE] = {
        "mode": "markers+text",
        "marker": {"symbol": "x-thin-open", "size": 11, "color": GREY, "line": {"width": 2}},
        "text": ["“effective”", "“leakage”"],
        "textposition": "middle right",
        "textfont": {"size": 11, "color": GREY},
        "hovertemplate": "the article: TPR %{y:g} at FPR 0.1<extra></extra>",
        **nothing,
    }
    styles[RING] = {
        "mode": "markers",
        "marker": {
            "symbol": "circle-open",
            "size": 15,
            "color": "#D55E00",
            "line": {"width": 3, "color": "#D55E00"},
        },
        "hovertemplate": _HOVER,
        **nothing,
    }
    return styles


def _top(name: str) -> str:
    return f"{name}: upper limit"


def _band(name: str) -> str:
    return f"{name}: lower limit"


def _pale(colour: str) -> str:
    channels = ", ".join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))
    return f"rgba({channels}, 0.15)"


def _drawable(rates: Any) -> np.ndarray:
    return np.maximum(np.asarray(rates, float), _LEAST)
