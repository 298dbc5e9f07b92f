"""What a run does to its gradients: clipping in one batch and over the steps, and noise."""

import math
from typing import Any

import numpy as np
import pandas as pd

from workbench.figures.picture import Picture, column, log_ticks, measured, right_axis
from workbench.figures.theme import BLUE, GREEN, GREY, ORANGE, PINK, axis

_BINS_PER_DECADE = 20


def histogram(norms: np.ndarray, *, max_grad_norm: float) -> Picture:
    """How many of one batch's records have which gradient norm; bins meet at C, none straddles it.

    ``norms`` is (records,), before clipping. The axis is logarithmic and ends at half decades.
    """
    low, high = _around(norms, max_grad_norm)
    edges = max_grad_norm * 10.0 ** (np.arange(low, high + 1) / _BINS_PER_DECADE)
    counts, _ = np.histogram(np.clip(norms, edges[0], edges[-1]), edges)
    middles, widths = np.sqrt(edges[:-1] * edges[1:]), np.diff(edges)
    below = edges[1:] <= max_grad_norm * 1.0001
    return Picture(
        traces={
            "kept as it is": {"x": middles[below], "y": counts[below], "width": widths[below]},
            "clipped to C": {"x": middles[~below], "y": counts[~below], "width": widths[~below]},
            "C": {
                "x": np.full(2, max_grad_norm),
                "y": np.array([0.0, 1.1 * max(1, counts.max())]),
            },
        },
        ranges={
            "xaxis": {
                "range": np.log10(edges[[0, -1]]).tolist(),
                **log_ticks(edges[0], edges[-1]),
            }
        },
        shows=(
            "Histogram of the gradient norms of the last batch's records, before clipping: "
            f"{counts[~below].sum():,} of {counts.sum():,} are clipped to C = {max_grad_norm:.4g}."
        ),
        newest=False,
        styles=_HISTOGRAM,
        axes={
            "xaxis": axis("gradient norm of a record, before clipping", log=True),
            "yaxis": axis("records", rangemode="tozero"),
            "barmode": "overlay",
        },
    )


def clipping(metrics: pd.DataFrame, *, steps: int) -> Picture:
    """Each step's median norm between its 10th and 90th percentile, C, and the clipped share."""
    shown = measured(metrics, "norm_median")
    x = column(shown, "step")
    tops = np.append(column(shown, "norm_p90"), column(shown, "max_grad_norm"))
    top = np.max(tops, initial=0.0) or 1.0
    return Picture(
        traces={
            "90th percentile": {"x": x, "y": column(shown, "norm_p90")},
            "10th percentile": {"x": x, "y": column(shown, "norm_p10")},
            "median, 10–90 %": {"x": x, "y": column(shown, "norm_median")},
            "C": {"x": x, "y": column(shown, "max_grad_norm")},
            # Where a second axis has no point at all, plotly draws its line at NaN.
            "clipped": {
                "x": np.append(x, math.nan),
                "y": np.append(column(shown, "clipped_fraction"), math.nan),
            },
        },
        ranges={
            "xaxis.range": [0, steps],
            "yaxis.range": [0, 2.0 ** math.ceil(math.log2(1.1 * top))],
        },
        shows="Gradient norms of each batch against the step, with C and the clipped share.",
        styles=_CLIPPING,
        axes={
            "yaxis": axis("gradient norm"),
            "yaxis2": right_axis("clipped", range=[0, 1.02], dtick=0.25, tickformat=".0%"),
        },
    )


def noise(metrics: pd.DataFrame, *, steps: int) -> Picture:
    """Norm of the noise over norm of the clipped sum, as drawn and as σC√d predicts it."""
    shown = measured(metrics, "noise_to_signal")
    x, drawn = column(shown, "step"), column(shown, "noise_to_signal")
    positive = drawn[drawn > 0]
    low, high = (positive.min(), positive.max()) if positive.size else (0.5, 2.0)
    # Whole octaves, and always the line at 1.
    ends = [min(-1, math.floor(math.log2(low))), max(1, math.ceil(math.log2(high)))]
    return Picture(
        traces={
            "measured": {"x": x, "y": drawn},
            "predicted": {"x": x, "y": column(shown, "predicted_noise_to_signal")},
            "noise = signal": {"x": np.array([0, steps]), "y": np.ones(2)},
        },
        ranges={
            "xaxis.range": [0, steps],
            "yaxis": {
                "range": [end * math.log10(2) for end in ends],
                **log_ticks(2.0 ** ends[0], 2.0 ** ends[1]),
            },
        },
        shows="Norm of the noise over norm of the clipped sum against the step.",
        styles=_NOISE,
        axes={"yaxis": axis("noise to signal", log=True)},
    )


def _around(norms: np.ndarray, max_grad_norm: float) -> tuple[int, int]:
    """Bins below and above C that hold C and the norms: whole half decades, one at the least."""
    finite = norms[norms > 0]
    if not finite.size:
        return -_BINS_PER_DECADE // 2, _BINS_PER_DECADE // 2
    halves = 2 * np.log10(np.quantile(finite, [0.001, 0.999]) / max_grad_norm)
    low, high = min(-1, math.floor(halves[0])), max(1, math.ceil(halves[1]))
    return low * _BINS_PER_DECADE // 2, high * _BINS_PER_DECADE // 2


_STEP = "step %{x:,}: "
_HISTOGRAM: dict[str, dict[str, Any]] = {
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
    "C": {
        "mode": "lines",
        "line": {"color": PINK, "width": 3, "dash": "dash"},
        "hovertemplate": "C = %{x:.3g}<extra></extra>",
    },
}
_CLIPPING: dict[str, dict[str, Any]] = {
    "90th percentile": {
        "mode": "lines",
        "line": {"width": 0},
        "showlegend": False,
        "hoverinfo": "skip",
    },
    "10th percentile": {
        "mode": "lines",
        "showlegend": False,
        "fill": "tonexty",
        "fillcolor": "rgba(0, 114, 178, 0.2)",
        "line": {"width": 0},
        "hoverinfo": "skip",
    },
    "median, 10–90 %": {
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
_NOISE: dict[str, dict[str, Any]] = {
    "noise = signal": {
        "mode": "lines",
        "line": {"color": GREY, "width": 1.5, "dash": "dot"},
        "hoverinfo": "skip",
    },
    "measured": {
        "mode": "lines",
        "line": {"color": BLUE, "width": 3},
        "hovertemplate": _STEP + "%{y:.4g}<extra>measured</extra>",
    },
    "predicted": {
        "mode": "lines",
        "line": {"color": ORANGE, "width": 1.5, "dash": "dash"},
        "hovertemplate": _STEP + "%{y:.4g}<extra>σC√d predicts</extra>",
    },
}
