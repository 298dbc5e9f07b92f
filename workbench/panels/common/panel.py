"""What every panel is: a column of widgets with a style sheet, and with names for all of them.

ipywidgets gives sliders, number fields and pictures no name that a screen reader could say, and
opens an accordion by mouse alone. `Names` walks over a panel in the browser and mends that, so a
panel needs nothing but labels and tooltips.
"""

from collections.abc import Sequence
from pathlib import Path

import anywidget
import ipywidgets as widgets
import traitlets

from workbench.panels.common.markup import ASSETS, style


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
