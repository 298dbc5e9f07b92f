"""How the scores of members and of others are spread, and where the threshold cuts them."""

from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.figures.theme import BLUE, LEGEND, ORANGE, PINK, Traces, axis, figure, layout

_MOST_BINS, _FEWEST_BINS = 60, 12
_EDGES = (0.002, 0.998)  # of all scores; those beyond are counted in the last bins
_STYLES: dict[str, dict[str, Any]] = {
    "others": {
        "type": "bar",
        "marker": {"color": ORANGE, "opacity": 0.55, "line": {"width": 0}},
        "hovertemplate": "about %{x:.4g}: %{y} others<extra></extra>",
    },
    "members": {
        "type": "bar",
        "marker": {
            "color": "rgba(0, 114, 178, 0.25)",
            "line": {"width": 1, "color": BLUE},
            "pattern": {"shape": "/", "fgcolor": BLUE, "size": 5, "solidity": 0.35},
        },
        "hovertemplate": "about %{x:.4g}: %{y} members<extra></extra>",
    },
    "threshold": {
        "mode": "lines",
        "line": {"color": PINK, "width": 3, "dash": "dash"},
        "hovertemplate": "threshold %{x:.4g}<extra></extra>",
    },
}


def score_traces(scores: np.ndarray, member: np.ndarray) -> tuple[Traces, dict[str, Any]]:
    """Bars of both sides, and the layout that fits them; records without a score are left out."""
    known = ~np.isnan(scores)
    values, truth = scores[known], member[known]
    edges = _bins(values)
    inside = np.clip(values, edges[0], edges[-1])
    counts = {
        name: np.histogram(inside[truth == side], edges)[0]
        for name, side in (("members", True), ("others", False))
    }
    middle = (edges[1:] + edges[:-1]) / 2
    top = 1.08 * max(1, *(int(of.max()) for of in counts.values()))
    traces = {name: {"x": middle, "y": of, "width": np.diff(edges)} for name, of in counts.items()}
    return traces, {"xaxis.range": [edges[0], edges[-1]], "yaxis.range": [0, top]}


def threshold_traces(threshold: float, top: float) -> Traces:
    """The line of the threshold, up to ``top``."""
    return {"threshold": {"x": np.array([threshold, threshold]), "y": np.array([0.0, top])}}


def told(signal: str, *, members: int, others: int) -> str:
    """What the picture shows, in a line."""
    return f"Histogram of {signal} scores of {members:,} members and {others:,} others."


def scores_figure(
    scores: np.ndarray, member: np.ndarray, signal: str, *, threshold: float, height: int = 400
) -> go.Figure:
    """Overlaid histograms with the threshold as a line."""
    bars, ranges = score_traces(scores, member)
    line = threshold_traces(threshold, ranges["yaxis.range"][1])
    changing = {**bars, **line}
    traces = {name: {**style, **changing[name]} for name, style in _STYLES.items()}
    known = ~np.isnan(scores)
    sides = {"members": int((member & known).sum()), "others": int((~member & known).sum())}
    built = figure(
        traces,
        layout(
            height=height,
            shows=told(signal, **sides),
            barmode="overlay",
            bargap=0,
            xaxis=axis("score, higher says “member”"),
            yaxis=axis("records"),
            **LEGEND,
        ),
    )
    return built.update_layout(**ranges)


def _bins(values: np.ndarray) -> np.ndarray:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return np.linspace(0, 1, _FEWEST_BINS + 1)
    low, high = np.quantile(finite, _EDGES)
    if high <= low:
        low, high = low - 0.5, high + 0.5
    bins = int(np.clip(2 * len(finite) ** 0.5, _FEWEST_BINS, _MOST_BINS))
    return np.linspace(low, high, bins + 1)
