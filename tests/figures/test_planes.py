"""ε and noise-to-signal over σ × batch: contours labelled, the point ringed, axes named."""

from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from workbench import analysis as reading
from workbench.analysis import Hold, Point
from workbench.figures.planes import (
    axis_ranges,
    noise_traces,
    planes_figure,
    point_traces,
    privacy_traces,
)
from workbench.presets import find, presets

LAPTOP = Point.from_preset(find("laptop"))


def drawn(
    point: Point = LAPTOP, hold: Hold | None = None, pinned: Point | None = None
) -> go.Figure:
    return planes_figure(
        point,
        privacy=reading.privacy_plane(point),
        noise=reading.noise_plane(point),
        article=reading.article_lines(point),
        held=reading.held_line(point, hold or Hold()),
        pinned=pinned,
    )


def traces(figure: go.Figure) -> dict[str, Any]:
    data: Any = figure.data
    return {trace.name: trace for trace in data}


def test_axes_are_logarithmic_named_and_shared_by_both_panes() -> None:
    layout: Any = drawn().layout
    assert {layout[axis].type for axis in ("xaxis", "xaxis2", "yaxis", "yaxis2")} == {"log"}
    assert layout.xaxis.title.text == layout.xaxis2.title.text == "expected batch size B"
    assert layout.yaxis.title.text == "noise multiplier σ"
    assert layout.yaxis2.matches == "y"
    assert [note.text for note in layout.annotations] == [
        "ε (preview)",
        "noise to signal (dotted: article)",
    ]


def test_the_heat_is_the_logarithm_and_the_hover_the_value() -> None:
    heat = traces(drawn())["privacy"]
    plane = reading.privacy_plane(LAPTOP)
    known = np.isfinite(heat.z) & (heat.z > -99)
    np.testing.assert_allclose(10 ** heat.z[known], plane.values[known])
    np.testing.assert_array_equal(heat.customdata, plane.values)
    assert "ε %{customdata:.3g} (preview)" in heat.hovertemplate


def test_labels_stand_on_their_contour_and_carry_its_level() -> None:
    figure = traces(drawn())
    plane = reading.privacy_plane(LAPTOP)
    labels = figure["privacy labels"]
    assert len(labels.text) >= 6
    for batch, sigma, text in zip(labels.x, labels.y, labels.text, strict=True):
        level = plane.lines.levels.index(float(text.replace(",", "")))
        at = int(np.argmin(np.abs(plane.axes.batch - batch)))
        assert sigma == plane.lines.sigma[level][at]


@pytest.mark.parametrize("preset", presets(), ids=lambda preset: preset.name)
def test_labels_are_inside_their_pane_and_clear_of_one_another(preset: Any) -> None:
    point = Point.from_preset(preset)
    plane = reading.privacy_plane(point)
    noise = noise_traces(reading.noise_plane(point), reading.article_lines(point))
    figure = {**privacy_traces(plane), **noise}
    (left, right), (bottom, top) = (
        np.log(plane.axes.batch_size),
        np.log(plane.axes.noise_multiplier),
    )
    for pane in (["privacy"], ["noise", "article"]):
        x = np.concatenate([np.log(figure[f"{name} labels"]["x"]) for name in pane])
        y = np.concatenate([np.log(figure[f"{name} labels"]["y"]) for name in pane])
        across, up = (x - left) / (right - left), (y - bottom) / (top - bottom)
        assert len(x) >= 3
        assert np.all((across > 0.1) & (across < 0.9) & (up > 0.04) & (up < 0.96))
        apart = np.maximum(np.abs(across[:, None] - across) / 0.16, np.abs(up[:, None] - up) / 0.07)
        assert np.all(apart[~np.eye(len(x), dtype=bool)] >= 1)


def test_the_articles_thresholds_are_dotted_and_carry_its_name() -> None:
    figure = traces(drawn())
    assert figure["article lines"].line.dash == "dot"
    assert set(figure["article labels"].text) == {"NSR 0.5", "NSR 1"}


def test_the_point_is_ringed_on_both_panes_and_legible_on_any_colour() -> None:
    figure = traces(drawn(LAPTOP.changed(noise_multiplier=1.7, expected_batch_size=900)))
    for side in ("privacy point", "noise point"):
        ring = figure[side]
        assert (set(ring.x), set(ring.y)) == ({900.0}, {1.7})
        assert ring.marker.symbol == "circle-open"
        assert list(ring.marker.color) == ["#fff", "#000"]  # a white ring under a black one
    assert list(figure)[-1] == "noise point"  # nothing covers it


def test_a_pinned_point_is_a_diamond_and_absent_otherwise() -> None:
    pinned = LAPTOP.changed(noise_multiplier=3.0)
    trace = traces(drawn(pinned=pinned))["noise pinned"]
    assert (list(trace.x), list(trace.y)) == ([512.0], [3.0])
    assert trace.marker.symbol == "diamond"
    assert np.isnan(point_traces(LAPTOP)["noise pinned"]["x"]).all()


def test_a_held_curve_is_drawn_on_both_panes() -> None:
    figure = traces(drawn(hold=Hold("noise_batch_ratio", 0.8 / 512)))
    for side in ("privacy held", "noise held"):
        at = np.isfinite(figure[side].y)
        np.testing.assert_allclose(figure[side].y[at] / figure[side].x[at], 0.8 / 512)
    assert np.isnan(traces(drawn())["noise held"].y).all()


def test_ranges_are_those_of_the_plane() -> None:
    plane = reading.privacy_plane(LAPTOP)
    ranges = axis_ranges(plane)
    np.testing.assert_allclose(ranges["xaxis.range"], np.log10([1, 18_792]))
    np.testing.assert_allclose(ranges["yaxis.range"], np.log10([0.3, 30]))
    assert ranges["xaxis.range"] == ranges["xaxis2.range"]


def test_a_plane_without_previews_is_empty_but_drawn() -> None:
    figure = traces(drawn(LAPTOP.changed(delta=1e-30)))
    assert np.isnan(figure["privacy"].z).all()
    assert len(figure["privacy labels"].text) == 0
    assert set(figure["privacy point"].x) == {512.0}
