"""What every panel is: a column of widgets with a style sheet, and with names for all of them.

ipywidgets gives sliders, number fields and pictures no name that a screen reader could say, and
opens an accordion by mouse alone. `Names` walks over a panel in the browser and mends that, so a
panel needs nothing but labels and tooltips.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from threading import RLock
from typing import Any, Generic, Protocol, TypeVar

import anywidget
import ipywidgets as widgets
import traitlets

from workbench.errors import InputError
from workbench.panels.common.markup import ASSETS, refusal_html, style


class Names(anywidget.AnyWidget):
    """Shows nothing; names whatever stands in the panel around it, also what comes later."""

    label = traitlets.Unicode().tag(sync=True)
    _esm = ASSETS / "names.js"


class Panel(widgets.VBox):
    """A dashboard; ``label`` is its own name, ``sheets`` are style sheets besides the shared one.

    Args:
        label: What a screen reader calls the panel, such as “Explorer”.
        children: The widgets in reading order, which is the order of the Tab key.
        sheets: Paths of further style sheets.
    """

    def __init__(
        self, label: str, children: Sequence[widgets.Widget], *, sheets: Sequence[Path] = ()
    ) -> None:
        self._names = Names(label=label, layout={"display": "none"})
        super().__init__([widgets.HTML(style(*sheets)), self._names, *children])
        self.add_class("workbench")


class Form(Protocol):
    """What asks for settings, and can point at the one that a complaint is about."""

    def mark(self, complaint: str) -> None:
        """Point at the field that ``complaint`` names; at none if it is empty."""


F = TypeVar("F", bound=Form)


class JobPanel(Panel, Generic[F]):
    """A panel whose buttons begin something long; subclasses set the three attributes.

    Attributes:
        form: The settings.
        message: Where the panel says what is going on.
    """

    form: F
    message: widgets.HTML
    _lock: RLock

    def _attempt(self, begin: Callable[[], Any]) -> None:
        """Begin, or say in one sentence why not."""
        try:
            begin()
        except InputError as error:
            with self._lock:
                self.form.mark(str(error))
                self.message.value = refusal_html(str(error))
