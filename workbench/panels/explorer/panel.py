"""The explorer: drag σ, C, batch and length, and watch ε and the noise follow.

Readings appear first, then the ring on the pictures; the rest is drawn by a thread that skips what
is outdated (`RedrawWorker`), and the certified ε follows from a process of its own (`Worker`).
Callbacks arrive on different threads, so everything that touches the state holds one lock.
"""

import threading
from typing import Any, NamedTuple

import ipywidgets as widgets
import numpy as np

from workbench.analysis import Hold, Point, Readings, certify, preview
from workbench.analysis.snippets import run_config
from workbench.errors import InputError, sentence
from workbench.panels.common.controls import status_line
from workbench.panels.common.debounce import Debouncer
from workbench.panels.common.markup import status_html
from workbench.panels.common.panel import Panel
from workbench.panels.common.redraw import RedrawWorker
from workbench.panels.common.worker import Worker
from workbench.panels.explorer import text
from workbench.panels.explorer.figures import ExplorerFigures
from workbench.panels.explorer.form import FORMATS, LENGTH_UNITS, ExplorerForm
from workbench.panels.run.panel import Trainer
from workbench.presets import find
from workbench.privacy import Guarantee

DEBOUNCE_SECONDS = 0.15
_BESIDE = "318px minmax(0, 1fr)"
_GRID = {"grid_gap": "8px 14px", "width": "100%"}


class Shown(NamedTuple):
    """A configuration with what is known of it so far."""

    point: Point
    readings: Readings
    guarantee: Guarantee | None = None
    mechanism: np.ndarray | None = None


class Explorer(Panel):
    """The panel; ``Explorer("vaultgemma")`` starts from another preset.

    ``shown`` is what is on display: always the last settings that could be used. *Train* hands them
    to ``trainer``, the training panel given, or one that opens below.
    """

    def __init__(self, preset: str = "laptop", *, trainer: Trainer | None = None) -> None:
        self._lock = threading.RLock()
        self._worker = Worker(self._lock)
        self._worker.warm_up()
        self._redraw_worker = RedrawWorker(self._paint, self._not_drawn)
        self._debouncer = Debouncer(self._settle, DEBOUNCE_SECONDS, self._lock)
        self._loading = False
        self._refusing = False
        self._preset = find(preset)
        point = Point.from_preset(self._preset)
        self.shown = Shown(point, preview(point))
        self.pinned: Shown | None = None
        self.trainer, self._below = trainer, widgets.VBox()
        self.hold = Hold()
        self._history = [(point, self.hold)]
        self.form = ExplorerForm(on_change=self._moved, on_bad_input=self._refused)
        self.figures = ExplorerFigures(point, self.shown.readings)
        self.status = status_line()
        self.provenance, self.cards, self.comparison = (widgets.HTML() for _ in range(3))
        super().__init__("Explorer", self._arranged())
        self.add_class("wb-explorer")
        self._wire()
        with self._lock:
            self._load(point, self.hold)

    def close(self) -> None:
        """End the background process along with the widgets."""
        self._debouncer.cancel()
        self._redraw_worker.close()
        for panel in self._below.children:
            panel.close()
        self._worker.close()
        super().close()

    def _arranged(self) -> list[widgets.Widget]:
        form, figures = self.form, self.figures
        beside = widgets.GridBox(
            [form.box, figures.planes], layout={**_GRID, "grid_template_columns": _BESIDE}
        )
        below = widgets.GridBox(
            [figures.budget, widgets.VBox([figures.roc, form.roc_scale])],
            layout={**_GRID, "grid_template_columns": "repeat(2, minmax(0, 1fr))"},
        )
        more = widgets.Accordion(
            [self.comparison, widgets.VBox([form.format, form.copy])],
            titles=("Compare with the pinned settings", "Copy these settings"),
        )
        return [self.provenance, self.cards, self.status, beside, below, more, self._below]

    def _wire(self) -> None:
        form = self.form
        form.preset.value = self._preset.name
        form.preset.observe(self._preset_chosen, names="value")
        form.unit.observe(self._unit_chosen, names="value")
        form.hold.observe(self._hold_chosen, names="value")
        form.roc_scale.observe(
            lambda change: self.figures.show_roc_scale(log=bool(change["new"])), names="value"
        )
        form.format.observe(lambda _: self._show_snippet(), names="value")
        form.undo.on_click(lambda _: self._undo())
        form.reset.on_click(lambda _: self._reset())
        form.pin.on_click(lambda _: self._pin())
        form.train.on_click(lambda _: self._train())

    def _moved(self, name: str, value: float) -> None:
        with self._lock:
            try:
                point, hold = self._asked(), self.hold
                if name == "target_epsilon" and hold.kind == "epsilon":
                    hold = Hold("epsilon", value)
                point = hold.apply(point, moved=name)
                readings = preview(point)
            except InputError as error:
                self._refused(error)
                return
            self.hold = hold
            self._show(point, readings)

    def _asked(self) -> Point:
        """The configuration that all controls ask for together."""
        values: dict[str, Any] = {name: knob.value for name, knob in self.form.knobs.items()}
        lengths = {unit: values.pop(unit) for unit in LENGTH_UNITS}
        return self.shown.point.changed(length=lengths[self.shown.point.length_unit], **values)

    def _refused(self, error: InputError) -> None:
        """Say why, and keep the last good values on display, greyed."""
        with self._lock:
            self._refusing = True
            self._show_cards()
            self.status.value = status_html(
                f"{error} Shown are the last settings that work.", kind="Not used"
            )

    def _show(self, point: Point, readings: Readings) -> None:
        """Readings first, then the ring, then what costs more."""
        self.shown = Shown(point, readings)
        self._refusing = False
        self._show_cards()
        self.figures.show_point(point, self.pinned.point if self.pinned else None)
        self.status.value = status_html(" ".join(readings.warnings), kind="Warning")
        self._loading = True
        self.form.show(point, self.hold)
        self._loading = False
        self._redraw_worker.ask()
        self._worker.cancel()
        self._debouncer.later()

    def _paint(self) -> None:
        """On the painter's thread: what costs more than a blink, computed without the lock."""
        with self._lock:
            (point, readings, _, mechanism), hold = self.shown, self.hold
            pinned = self._pinned_pair()
        self.figures.show_surfaces(point, hold)
        self.figures.show_curves(point, readings, mechanism, pinned)

    def _not_drawn(self, error: Exception) -> None:
        with self._lock:
            words = sentence(error, what="Drawing")
            self.status.value = status_html(words, kind="Not drawn")

    def _load(self, point: Point, hold: Hold) -> None:
        """Show settings that did not come from a knob."""
        self.hold = hold
        self._loading = True
        self.form.unit.value = point.length_unit
        self.form.hold.value = hold.kind
        self._loading = False
        self.provenance.value = text.provenance(self._preset)
        self._show(point, preview(point))

    def _settle(self) -> None:
        """The user paused: remember the settings for undo and ask for the certified value."""
        with self._lock:
            point = self.shown.point
            if self._history[-1] != (point, self.hold):
                self._history.append((point, self.hold))
            self._show_comparison()
            self._show_snippet()
            self._worker.submit(certify, point, self._arrived)

    def _arrived(self, answer: Guarantee | np.ndarray | Exception) -> None:
        with self._lock:
            match answer:
                case Guarantee():
                    self.shown = self.shown._replace(guarantee=answer)
                    self._show_cards()
                    self._show_comparison()
                case np.ndarray():
                    self.shown = self.shown._replace(mechanism=answer)
                    self._redraw_worker.ask()
                case _:
                    words = sentence(answer, what="The accounting")
                    self.status.value = status_html(words, kind="Not certified")
            if self.pinned and self.pinned.point is self.shown.point:
                self.pinned = self.shown

    def _preset_chosen(self, change: dict[str, Any]) -> None:
        with self._lock:
            self._preset = find(change["new"])
            self._load(Point.from_preset(self._preset), Hold())

    def _unit_chosen(self, change: dict[str, Any]) -> None:
        with self._lock:
            if not self._loading:
                self._load(self.shown.point.counted_in(change["new"]), self.hold)

    def _hold_chosen(self, change: dict[str, Any]) -> None:
        with self._lock:
            if self._loading:
                return
            point, epsilon = self.shown.point, self.shown.readings.epsilon
            if change["new"] == "epsilon":
                point = point.changed(target_epsilon=epsilon)
            self._load(point, Hold.at(point, change["new"], epsilon))

    def _undo(self) -> None:
        with self._lock:
            unchanged = self._history[-1] == (self.shown.point, self.hold)
            if unchanged and len(self._history) > 1 and not self._refusing:
                self._history.pop()
            self._load(*self._history[-1])

    def _reset(self) -> None:
        with self._lock:
            self._load(Point.from_preset(self._preset), Hold())

    def _pin(self) -> None:
        with self._lock:
            self.pinned = None if self.pinned else self.shown
            self.form.pin.description = "Unpin" if self.pinned else "Pin"
            self.figures.show_point(self.shown.point, self.pinned.point if self.pinned else None)
            self._redraw_worker.ask()
            self._show_comparison()

    def _train(self) -> None:
        """Hand the settings to the training panel; Start is pressed there."""
        with self._lock:
            try:
                config = run_config(self.shown.point)
                if self.trainer is None:
                    self.trainer = Trainer(config)
                    self._below.children = [self.trainer]
                else:
                    self.trainer.show(config)
            except InputError as error:
                self.status.value = status_html(str(error), kind="Not handed over")
                return
            self.status.value = status_html(
                "The training panel has these settings; N is that of its corpus.", kind="Ready"
            )

    def _show_cards(self) -> None:
        self.cards.value = text.cards(*self.shown[:3], stale=self._refusing)

    def _pinned_pair(self) -> tuple[Point, Readings] | None:
        return self.pinned[:2] if self.pinned else None

    def _show_comparison(self) -> None:
        kept = self.pinned[:3] if self.pinned else None
        self.comparison.value = text.comparison(self.shown[:3], kept)

    def _show_snippet(self) -> None:
        with self._lock:
            self.form.copy.text = FORMATS[str(self.form.format.label)](self.shown.point)
