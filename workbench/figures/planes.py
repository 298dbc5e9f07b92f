"""ε and noise-to-signal over σ × batch, side by side on one σ axis, with the point ringed."""

from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.analysis import Lines, Plane, PlaneAxes, Point
from workbench.figures.theme import GREEN, Traces, axis, figure, layout

_HALO = ", ".join(["0 0 3px #fff"] * 4)
_PALE_BLUE = [[0, "#f4f8fc"], [0.4, "#cfe1f2"], [0.7, "#94c4df"], [1, "#4f9bcb"]]
_PALE_ORANGE = [[0, "#fdf6ee"], [0.4, "#fde0c0"], [0.7, "#fbba80"], [1, "#ee8f4c"]]
_SIDES = {"privacy": ("x", "y"), "noise": ("x2", "y2")}


def privacy_traces(plane: Plane) -> Traces:
    """The heat map of ε with its labelled level curves."""
    return {"privacy": _heat(plane), **_levels("privacy", plane.lines, _Labels(plane.axes))}


def noise_traces(plane: Plane, article: Lines) -> Traces:
    """The heat map of noise-to-signal with its level curves, and the article's NSR thresholds."""
    labels = _Labels(plane.axes)
    return {
        "noise": _heat(plane),
        **_levels("article", article, labels, text="NSR {:g}", from_above=False),
        **_levels("noise", plane.lines, labels),
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


def told(point: Point, pinned: Point | None = None) -> str:
    """What the picture shows, in a line, with the place of the ring."""
    kept = (
        f", the pinned diamond at σ = {pinned.noise_multiplier:.4g} and "
        f"B = {pinned.expected_batch_size:,}"
        if pinned
        else ""
    )
    return (
        "Two maps of noise multiplier σ over expected batch size B: ε on the left, noise to signal "
        f"on the right. The ring is at σ = {point.noise_multiplier:.4g} and "
        f"B = {point.expected_batch_size:,}{kept}."
    )


def axis_ranges(plane: Plane) -> dict[str, Any]:
    """Layout changes that fit both panes to the plane's axes."""
    batch = list(np.log10(plane.axes.batch_size))
    sigma = list(np.log10(plane.axes.noise_multiplier))
    return {
        "xaxis.range": batch,
        "xaxis2.range": batch,
        "yaxis.range": sigma,
        "yaxis2.range": sigma,
    }


def planes_figure(
    point: Point,
    *,
    privacy: Plane,
    noise: Plane,
    article: Lines,
    held: Lines,
    pinned: Point | None = None,
    height: int = 440,
) -> go.Figure:
    """The whole picture from its results; batch and σ on logarithmic axes."""
    changing = {
        **privacy_traces(privacy),
        **noise_traces(noise, article),
        **held_traces(held, privacy.axes.batch),
        **point_traces(point, pinned),
    }
    fixed = _fixed_styles()
    traces = {name: {**fixed[name], **changing[name]} for name in fixed}
    built = figure(traces, _layout(height, told(point, pinned)))
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


class _Labels:
    """Places on one pane for the labels of its curves: inside it, and clear of one another."""

    _AWAY_X, _AWAY_Y = 0.16, 0.07  # a label's width and height as fractions of the pane
    _EDGE_X, _EDGE_Y = 0.13, 0.05

    def __init__(self, axes: PlaneAxes) -> None:
        self.batch = axes.batch
        self._bottom, self._top = np.log(axes.noise_multiplier)
        self._taken: list[tuple[float, float]] = []

    def place(self, sigma: np.ndarray, *, from_above: bool) -> int | None:
        """Index along a curve to label it at, the free one nearest its end; None if none is."""
        across = np.linspace(0, 1, len(sigma))
        up = (np.log(sigma) - self._bottom) / (self._top - self._bottom)
        inside = (np.abs(across - 0.5) < 0.5 - self._EDGE_X) & (
            np.abs(up - 0.5) < 0.5 - self._EDGE_Y
        )
        order = np.flatnonzero(inside)
        for index in order[::-1] if from_above else order:
            here = float(across[index]), float(up[index])
            if all(
                abs(here[0] - x) > self._AWAY_X or abs(here[1] - y) > self._AWAY_Y
                for x, y in self._taken
            ):
                self._taken.append(here)
                return int(index)
        return None


def _levels(
    name: str, lines: Lines, labels: _Labels, *, text: str = "{:,g}", from_above: bool = True
) -> Traces:
    """All curves of a family as one trace with gaps, and their labels as another."""
    gap, batch = [np.nan], labels.batch
    xs = [np.concatenate([batch, gap]) for _ in lines.levels] or [np.array(gap)]
    ys = [np.concatenate([sigma, gap]) for sigma in lines.sigma] or [np.array(gap)]
    labelled = [
        (index, level, sigma)
        for level, sigma in zip(lines.levels, lines.sigma, strict=True)
        if (index := labels.place(sigma, from_above=from_above)) is not None
    ]
    return {
        f"{name} lines": {"x": np.concatenate(xs), "y": np.concatenate(ys)},
        f"{name} labels": {
            "x": np.array([batch[index] for index, _, _ in labelled]),
            "y": np.array([sigma[index] for index, _, sigma in labelled]),
            "text": [text.format(level) for _, level, _ in labelled],
        },
    }


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


def _layout(height: int, shows: str) -> dict[str, Any]:
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
        for text, x in (("ε (preview)", 0.0), ("noise to signal (dotted: article)", 0.54))
    ]
    return layout(
        height=height,
        shows=shows,
        xaxis={**batch, "domain": [0, 0.46]},
        xaxis2={**batch, "domain": [0.54, 1], "anchor": "y2"},
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
