"""Widgets that panels share: a slider with its number field, a copy box, the style sheet.

A slider moves in steps, so every quantity also has a text field, which takes any number (``1e-5``,
``13e9``) and refuses the rest in words.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import anywidget
import ipywidgets as widgets
import plotly.graph_objects as go
import traitlets

from workbench.errors import InputError
from workbench.figures.live import LiveFigure
from workbench.panels.common.formatting import number, written
from workbench.panels.common.markup import ASSETS, status_html
from workbench.panels.common.panel import Panel

_TICK = 0.01  # in decades: an arrow key moves a slider by 2.3 %
DELTA = "Probability that may escape the bound; keep it far below 1/N."


class Knob:
    """A quantity as a logarithmic slider with a linked text field; ``value`` is exact.

    ``on_change(name, value)`` is called when the user moves either; ``on_bad_input(error)`` when
    the field holds no number in range, after which the field shows the last good value again.
    """

    def __init__(
        self,
        name: str,
        label: str,
        tooltip: str,
        *,
        low: float,
        high: float,
        whole: bool = False,
        on_change: Callable[[str, float], None],
        on_bad_input: Callable[[InputError], None],
    ) -> None:
        self.name, self._label, self._tooltip = name, label, tooltip
        self._low, self._high, self._whole = low, high, whole
        self._on_change, self._on_bad_input = on_change, on_bad_input
        self._quiet = False
        self.value = math.nan
        self.slider = widgets.FloatLogSlider(
            description=label,
            tooltip=tooltip,
            min=math.log10(low),
            max=math.log10(high),
            step=_TICK,
            readout_format=",.0f" if whole else ".4g",  # hidden: for screen readers alone
            continuous_update=True,
            style={"description_width": "108px"},
            layout={"flex": "1 1 auto", "min_width": "0", "width": "auto"},
        )
        self.field = widgets.Text(
            tooltip=f"{label}: {tooltip} Type a number.",
            continuous_update=False,
            layout={"width": "96px", "flex": "0 0 auto"},
        )
        self.row = widgets.HBox([self.slider, self.field], layout={"width": "100%"})
        self.row.add_class("wb-row")
        self.slider.observe(self._slid, names="value")
        self.field.observe(self._typed, names="value")

    def show(self, value: float) -> None:
        """Show ``value`` without calling back."""
        if value != self.value:
            self._set(value)

    def _set(self, value: float) -> None:
        self.value = value
        self._quiet = True
        try:
            self.slider.value = min(max(value, self._low), self._high)
            self.field.value = written(value, whole=self._whole)
        finally:
            self._quiet = False

    def disable(self, disabled: bool) -> None:
        """Make the knob follow instead of lead, or lead again."""
        self.slider.disabled = self.field.disabled = disabled

    def _slid(self, change: dict[str, Any]) -> None:
        value = change["new"]
        if self._quiet or self._is_echo(value):
            return
        value = float(round(value)) if self._whole else float(f"{value:.4g}")
        if value != self.value:
            self.value = value
            self._quiet = True
            self.field.value = written(value, whole=self._whole)
            self._quiet = False
            self._on_change(self.name, value)

    def _is_echo(self, slid: float) -> bool:
        """Whether the browser only reports the tick nearest to the value it was given."""
        given = min(max(self.value, self._low), self._high)
        return abs(math.log10(slid / given)) <= _TICK * 0.501

    def _typed(self, change: dict[str, Any]) -> None:
        if self._quiet:
            return
        try:
            value = number(self._label, change["new"])
        except InputError as error:
            self._set(self.value)
            self._on_bad_input(error)
            return
        if self._whole and math.isfinite(value):
            value = float(round(value))
        self._set(value)
        self._on_change(self.name, value)


def button(label: str, icon: str, tooltip: str, on_click: Callable[[], Any]) -> widgets.Button:
    """A button of the size that panels give theirs."""
    layout = {"width": "112px", "flex": "0 0 auto"}
    made = widgets.Button(description=label, icon=icon, tooltip=tooltip, layout=layout)
    made.on_click(lambda _: on_click())
    return made


class CopyBox(anywidget.AnyWidget):
    """Text to take away: a read-only text area and a button that copies it."""

    text = traitlets.Unicode("").tag(sync=True)
    label = traitlets.Unicode("Copy").tag(sync=True)
    _esm = ASSETS / "copy_box.js"


def toggle(
    label: str, options: Sequence[tuple[str, object]], tooltip: str, *, label_width: str
) -> widgets.ToggleButtons:
    """A row of buttons of which one is pressed."""
    return widgets.ToggleButtons(
        options=options,
        description=label,
        tooltip=tooltip,
        tooltips=[f"{label} {name}. {tooltip}" for name, _ in options],
        style={"description_width": label_width, "button_width": "auto"},
    )


def status_line() -> widgets.HTML:
    """One line for what went wrong or deserves a warning, read out by screen readers."""
    return widgets.HTML(value=status_html(""))


def framed(figure: go.Figure) -> Panel:
    """A still figure for a notebook, in the colours of the theme and without an upload button."""
    return Panel("Picture", [LiveFigure(figure)])
