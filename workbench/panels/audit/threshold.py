"""The threshold as a control."""

from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from workbench.errors import InputError
from workbench.panels.common.formatting import number, written


class Threshold:
    """The threshold as a slider with a linked text field; ``value`` is exact.

    ``on_change(value)`` is called when the user moves either; ``on_bad_input(error)`` when the
    field holds no number, after which it shows the last good value again.
    """

    def __init__(
        self,
        *,
        on_change: Callable[[float], None],
        on_bad_input: Callable[[InputError], None],
    ) -> None:
        self._on_change, self._on_bad_input = on_change, on_bad_input
        self._quiet = False
        self.value = 0.0
        tooltip = "A record is called a member where its score is at least this."
        self.slider = widgets.FloatSlider(
            description="Threshold",
            tooltip=tooltip,
            readout=False,
            continuous_update=True,
            style={"description_width": "76px"},
            layout={"flex": "1 1 auto", "min_width": "0", "width": "auto"},
        )
        self.field = widgets.Text(
            tooltip=f"Threshold: {tooltip} Type a number.",
            continuous_update=False,
            layout={"width": "110px", "flex": "0 0 auto"},
        )
        self.row = widgets.HBox([self.slider, self.field], layout={"width": "100%"})
        self.row.add_class("wb-row")  # one label names both
        self.slider.observe(self._slid, names="value")
        self.field.observe(self._typed, names="value")

    def fit(self, low: float, high: float) -> None:
        """Let the slider go from ``low`` to ``high``, calling nobody back."""
        self._quiet = True
        try:
            with self.slider.hold_sync():
                # In this order, because the least must never exceed the greatest.
                self.slider.min = min(low, self.slider.min)
                self.slider.max = high
                self.slider.min = low
                self.slider.step = (high - low) / 1000
        finally:
            self._quiet = False

    def show(self, value: float) -> None:
        """Show ``value``, calling nobody back."""
        self.value = value
        self._quiet = True
        try:
            self.slider.value = min(max(value, self.slider.min), self.slider.max)
            self.field.value = written(value)
        finally:
            self._quiet = False

    def _slid(self, change: dict[str, Any]) -> None:
        value = float(change["new"])
        # The browser reports the tick nearest to the value that it was given.
        echo = abs(value - min(max(self.value, self.slider.min), self.slider.max))
        if self._quiet or echo <= 0.501 * float(self.slider.step or 0.0):
            return
        self.value = value
        self._quiet = True
        self.field.value = written(value)
        self._quiet = False
        self._on_change(value)

    def _typed(self, change: dict[str, Any]) -> None:
        if self._quiet:
            return
        try:
            value = number("Threshold", change["new"])
        except InputError as error:
            self.show(self.value)
            self._on_bad_input(error)
            return
        self.show(value)
        self._on_change(value)
