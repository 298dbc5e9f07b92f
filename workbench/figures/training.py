"""One run over its steps: what it learns, spends and takes, beside runs of the past.

Every function takes metrics with the columns of a run folder's, so the live panel and
``training.read_run(path).metrics`` draw the same picture. Axes move in steps, not with every point.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from workbench.figures.picture import Picture, column, measured, right_axis, thinned
from workbench.figures.theme import BLUE, GREEN, GREY, ORANGE, PINK, Traces, axis

Past = Mapping[str, pd.DataFrame]  # metrics of past runs by a letter of `PAST`
PAST = {  # the past runs that a picture can hold beside the run itself
    "A": {"color": GREEN, "dash": "dot", "symbol": "circle"},
    "B": {"color": PINK, "dash": "dashdot", "symbol": "square"},
    "C": {"color": GREY, "dash": "longdash", "symbol": "triangle-up"},
    "D": {"color": "#56B4E9", "dash": "longdashdot", "symbol": "x"},
}
_BLANK: Traces = {letter: {"x": np.zeros(0), "y": np.zeros(0)} for letter in PAST}
_NONE: Past = {}
_PERPLEXITIES = [1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 300, 500, 1000, 2000, 5000, 10_000, 50_000]
_STEP = "step %{x:,}: "


def learning(metrics: pd.DataFrame, *, steps: int, past: Past = _NONE) -> Picture:
    """Loss in nats a token on the left, the same as perplexity on the right.

    Of each step's batch, and of the held-out records where they were measured; of ``past`` runs,
    the held-out records alone.
    """
    shown, heldout = thinned(metrics), _heldout(metrics)
    before = {letter: _heldout(run) for letter, run in past.items()}
    heldouts = [curve["y"] for curve in (heldout, *before.values())]
    losses = np.concatenate([column(metrics, "loss"), *heldouts])
    return Picture(
        traces={
            "training batch": {"x": column(shown, "step"), "y": column(shown, "loss")},
            "held-out": heldout,
            **_BLANK,
            **before,
        },
        ranges={"xaxis.range": [0, _longest(steps, past)], **_by_half_nats(losses)},
        shows="Loss in nats a token against the step, with perplexity on the right-hand axis.",
        styles=_LEARNING,
        axes={
            "yaxis": axis("loss (nats a token)"),
            "yaxis2": right_axis(
                "perplexity",
                tickvals=np.log(_PERPLEXITIES),
                ticktext=[f"{value:,}" for value in _PERPLEXITIES],
            ),
        },
    )


def spending(metrics: pd.DataFrame, *, steps: int, budget: float, past: Past = _NONE) -> Picture:
    """The certified ε so far, and the ε of the whole run as planned (NaN if not known yet).

    A run without privacy (an infinite ``budget``) has no curve here, and the picture says why.
    """
    spent = _spent(metrics)
    before = {letter: _spent(run) for letter, run in past.items()}
    values = np.concatenate([[budget], *(curve["y"][-1:] for curve in (spent, *before.values()))])
    top = np.max(values, initial=0.0, where=np.isfinite(values)) or 1.0
    planned = budget if math.isfinite(budget) else math.nan
    return Picture(
        traces={
            "planned": {"x": np.array([0, steps]), "y": np.full(2, planned)},
            "spent": spent,
            **_BLANK,
            **before,
        },
        ranges={
            "xaxis.range": [0, _longest(steps, past)],
            "yaxis.range": [0, 1.15 * top],
            "annotations": [_NO_EPSILON] if math.isinf(budget) else [],
        },
        shows="Certified ε against the step: spent so far, and planned for the whole run.",
        styles=_SPENDING,
        axes={"yaxis": axis("ε, certified")},
    )


def speed(metrics: pd.DataFrame, *, steps: int) -> Picture:
    """Tokens a second on the left, the most memory held so far on the right."""
    shown = measured(metrics, "tokens_per_second")
    x, tokens, memory = (column(shown, name) for name in ("step", "tokens_per_second", "memory_mb"))
    return Picture(
        traces={
            "tokens a second": {"x": x, "y": tokens},
            # Where a second axis has no point at all, plotly draws its line at NaN.
            "peak memory": {"x": np.append(x, math.nan), "y": np.append(memory, math.nan)},
        },
        ranges={
            "xaxis.range": [0, steps],
            "yaxis.range": [0, _rounded_up(tokens)],
            "yaxis2.range": [0, _rounded_up(memory)],
        },
        shows="Tokens a second and peak memory in megabytes against the step.",
        styles=_SPEED,
        axes={
            "yaxis": axis("tokens a second", tickformat="~s"),
            "yaxis2": right_axis("memory (MB)", tickmode="auto", nticks=5),
        },
    )


def _rounded_up(values: np.ndarray) -> float:
    """A round number somewhat above all ``values``, so that an axis moves seldom."""
    top = 1.1 * float(np.nanmax(values, initial=0.0)) or 1.0
    unit = 10.0 ** math.floor(math.log10(top))
    return next(factor * unit for factor in (1, 2, 3, 5, 7.5, 10) if factor * unit >= top)


def _heldout(metrics: pd.DataFrame) -> dict[str, np.ndarray]:
    """The held-out loss where it was measured, step 0 included."""
    shown = measured(metrics, "heldout_loss")
    return {"x": column(shown, "step"), "y": column(shown, "heldout_loss")}


def _spent(metrics: pd.DataFrame) -> dict[str, np.ndarray]:
    """ε over steps, NaN where there is none.

    A step between two exact values was given a bound; no step has spent more than a later one, so
    the smallest value from here on is a bound as well, and a closer one.
    """
    shown = thinned(metrics)
    closest = np.minimum.accumulate(column(shown, "epsilon")[::-1])[::-1]
    return {"x": column(shown, "step"), "y": np.where(np.isfinite(closest), closest, math.nan)}


def _longest(steps: int, past: Past) -> int:
    return max([steps, *(int(column(run, "step").max()) for run in past.values() if len(run))])


def _by_half_nats(losses: np.ndarray) -> dict[str, Any]:
    """Ranges of both axes that show ``losses``, widened to whole half nats."""
    finite = losses[np.isfinite(losses)]
    low, high = (finite.min(), finite.max()) if finite.size else (4.0, 6.5)
    shown = [math.floor(2 * low - 0.2) / 2, math.ceil(2 * high + 0.2) / 2]
    return {"yaxis.range": shown, "yaxis2.range": shown}


def _past_styles(what: str, **more: Any) -> dict[str, dict[str, Any]]:
    return {
        letter: {
            "line": {"color": look["color"], "width": 1.5, "dash": look["dash"]},
            "marker": {"size": 5, "symbol": look["symbol"]},
            "legendrank": 1100,  # after the run itself, though drawn before it
            "hovertemplate": f"{_STEP}{what}<extra>past run {letter}</extra>",
            **more,
        }
        for letter, look in PAST.items()
    }


_NO_EPSILON = {
    "text": "not private: no ε holds",
    "showarrow": False,
    **{"xref": "paper", "yref": "paper", "x": 0.5, "y": 0.5},
}
_LEARNING: dict[str, dict[str, Any]] = {
    **_past_styles("%{y:.3f} nats held out", mode="lines+markers"),
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
        "cliponaxis": False,  # the last point lies on the frame
        "hovertemplate": _STEP + "%{y:.3f} nats<extra>held-out</extra>",
    },
}
_SPENDING: dict[str, dict[str, Any]] = {
    **_past_styles("ε ≤ %{y:.3f}", mode="lines"),
    "planned": {
        "mode": "lines",
        "line": {"color": ORANGE, "width": 2, "dash": "dash"},
        "hovertemplate": "ε %{y:.3g}<extra>planned</extra>",
    },
    "spent": {
        "mode": "lines",
        "line": {"color": BLUE, "width": 3, "shape": "hv"},
        "hovertemplate": _STEP + "ε ≤ %{y:.3f}<extra></extra>",
    },
}
_SPEED: dict[str, dict[str, Any]] = {
    "tokens a second": {
        "mode": "lines",
        "line": {"color": BLUE, "width": 1.5},
        "hovertemplate": _STEP + "%{y:,.0f} tokens/s<extra></extra>",
    },
    "peak memory": {
        "mode": "lines",
        "yaxis": "y2",
        "line": {"color": ORANGE, "width": 2, "dash": "dash"},
        "hovertemplate": _STEP + "%{y:,.0f} MB<extra></extra>",
    },
}
