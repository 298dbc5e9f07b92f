"""ε and noise-to-signal over σ × batch, side by side on one σ axis, with the point ringed."""

from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.figures.theme import GREEN, Traces, axis, figure, layout
from workbench.readings import Lines, Plane, Point

_HALO = ", ".join(["0 0 3px #fff"] * 4)
_PALE_BLUE = [[0, "#f4f8fc"], [0.4, "#cfe1f2"], [0.7, "#94c4df"], [1, "#4f9bcb"]]
_PALE_ORANGE = [[0, "#fdf6ee"], [0.4, "#fde0c0"], [0.7, "#fbba80"], [1, "#ee8f4c"]]
_SIDES = {"privacy": ("x", "y"), "noise": ("x2", "y2")}


def surface_traces(privacy: Plane, noise: Plane, article: Lines) -> Traces:
    """The two heat maps with their labelled level curves, and the article's NSR thresholds."""
    return {
        "privacy": _heat(privacy),
        **_levels("privacy", privacy.lines, privacy.axes.batch),
        "noise": _heat(noise),
        **_levels("noise", noise.lines, noise.axes.batch),
        **_levels("article", article, noise.axes.batch, text="NSR {:g}", at=0.15),
    }


def point_traces(point: Point, pinned: Point | None = None) -> Traces:
    """The ring of the current point, and the diamond of the pinned one, on both planes."""
    traces: dict[str, dict[str, Any]] = {}
    for side in _SIDES:
        traces[f"{side} point"] = {
            "x": np.full(2, float(point.expected_batch_size)),
            "y": np.full(2, point.noise_multiplier),
        }
        traces[f"{side} pinned"] = {
            "x": np.array([pinned.expected_batch_size if pinned else np.nan], dtype=float),
            "y": np.array([pinned.noise_multiplier if pinned else np.nan], dtype=float),
        }
    return traces


def held_traces(held: Lines, batch: np.ndarray) -> Traces:
    """The curve a hold keeps the point on; empty if nothing is held."""
    sigma = held.sigma[0] if held.sigma else np.full(batch.shape, np.nan)
    return {f"{side} held": {"x": batch, "y": sigma} for side in _SIDES}


def axis_ranges(plane: Plane) -> dict[str, Any]:
    """Layout changes that fit both panes to the plane's axes."""
    batch = list(np.log10(plane.axes.batch_size))
    sigma = list(np.log10(plane.axes.noise_multiplier))
    return {
        "xaxis_range": batch,
        "xaxis2_range": batch,
        "yaxis_range": sigma,
        "yaxis2_range": sigma,
    }


def planes_figure(
    point: Point,
    *,
    privacy: Plane,
    noise: Plane,
    article: Lines,
    held: Lines,
    pinned: Point | None = None,
    height: int = 350,
) -> go.Figure:
    """The whole picture from its results; batch and σ on logarithmic axes."""
    changing = {
        **surface_traces(privacy, noise, article),
        **held_traces(held, privacy.axes.batch),
        **point_traces(point, pinned),
    }
    fixed = _fixed_styles()
    traces = {name: {**fixed[name], **changing[name]} for name in fixed}
    built = figure(traces, _layout(height))
    return built.update_layout(**axis_ranges(privacy))


def _heat(plane: Plane) -> dict[str, Any]:
    with np.errstate(divide="ignore"):
        colour = np.log10(plane.values)
    return {
        "x": plane.axes.batch,
        "y": plane.axes.sigma,
        "z": np.where(np.isneginf(colour), -99.0, colour),
        "customdata": plane.values,
    }


def _levels(
    name: str, lines: Lines, batch: np.ndarray, *, text: str = "{:,g}", at: float = 0.92
) -> Traces:
    """All curves of a family as one trace with gaps, and their labels as another."""
    gap = [np.nan]
    xs = [np.concatenate([batch, gap]) for _ in lines.levels] or [np.array(gap)]
    ys = [np.concatenate([sigma, gap]) for sigma in lines.sigma] or [np.array(gap)]
    labelled = [
        (index, level, sigma)
        for level, sigma in zip(lines.levels, lines.sigma, strict=True)
        if (index := _label_place(sigma, at)) is not None
    ]
    return {
        f"{name} lines": {"x": np.concatenate(xs), "y": np.concatenate(ys)},
        f"{name} labels": {
            "x": np.array([batch[index] for index, _, _ in labelled]),
            "y": np.array([sigma[index] for index, _, sigma in labelled]),
            "text": [text.format(level) for _, level, _ in labelled],
        },
    }


def _label_place(sigma: np.ndarray, at: float) -> int | None:
    """Index at a fraction of the visible part of a curve; none for a curve too short to label."""
    visible = np.flatnonzero(np.isfinite(sigma))
    return int(visible[int(len(visible) * at)]) if len(visible) >= 5 else None


def _fixed_styles() -> dict[str, dict[str, Any]]:
    """What never changes of each trace, in drawing order."""
    hover = "σ %{y:.3g} · batch %{x:.4s}<br>"
    styles: dict[str, dict[str, Any]] = {}
    for side, colours, limits, quantity in (
        ("privacy", _PALE_BLUE, (-2, 3), "ε %{customdata:.3g} (preview)"),
        ("noise", _PALE_ORANGE, (-3, 4), "noise-to-signal %{customdata:.3g}"),
    ):
        place: dict[str, str] = dict(zip(("xaxis", "yaxis"), _SIDES[side], strict=True))
        styles[side] = {
            "type": "heatmap",
            "colorscale": colours,
            "zmin": limits[0],
            "zmax": limits[1],
            "showscale": False,
            "hovertemplate": f"{hover}{quantity}<extra></extra>",
            **place,
        }
        styles |= _line_styles(side, {"color": "#333", "width": 1}, place)
        if side == "noise":
            styles |= _line_styles("article", {"color": "#000", "width": 1.5, "dash": "dot"}, place)
        silent = {"type": "scatter", "hoverinfo": "skip", **place}
        styles[f"{side} held"] = {
            **silent,
            "mode": "lines",
            "line": {"color": GREEN, "width": 4, "dash": "dash"},
        }
        styles[f"{side} pinned"] = {
            **silent,
            "mode": "markers",
            "marker": {
                "symbol": "diamond",
                "size": 13,
                "color": "#fff",
                "line": {"color": "#000", "width": 2},
            },
        }
        styles[f"{side} point"] = {
            **silent,
            "mode": "markers",
            "marker": {
                "symbol": "circle-open",
                "size": [18, 18],
                "color": ["#fff", "#000"],
                "line": {"width": [6, 3]},
            },
        }
    return styles


def _line_styles(name: str, line: dict[str, Any], place: dict[str, str]) -> dict[str, Any]:
    shared = {"type": "scatter", "hoverinfo": "skip", **place}
    font = {"color": "#000", "size": 12, "shadow": _HALO}
    return {
        f"{name} lines": {**shared, "mode": "lines", "line": line},
        f"{name} labels": {**shared, "mode": "text", "textfont": font},
    }


def _layout(height: int) -> dict[str, Any]:
    batch = axis("expected batch size B", log=True, showgrid=False)
    sigma = axis("noise multiplier σ", log=True, dtick="D2", showgrid=False)
    titles = [
        {
            "text": text,
            "x": x,
            "y": 1.0,
            "xref": "paper",
            "yref": "paper",
            "yshift": 14,
            "xanchor": "left",
            "yanchor": "middle",
            "showarrow": False,
            "font": {"size": 13},
        }
        for text, x in (("ε (preview)", 0.0), ("noise to signal (dotted: article)", 0.53))
    ]
    return layout(
        height=height,
        xaxis={**batch, "domain": [0, 0.47]},
        xaxis2={**batch, "domain": [0.53, 1], "anchor": "y2"},
        yaxis=sigma,
        yaxis2={
            **sigma,
            "title": {"text": ""},
            "matches": "y",
            "anchor": "x2",
            "showticklabels": False,
        },
        annotations=titles,
    )
