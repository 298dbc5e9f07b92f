"""One run's metrics as pictures: what it learns, what it spends, and how its gradients are clipped.

Every function takes metrics with the columns of a run folder's, so the live panel and
``training.read_run(path).metrics`` draw the same picture. Axes move in steps, not with every point.
"""

import math
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures.theme import BLUE, GREEN, LEGEND, ORANGE, PINK, Traces, axis, figure, layout

_MOST_POINTS = 600  # more than a picture has pixels for, and every point costs at each redraw
_PERPLEXITIES = [1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 300, 500, 1000, 2000, 5000, 10_000, 50_000]
_BINS_PER_DECADE = 20


def learning_traces(metrics: pd.DataFrame) -> Traces:
    """Loss of each step's batch, and of the held-out records where they were measured."""
    shown = _thinned(metrics)
    heldout = _array(metrics, "heldout_loss")
    measured = np.isfinite(heldout)
    return {
        "training batch": {"x": _array(shown, "step"), "y": _array(shown, "loss")},
        "held-out": {"x": _array(metrics, "step")[measured], "y": heldout[measured]},
    }


def learning_ranges(metrics: pd.DataFrame, *, steps: int) -> dict[str, Any]:
    """Layout changes that show all planned steps, and losses by whole half nats."""
    losses = metrics[["loss", "heldout_loss"]].to_numpy(float)
    losses = losses[np.isfinite(losses)]
    low, high = (losses.min(), losses.max()) if losses.size else (4.0, 6.5)
    shown = [math.floor(2 * low - 0.2) / 2, math.ceil(2 * high + 0.2) / 2]
    return {"xaxis_range": [0, steps], "yaxis_range": shown, "yaxis2_range": shown}


def learning_figure(metrics: pd.DataFrame, *, steps: int, height: int = 260) -> go.Figure:
    """Loss in nats a token on the left, the same as perplexity on the right."""
    perplexity = axis(
        "perplexity",
        anchor="x",
        overlaying="y",
        side="right",
        showgrid=False,
        tickvals=np.log(_PERPLEXITIES),
        ticktext=[f"{value:,}" for value in _PERPLEXITIES],
    )
    built = _built(
        learning_traces(metrics),
        height,
        yaxis=axis("loss (nats a token)"),
        yaxis2=perplexity,
    )
    return built.update_layout(**learning_ranges(metrics, steps=steps))


def spending_traces(metrics: pd.DataFrame, *, steps: int, budget: float) -> Traces:
    """The certified ε so far, and the ε of the whole run as planned (NaN if not known yet).

    A step between two exact values was given a bound; no step has spent more than a later one, so
    the smallest value from here on is a bound as well, and a closer one.
    """
    shown = _thinned(metrics)
    closest = np.minimum.accumulate(_array(shown, "epsilon")[::-1])[::-1]
    return {
        "planned for the whole run": {"x": np.array([0, steps]), "y": np.full(2, budget)},
        "spent so far": {"x": _array(shown, "step"), "y": closest},
    }


def spending_ranges(metrics: pd.DataFrame, *, steps: int, budget: float) -> dict[str, Any]:
    """Layout changes that show ε from 0 to a little above the plan."""
    values = [*metrics["epsilon"].tail(1), budget]
    top = max((value for value in values if math.isfinite(value)), default=1.0)
    return {"xaxis_range": [0, steps], "yaxis_range": [0, 1.15 * top]}


def spending_figure(
    metrics: pd.DataFrame, *, steps: int, budget: float, height: int = 260
) -> go.Figure:
    """Certified ε against steps, with the plan as a dashed line."""
    built = _built(
        spending_traces(metrics, steps=steps, budget=budget), height, yaxis=axis("ε, certified")
    )
    return built.update_layout(**spending_ranges(metrics, steps=steps, budget=budget))


def histogram_traces(norms: np.ndarray, *, max_grad_norm: float) -> Traces:
    """How many of one batch's records have which gradient norm; bins meet at C, none straddles it.

    ``norms`` is (records,), before clipping.
    """
    low, high = _around(norms, max_grad_norm)
    edges = max_grad_norm * 10.0 ** (np.arange(low, high + 1) / _BINS_PER_DECADE)
    counts, _ = np.histogram(np.clip(norms, edges[0], edges[-1]), edges)
    middles, widths = np.sqrt(edges[:-1] * edges[1:]), np.diff(edges)
    below = edges[1:] <= max_grad_norm * 1.0001
    top = max(1, counts.max()) * 1.1
    return {
        "kept as it is": {"x": middles[below], "y": counts[below], "width": widths[below]},
        "clipped to C": {"x": middles[~below], "y": counts[~below], "width": widths[~below]},
        "clipping norm C": {"x": np.full(2, max_grad_norm), "y": np.array([0.0, top])},
    }


def histogram_ranges(norms: np.ndarray, *, max_grad_norm: float) -> dict[str, Any]:
    """Layout changes that show C and all norms, by whole half decades around C."""
    low, high = _around(norms, max_grad_norm)
    centre = math.log10(max_grad_norm)
    shown = [centre + low / _BINS_PER_DECADE, centre + high / _BINS_PER_DECADE]
    return {"xaxis_range": shown}


def histogram_figure(norms: np.ndarray, *, max_grad_norm: float, height: int = 260) -> go.Figure:
    """Gradient norms of one batch on a logarithmic axis, with C marked."""
    built = _built(
        histogram_traces(norms, max_grad_norm=max_grad_norm),
        height,
        xaxis=axis("gradient norm of a record, before clipping", log=True, dtick="D2"),
        yaxis=axis("records", rangemode="tozero"),
        barmode="overlay",
    )
    return built.update_layout(**histogram_ranges(norms, max_grad_norm=max_grad_norm))


def clipping_traces(metrics: pd.DataFrame, *, max_grad_norm: float, steps: int) -> Traces:
    """Each step's median norm between its 10th and 90th percentile, C, and the clipped fraction."""
    shown = _thinned(metrics.query("batch_size > 0"))
    x = _array(shown, "step")
    return {
        "90th percentile": {"x": x, "y": _array(shown, "norm_p90")},
        "10–90 %": {"x": x, "y": _array(shown, "norm_p10")},
        "median": {"x": x, "y": _array(shown, "norm_median")},
        "C": {"x": np.array([0, steps]), "y": np.full(2, max_grad_norm)},
        # Where a second axis has no point at all, plotly draws its line at NaN.
        "clipped": {"x": [*x, math.nan], "y": [*_array(shown, "clipped_fraction"), math.nan]},
    }


def clipping_ranges(metrics: pd.DataFrame, *, max_grad_norm: float, steps: int) -> dict[str, Any]:
    """Layout changes that show C and the percentiles, by powers of two."""
    top = max([max_grad_norm, *metrics["norm_p90"].dropna()])
    return {"xaxis_range": [0, steps], "yaxis_range": [0, 2.0 ** math.ceil(math.log2(1.1 * top))]}


def clipping_figure(
    metrics: pd.DataFrame, *, max_grad_norm: float, steps: int, height: int = 260
) -> go.Figure:
    """Gradient norms and the clipped fraction over the run."""
    built = _built(
        clipping_traces(metrics, max_grad_norm=max_grad_norm, steps=steps),
        height,
        yaxis=axis("gradient norm"),
        yaxis2=axis(
            "clipped",
            anchor="x",
            overlaying="y",
            side="right",
            showgrid=False,
            range=[0, 1.02],
            dtick=0.25,
            tickformat=".0%",
        ),
    )
    return built.update_layout(**clipping_ranges(metrics, max_grad_norm=max_grad_norm, steps=steps))


def _built(traces: Traces, height: int, **axes: Any) -> go.Figure:
    """Traces drawn in the order of the styles, over steps unless ``axes`` says otherwise."""
    styled = {name: {**style, **traces[name]} for name, style in _STYLES.items() if name in traces}
    margin = {"l": 56, "r": 56 if "yaxis2" in axes else 12, "t": 34, "b": 44}
    everything = {"xaxis": axis("step"), "margin": margin, **LEGEND, **axes}
    return figure(styled, layout(height=height, **everything))


def _thinned(metrics: pd.DataFrame) -> pd.DataFrame:
    """At most `_MOST_POINTS` rows at equal distances, and always the last."""
    every = math.ceil(max(1, len(metrics)) / _MOST_POINTS)
    return metrics.iloc[(len(metrics) - 1) % every :: every] if every > 1 else metrics


def _array(metrics: pd.DataFrame, column: str) -> np.ndarray:
    return metrics[column].to_numpy(float)


def _around(norms: np.ndarray, max_grad_norm: float) -> tuple[int, int]:
    """Bins below and above C that hold C and the norms: whole half decades, one at the least."""
    finite = norms[norms > 0]
    if not finite.size:
        return -_BINS_PER_DECADE // 2, _BINS_PER_DECADE // 2
    halves = 2 * np.log10(np.quantile(finite, [0.001, 0.999]) / max_grad_norm)
    low, high = min(-1, math.floor(halves[0])), max(1, math.ceil(halves[1]))
    return low * _BINS_PER_DECADE // 2, high * _BINS_PER_DECADE // 2


_BAND = "rgba(0, 114, 178, 0.2)"
_STEP = "step %{x:,}: "
_STYLES: dict[str, dict[str, Any]] = {
    "training batch": {
        "mode": "lines",
        "line": {"color": BLUE, "width": 1.5},
        "hovertemplate": _STEP + "%{y:.3f} nats<extra>training batch</extra>",
    },
    "held-out": {
        "mode": "lines+markers",
        "yaxis": "y2",
        "line": {"color": ORANGE, "width": 2, "dash": "dash"},
        "marker": {"size": 7, "symbol": "diamond"},
        "hovertemplate": _STEP + "%{y:.3f} nats<extra>held-out</extra>",
    },
    "planned for the whole run": {
        "mode": "lines",
        "line": {"color": ORANGE, "width": 2, "dash": "dash"},
        "hovertemplate": "ε %{y:.3g}<extra>planned</extra>",
    },
    "spent so far": {
        "mode": "lines",
        "line": {"color": BLUE, "width": 3, "shape": "hv"},
        "hovertemplate": _STEP + "ε ≤ %{y:.3f}<extra></extra>",
    },
    "kept as it is": {
        "type": "bar",
        "marker": {"color": GREEN},
        "hovertemplate": "norm about %{x:.3g}: %{y} records<extra>kept</extra>",
    },
    "clipped to C": {
        "type": "bar",
        "marker": {
            "color": ORANGE,
            "line": {"width": 0},
            "pattern": {"shape": "/", "solidity": 0.2},
        },
        "hovertemplate": "norm about %{x:.3g}: %{y} records<extra>clipped</extra>",
    },
    "clipping norm C": {
        "mode": "lines",
        "line": {"color": PINK, "width": 3, "dash": "dash"},
        "hovertemplate": "C = %{x:.3g}<extra></extra>",
    },
    "90th percentile": {
        "mode": "lines",
        "line": {"width": 0},
        "showlegend": False,
        "hoverinfo": "skip",
    },
    "10–90 %": {
        "mode": "lines",
        "fill": "tonexty",
        "fillcolor": _BAND,
        "line": {"width": 0},
        "hoverinfo": "skip",
    },
    "median": {
        "mode": "lines",
        "line": {"color": BLUE, "width": 2},
        "hovertemplate": _STEP + "median norm %{y:.3g}<extra></extra>",
    },
    "C": {
        "mode": "lines",
        "line": {"color": PINK, "width": 2, "dash": "dash"},
        "hovertemplate": "C = %{y:.3g}<extra></extra>",
    },
    "clipped": {
        "mode": "lines",
        "yaxis": "y2",
        "line": {"color": ORANGE, "width": 2, "dash": "dot"},
        "hovertemplate": _STEP + "%{y:.0%} clipped<extra></extra>",
    },
}
