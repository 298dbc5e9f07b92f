"""What the explorer looks like: its widgets, their places, and how results are shown on them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as widgets
import numpy as np

from workbench import analysis as reading
from workbench.analysis import Hold, Point, Readings
from workbench.analysis.snippets import as_opacus, as_python, as_yaml
from workbench.errors import InputError
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
from workbench.panels.controls import DELTA, STYLE, CopyBox, Knob, status_line
from workbench.presets import presets

FORMATS = {"YAML": as_yaml, "Python": as_python, "Opacus call": as_opacus}
LENGTH_UNITS = ("steps", "epochs")
_KNOBS = (
    ("noise_multiplier", "Noise σ", "Noise multiplier: noise per unit of C.", 0.3, 100, False),
    ("max_grad_norm", "Clipping norm C", "The largest norm one record may add.", 0.01, 100, False),
    ("expected_batch_size", "Batch B", "Records expected in one step.", 1, 1e7, True),
    ("dataset_size", "Records N", "Records in the training set.", 10, 1e11, True),
    ("steps", "Steps T", "Optimizer steps of the whole run.", 1, 1e6, True),
    ("epochs", "Epochs", "Expected passes over the data.", 0.01, 1e4, False),
    ("delta", "δ", DELTA, 1e-12, 1e-2, False),
    ("n_params", "Parameters d", "Number of trained weights.", 1e2, 1e12, True),
    (
        "mean_gradient_norm",
        "Mean gradient ḡ",
        "Norm of the mean gradient, clipped.",
        1e-4,
        100,
        False,
    ),
    ("record_tokens", "Tokens a record", "Tokens in one record.", 1, 1e5, True),
    (
        "target_epsilon",
        "Target ε",
        "The budget, drawn dashed; “Hold ε” keeps to it.",
        0.01,
        1e3,
        False,
    ),
)
_HOLDS = [("off", "nothing"), ("ε", "epsilon"), ("σ/B", "noise_batch_ratio")]
_PLACES = '"side main" "side main" "below below" "more more"'


class ExplorerView:
    """All widgets of the explorer; ``root`` holds them. It knows results, not how to get them."""

    def __init__(
        self,
        point: Point,
        readings: Readings,
        *,
        on_change: Callable[[str, float], None],
        on_bad_input: Callable[[InputError], None],
    ) -> None:
        self.knobs = {
            name: Knob(
                name,
                label,
                tooltip,
                low=low,
                high=high,
                whole=whole,
                on_change=on_change,
                on_bad_input=on_bad_input,
            )
            for name, label, tooltip, low, high, whole in _KNOBS
        }
        self.preset = widgets.Dropdown(
            options=[(preset.title, preset.name) for preset in presets()],
            description="Start from",
            tooltip="Load the settings of a published run, of the article, or of the default run.",
            style={"description_width": "108px"},
            layout={"width": "100%"},
        )
        self.provenance = widgets.HTML()
        self.unit = _toggle(
            "Length in",
            [(unit, unit) for unit in LENGTH_UNITS],
            "Whether steps or epochs stay put while the batch moves.",
        )
        self.hold = _toggle("Hold", _HOLDS, "What stays put while you move something else.")
        self.undo = _button("Undo", "undo", "Back to the settings before the last change.")
        self.reset = _button("Reset", "refresh", "Back to the preset's settings.")
        self.pin = _button("Pin", "thumb-tack", "Keep these settings beside what follows.")
        self.status = status_line()
        self.cards = widgets.HTML()
        self.planes = LiveFigure(
            planes_figure(
                point,
                privacy=reading.privacy_plane(point),
                noise=reading.noise_plane(point),
                article=reading.article_lines(point),
                held=reading.held_line(point, Hold()),
            )
        )
        curve = reading.budget_curve(point)
        self.budget = LiveFigure(
            budget_figure(
                curve,
                steps=point.steps,
                epsilon=readings.epsilon,
                target_epsilon=point.target_epsilon,
            )
        )
        self.roc = LiveFigure(roc_figure(reading.ceilings(readings.epsilon, point.delta)))
        self.roc_scale = _toggle(
            "ROC axes", [("log–log", True), ("linear", False)], "Scale of the ROC picture."
        )
        self.comparison = widgets.HTML()
        self.format = _toggle("Copy as", list(FORMATS.items()), "What to copy the settings as.")
        self.copy = CopyBox(label="Copy to the clipboard")
        self.root = self._arranged()
        self._drawn: tuple[reading.Plane | None, reading.Plane | None] = None, None

    def show_knobs(self, point: Point, hold: Hold) -> None:
        """Put every control where ``point`` and ``hold`` say, calling nobody back."""
        for name, knob in self.knobs.items():
            knob.show(float(getattr(point, name)))
        for name in LENGTH_UNITS:
            self.knobs[name].row.layout.display = None if name == point.length_unit else "none"
        self.knobs["noise_multiplier"].disable(hold.kind == "epsilon")

    def show_point(self, point: Point, pinned: Point | None) -> None:
        """Move the ring, and the pinned diamond, on both planes."""
        self.planes.redraw(point_traces(point, pinned))

    def show_surfaces(self, point: Point, hold: Hold) -> None:
        """Redraw the planes if what they depend on changed, and the curve that a hold keeps."""
        planes = reading.privacy_plane(point), reading.noise_plane(point)
        (privacy, noise), (old_privacy, old_noise) = planes, self._drawn
        traces: dict[str, Mapping[str, Any]] = {}
        if privacy is not old_privacy:
            traces |= privacy_traces(privacy)
        if noise is not old_noise:
            traces |= noise_traces(noise, reading.article_lines(point))
        traces |= held_traces(reading.held_line(point, hold), privacy.axes.batch)
        self.planes.redraw(traces, axis_ranges(privacy))
        self._drawn = planes

    def show_curves(
        self,
        point: Point,
        readings: Readings,
        mechanism: np.ndarray | None,
        pinned: tuple[Point, Readings] | None,
    ) -> None:
        """Redraw ε against steps and the ROC ceilings."""
        curve = reading.budget_curve(point)
        self.budget.redraw(
            budget_traces(
                curve,
                steps=point.steps,
                epsilon=readings.epsilon,
                target_epsilon=point.target_epsilon,
                pinned=reading.budget_curve(pinned[0]) if pinned else None,
            ),
            budget_ranges(curve, point.target_epsilon),
        )
        kept = reading.ceilings(pinned[1].epsilon, pinned[0].delta) if pinned else None
        bounds = reading.ceilings(readings.epsilon, point.delta)
        self.roc.redraw(roc_traces(bounds, mechanism, kept))

    def show_roc_scale(self) -> None:
        """Put the ROC picture on the chosen scale."""
        self.roc.redraw({}, roc_scale(log=bool(self.roc_scale.value)))

    def _arranged(self) -> widgets.Widget:
        head = [self.preset, self.unit, self.hold]
        side = widgets.VBox(
            [
                *head,
                *(knob.row for knob in self.knobs.values()),
                widgets.HBox([self.undo, self.reset, self.pin]),
            ],
            layout={"grid_area": "side", "overflow": "hidden"},
        )
        main = widgets.VBox(
            [self.cards, self.status, self.planes],
            layout={"grid_area": "main", "overflow": "hidden", "min_width": "0"},
        )
        below = widgets.GridBox(
            [self.budget, widgets.VBox([self.roc, self.roc_scale])],
            layout={"grid_area": "below", "grid_template_columns": "repeat(2, minmax(0, 1fr))"},
        )
        more = widgets.Accordion(
            [self.comparison, widgets.VBox([self.format, self.copy])],
            titles=("Compare with the pinned settings", "Copy these settings"),
            layout={"grid_area": "more"},
        )
        grid = widgets.GridBox(
            [side, main, below, more],
            layout={
                "grid_template_columns": "330px minmax(0, 1fr)",
                "grid_template_areas": _PLACES,
                "grid_gap": "8px 14px",
                "width": "100%",
            },
        )
        return widgets.VBox([widgets.HTML(STYLE), self.provenance, grid])


def _toggle(
    label: str, options: Sequence[tuple[str, object]], tooltip: str
) -> widgets.ToggleButtons:
    return widgets.ToggleButtons(
        options=options,
        description=label,
        tooltip=tooltip,
        tooltips=[f"{label} {name}. {tooltip}" for name, _ in options],
        style={"description_width": "108px", "button_width": "auto"},
    )


def _button(label: str, icon: str, tooltip: str) -> widgets.Button:
    return widgets.Button(
        description=label, icon=icon, tooltip=tooltip, layout={"width": "auto", "flex": "1"}
    )
