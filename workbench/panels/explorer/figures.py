"""The explorer's pictures: two planes, ε against steps, and what a membership test can do."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from workbench import analysis
from workbench.analysis import Hold, Point, Readings
from workbench.figures import planes, roc
from workbench.figures.budget import budget_figure, budget_ranges, budget_traces
from workbench.figures.live import LiveFigure
from workbench.figures.planes import (
    axis_ranges,
    held_traces,
    noise_traces,
    planes_figure,
    point_traces,
    privacy_traces,
)
from workbench.figures.roc import roc_figure, roc_scale, roc_traces


class ExplorerFigures:
    """``planes``, ``budget`` and ``roc``, drawn once and then moved, from any thread."""

    def __init__(self, point: Point, readings: Readings) -> None:
        self.planes = LiveFigure(
            planes_figure(
                point,
                privacy=analysis.privacy_plane(point),
                noise=analysis.noise_plane(point),
                article=analysis.article_lines(point),
                held=analysis.held_line(point, Hold()),
            )
        )
        curve = analysis.budget_curve(point)
        self.budget = LiveFigure(
            budget_figure(
                curve,
                steps=point.steps,
                epsilon=readings.epsilon,
                target_epsilon=point.target_epsilon,
            )
        )
        self.roc = LiveFigure(roc_figure(analysis.ceilings(readings.epsilon, point.delta)))
        self._drawn: tuple[analysis.Plane | None, analysis.Plane | None] = None, None

    def show_point(self, point: Point, pinned: Point | None) -> None:
        """Move the ring, and the pinned diamond, on both planes."""
        self.planes.redraw(point_traces(point, pinned), shows=planes.told(point, pinned))

    def show_surfaces(self, point: Point, hold: Hold) -> None:
        """Redraw the planes if what they depend on changed, and the curve that a hold keeps."""
        drawn = analysis.privacy_plane(point), analysis.noise_plane(point)
        (privacy, noise), (old_privacy, old_noise) = drawn, self._drawn
        traces: dict[str, Mapping[str, Any]] = {}
        if privacy is not old_privacy:
            traces |= privacy_traces(privacy)
        if noise is not old_noise:
            traces |= noise_traces(noise, analysis.article_lines(point))
        traces |= held_traces(analysis.held_line(point, hold), privacy.axes.batch)
        self.planes.redraw(traces, axis_ranges(privacy))
        self._drawn = drawn

    def show_curves(
        self,
        point: Point,
        readings: Readings,
        mechanism: np.ndarray | None,
        pinned: tuple[Point, Readings] | None,
    ) -> None:
        """Redraw ε against steps and the ROC ceilings."""
        curve = analysis.budget_curve(point)
        self.budget.redraw(
            budget_traces(
                curve,
                steps=point.steps,
                epsilon=readings.epsilon,
                target_epsilon=point.target_epsilon,
                pinned=analysis.budget_curve(pinned[0]) if pinned else None,
            ),
            budget_ranges(curve, point.target_epsilon),
        )
        kept = analysis.ceilings(pinned[1].epsilon, pinned[0].delta) if pinned else None
        bounds = analysis.ceilings(readings.epsilon, point.delta)
        self.roc.redraw(roc_traces(bounds, mechanism, kept), shows=roc.told(bounds, mechanism))

    def show_roc_scale(self, *, log: bool) -> None:
        """Put the ROC picture on the chosen scale."""
        self.roc.redraw({}, roc_scale(log=log))
