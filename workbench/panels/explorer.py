"""The explorer: drag σ, C, batch and length, and watch ε and the noise follow.

Readings appear first, then the ring on the pictures; the rest is drawn by a thread that skips what
is outdated (`painter`), and the certified ε follows from a process of its own (`background`).
Callbacks arrive on different threads, so everything that touches the state holds one lock.
"""

import threading
from typing import Any, NamedTuple

import ipywidgets as widgets
import numpy as np

from workbench.analysis import Hold, Point, Readings, certify, preview
from workbench.errors import InputError, sentence
from workbench.panels import readouts
from workbench.panels.background import Background
from workbench.panels.controls import status_html
from workbench.panels.explorer_view import FORMATS, LENGTH_UNITS, ExplorerView
from workbench.panels.painter import Painter
from workbench.panels.settling import Settling
from workbench.presets import find
from workbench.privacy import Guarantee

SETTLE_SECONDS = 0.15


class Shown(NamedTuple):
    """A configuration with what is known of it so far."""

    point: Point
    readings: Readings
    guarantee: Guarantee | None = None
    mechanism: np.ndarray | None = None


class Explorer(widgets.VBox):
    """The panel; ``Explorer("vaultgemma")`` starts from another preset.

    ``shown`` is what is on display: always the last settings that could be used.
    """

    def __init__(self, preset: str = "laptop") -> None:
        self._lock = threading.RLock()
        self._background = Background(self._lock)
        self._background.warm_up()
        self._painter = Painter(self._paint, self._not_drawn)
        self._settling = Settling(self._settle, SETTLE_SECONDS, self._lock)
        self._loading = False
        self._refusing = False
        self._preset = find(preset)
        point = Point.from_preset(self._preset)
        self.shown = Shown(point, preview(point))
        self.pinned: Shown | None = None
        self.hold = Hold()
        self._history = [(point, self.hold)]
        self.view = ExplorerView(
            point, self.shown.readings, on_change=self._moved, on_bad_input=self._refused
        )
        super().__init__([self.view.root])
        self.add_class("workbench").add_class("wb-explorer")
        self._wire()
        with self._lock:
            self._load(point, self.hold)

    def close(self) -> None:
        """End the background process along with the widgets."""
        self._settling.cancel()
        self._painter.close()
        self._background.close()
        super().close()

    def _wire(self) -> None:
        view = self.view
        view.preset.value = self._preset.name
        view.preset.observe(self._preset_chosen, names="value")
        view.unit.observe(self._unit_chosen, names="value")
        view.hold.observe(self._hold_chosen, names="value")
        view.roc_scale.observe(lambda _: view.show_roc_scale(), names="value")
        view.format.observe(lambda _: self._show_snippet(), names="value")
        view.undo.on_click(lambda _: self._undo())
        view.reset.on_click(lambda _: self._reset())
        view.pin.on_click(lambda _: self._pin())

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
        values: dict[str, Any] = {name: knob.value for name, knob in self.view.knobs.items()}
        lengths = {unit: values.pop(unit) for unit in LENGTH_UNITS}
        return self.shown.point.changed(length=lengths[self.shown.point.length_unit], **values)

    def _refused(self, error: InputError) -> None:
        """Say why, and keep the last good values on display, greyed."""
        with self._lock:
            self._refusing = True
            self._show_cards()
            self.view.status.value = status_html(
                f"{error} Shown are the last settings that work.", kind="Not used"
            )

    def _show(self, point: Point, readings: Readings) -> None:
        """Readings first, then the ring, then what costs more."""
        self.shown = Shown(point, readings)
        self._refusing = False
        self._show_cards()
        view = self.view
        view.show_point(point, self.pinned.point if self.pinned else None)
        view.status.value = status_html(" ".join(readings.warnings), kind="Warning")
        self._loading = True
        view.show_knobs(point, self.hold)
        self._loading = False
        self._painter.ask()
        self._background.cancel()
        self._settling.later()

    def _paint(self) -> None:
        """On the painter's thread: what costs more than a blink, computed without the lock."""
        with self._lock:
            (point, readings, _, mechanism), hold = self.shown, self.hold
            pinned = self._pinned_pair()
        self.view.show_surfaces(point, hold)
        self.view.show_curves(point, readings, mechanism, pinned)

    def _not_drawn(self, error: Exception) -> None:
        with self._lock:
            words = sentence(error, what="Drawing")
            self.view.status.value = status_html(words, kind="Not drawn")

    def _load(self, point: Point, hold: Hold) -> None:
        """Show settings that did not come from a knob."""
        self.hold = hold
        self._loading = True
        self.view.unit.value = point.length_unit
        self.view.hold.value = hold.kind
        self._loading = False
        self.view.provenance.value = readouts.provenance(self._preset)
        self._show(point, preview(point))

    def _settle(self) -> None:
        """The user paused: remember the settings for undo and ask for the certified value."""
        with self._lock:
            point = self.shown.point
            if self._history[-1] != (point, self.hold):
                self._history.append((point, self.hold))
            self._show_comparison()
            self._show_snippet()
            self._background.submit(certify, point, self._arrived)

    def _arrived(self, answer: Guarantee | np.ndarray | Exception) -> None:
        with self._lock:
            match answer:
                case Guarantee():
                    self.shown = self.shown._replace(guarantee=answer)
                    self._show_cards()
                    self._show_comparison()
                case np.ndarray():
                    self.shown = self.shown._replace(mechanism=answer)
                    self._painter.ask()
                case _:
                    words = sentence(answer, what="The accounting")
                    self.view.status.value = status_html(words, kind="Not certified")
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
            self.view.pin.description = "Unpin" if self.pinned else "Pin"
            self.view.show_point(self.shown.point, self.pinned.point if self.pinned else None)
            self._painter.ask()
            self._show_comparison()

    def _show_cards(self) -> None:
        self.view.cards.value = readouts.cards(*self.shown[:3], stale=self._refusing)

    def _pinned_pair(self) -> tuple[Point, Readings] | None:
        return self.pinned[:2] if self.pinned else None

    def _show_comparison(self) -> None:
        kept = self.pinned[:3] if self.pinned else None
        self.view.comparison.value = readouts.comparison(self.shown[:3], kept)

    def _show_snippet(self) -> None:
        with self._lock:
            self.view.copy.text = FORMATS[str(self.view.format.label)](self.shown.point)
