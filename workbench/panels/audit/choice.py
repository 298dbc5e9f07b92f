"""Which model and signal are on display, and on which scales."""

from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets

from workbench.analysis.audited import CANARIES
from workbench.panels.audit.form import signal_name
from workbench.panels.common.controls import toggle

BANDS = (("exact", "exact"), ("bootstrap", "bootstrap"), ("none", ""))
LABELS = "64px"  # as wide as the longest of them


class ViewForm:
    """Which model and signal are on display, and how."""

    def __init__(self, *, on_change: Callable[[], None]) -> None:
        self._quiet = False
        self._on_change = on_change
        style = {"description_width": LABELS}
        wide = {"layout": {"width": "auto"}, "style": style}
        self.model = widgets.Dropdown(
            description="Model", tooltip="Whose threshold, counts and ruler are shown.", **wide
        )
        self.signal = widgets.Dropdown(
            description="Signal", tooltip="What scores a record; higher says “member”.", **wide
        )
        self.axes = toggle(
            "Axes",
            (("linear", False), ("log–log", True)),
            "Scale of the curves.",
            label_width=LABELS,
        )
        self.axes.value = True
        self.band = toggle(
            "Band",
            BANDS,
            "95 % limits of the true positive rate: exact (Clopper–Pearson) at a given threshold, "
            "by bootstrap at a given false positive rate, or none.",
            label_width=LABELS,
        )
        self.ruler = toggle(
            "Ruler",
            (("log", True), ("linear", False)),
            "Scale of the ruler of ε.",
            label_width=LABELS,
        )
        layout = {"grid_template_columns": "1fr 1fr", "grid_gap": "2px 14px"}
        self.box = widgets.GridBox([self.model, self.signal, self.axes, self.band], layout=layout)
        for widget in (self.model, self.signal, self.axes, self.band, self.ruler):
            widget.observe(self._changed, names="value")

    def offer(self, models: Sequence[str], signals: Sequence[str]) -> None:
        """Offer these, keeping what was chosen where it is among them."""
        self._quiet = True
        try:
            _offer(self.model, [(name, name) for name in models])
            _offer(self.signal, [(signal_name(name), name) for name in signals])
        finally:
            self._quiet = False

    def choose(self, model: str, signal: str) -> None:
        """Show another model or signal, calling nobody back."""
        self._quiet = True
        try:
            self.model.value, self.signal.value = model, signal
        finally:
            self._quiet = False

    def _changed(self, _: Any) -> None:
        if not self._quiet:
            self._on_change()


def _offer(widget: widgets.Dropdown, options: list[tuple[str, str]]) -> None:
    before = widget.value
    widget.options = options
    names = [name for _, name in options]
    if before in names:
        widget.value = before
    elif CANARIES in names:
        widget.value = CANARIES
    elif names:
        widget.value = names[0]
