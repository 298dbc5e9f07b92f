"""What each policy gains over constant σ and batch, beside what the article states."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures.theme import BLUE, GREY, ORANGE, axis, figure, layout

_NAMES = {
    "constant": "constant",
    "falling_noise": "σ falls",
    "growing_batch": "batch grows",
    "both": "σ falls and batch grows",
}


def told(gains: pd.DataFrame, article_gain: float) -> str:
    """What the picture shows, in a line."""
    parts = [
        f"{_NAMES[str(policy)]} {gain:.1f} %"
        for policy, gain in gains["gain"].drop(index="constant").items()
    ]
    return (
        "How much lower perplexity is than with constant σ and batch, with intervals: "
        f"{', '.join(parts)}; the article states up to {article_gain:g} %."
    )


def policies_figure(gains: pd.DataFrame, *, article_gain: float, height: int = 260) -> go.Figure:
    """Gains in per cent with their intervals, from `workbench.analysis.policies.policy_gains`."""
    shown = gains.drop(index="constant").loc[lambda frame: list(frame.index)[::-1]]
    names = [_NAMES[policy] for policy in shown.index]
    ends = [0.0, article_gain, *shown["low"].to_numpy(float), *shown["high"].to_numpy(float)]
    first, last = np.nanmin(ends), np.nanmax(ends)  # one pair of runs has no interval
    room = 0.06 * (last - first)
    measured = {
        "type": "scatter",
        "x": shown["gain"].to_numpy(float),
        "y": names,
        "mode": "markers",
        "marker": {"color": BLUE, "size": 11, "symbol": "diamond"},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": (shown["high"] - shown["gain"]).to_numpy(float),
            "arrayminus": (shown["gain"] - shown["low"]).to_numpy(float),
            "color": BLUE,
        },
        "hovertemplate": "%{y}: %{x:.1f} % lower perplexity<extra></extra>",
    }
    built = figure(
        {"measured": measured},
        layout(
            height=height,
            margin={"l": 56, "r": 16, "t": 34, "b": 48},
            shows=told(gains, article_gain),
            xaxis={
                **axis("perplexity lower than with constant σ and batch (%)"),
                "range": [first - room, last + room],
            },
            # Above the first row there is room for the words at the article's line.
            yaxis={**axis(""), "type": "category", "range": [-0.5, len(names) - 0.1]},
        ),
    )
    built.add_vline(0, line={"color": GREY, "width": 1})
    return built.add_vline(
        article_gain,
        line={"color": ORANGE, "width": 2, "dash": "dash"},
        annotation_text=f"the article: up to {article_gain:g} %",
        annotation_position="top left",
    )
