"""A figure on a panel: redrawn from any thread, one message a time, and true after a reload.

Plotly's own widget answers each redraw with all that the browser filled in, which takes kernel,
server and browser longer than to draw, and sends 5 MB of code with every figure. This one sends its
code once a page and what changes, and says nothing back unless it has missed something.
"""

import base64
import json
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs
from plotly.utils import PlotlyJSONEncoder
from traitlets import Bool, Dict, Int, Unicode

from workbench.figures.subshells import hear_every_page
from workbench.figures.theme import CONFIG, Traces

_ASSETS = Path(__file__).parent / "assets"
_HEIGHT = 450  # pixels, plotly's own where a layout names none
_ON_ITS_WAY_SECONDS = 0.4  # less than a page waits before it asks again


class LiveFigure(anywidget.AnyWidget):
    """A plotly figure as a widget, without the button that would upload it.

    ``on_click(trace, x, y)`` is called when a point is clicked.

    ``figure`` is what it shows now; `redraw` changes it. Each state has a number, and so has each
    message: a page that has missed one sees the gap and asks. It asks until it is answered, because
    its words can be lost as well.

    A screen reader says what `theme.layout` was told that the figure ``shows``.
    """

    _esm = _ASSETS / "live.js"
    height = Int().tag(sync=True)
    config = Dict().tag(sync=True)
    clickable = Bool(False).tag(sync=True)

    def __init__(
        self, plain: go.Figure, *, on_click: Callable[[str, float, float], None] | None = None
    ) -> None:
        hear_every_page()
        _Code.send_once()
        self._drawing = threading.RLock()
        self._number = 0
        self._listening = False
        self._whole_sent = (-1, 0.0)  # the state last sent as a whole, and when
        self.figure = go.Figure(plain)
        self._on_click = on_click
        super().__init__(
            height=plain.layout["height"] or _HEIGHT, config=CONFIG, clickable=on_click is not None
        )
        self.on_msg(self._asked)

    def redraw(
        self, traces: Traces, layout: Mapping[str, Any] | None = None, *, shows: str = ""
    ) -> None:
        """Update traces by name, and the layout, as one message to the browser.

        Paths within either are dotted, ``{"xaxis.range": [0, 1]}``, or dictionaries. ``shows`` says
        in a line what there is to see now; without it what was said before stays.
        """
        with self._drawing:
            self._number += 1  # first: should this fail halfway, no page is taken to be in step
            drawn: Any = self.figure.data
            by_name = {trace.name: trace for trace in drawn}
            for name, values in traces.items():
                by_name[name].update(values)
            self.figure.update_layout(**(layout or {}))
            if shows:
                # Kept apart from the layout: a change of plotly's own draws everything anew.
                told: Any = self.figure.layout["meta"] or {}
                self.figure.layout["meta"] = {**told, "shows": shows}
            if self._listening:
                changed = {name: _flat(values) for name, values in traces.items()}
                entries = {"traces": changed, "layout": _flat(layout or {})}
                self._tell(_json(entries | ({"shows": shows} if shows else {}))[1:-1])

    def _asked(self, _widget: object, content: object, _buffers: object) -> None:
        """A page tells which state it has: it gets the newest, after which changes are enough.

        Questions that waited in a queue behind one just answered have their answer on its way. A
        click is no question.
        """
        match content:
            case {"clicked": str(name), "x": int() | float() as x, "y": int() | float() as y}:
                if self._on_click is not None:
                    self._on_click(name, float(x), float(y))
                return
        with self._drawing:
            self._listening = True
            if content == {"have": self._number}:
                self._tell('"same": true')
            elif not self._on_its_way():
                self._whole_sent = (self._number, time.monotonic())
                self._tell(f'"whole": {self.figure.to_json()}')

    def _on_its_way(self) -> bool:
        number, moment = self._whole_sent
        return number == self._number and time.monotonic() - moment < _ON_ITS_WAY_SECONDS

    def _tell(self, entries: str) -> None:
        self.send(f'{{"number": {self._number}, {entries}}}')


class _Code(anywidget.AnyWidget):
    """Plotly's code, which figures find on the page."""

    _esm = _ASSETS / "plotly.js"
    code = Unicode().tag(sync=True)
    _sent: "_Code | None" = None

    @classmethod
    def send_once(cls) -> None:
        """Have it on the page of this kernel, also after somebody closed all widgets."""
        if cls._sent is None or cls._sent.comm is None:
            module = f"const module = {{ exports: {{}} }};\n{get_plotlyjs()}"
            cls._sent = cls(code=f"{module}\nexport default module.exports;\n")


def _json(value: Any) -> str:
    return json.dumps(value, cls=PlotlyJSONEncoder)


def _flat(values: Mapping[str, Any], lead: str = "") -> dict[str, Any]:
    """Plotly's paths to what changes: ``{"line": {"color": 1}}`` is ``{"line.color": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{lead}{key}."))
        else:
            flat[lead + key] = _written(value)
    return flat


def _written(value: Any) -> Any:
    """Numbers in bulk as base64, the way plotly writes them."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiu" and value.size:
        numbers = np.ascontiguousarray(value, "<f8")
        shape = ", ".join(map(str, value.shape))
        bulk = base64.b64encode(numbers.tobytes()).decode("ascii")
        return {"dtype": "f8", "bdata": bulk, **({"shape": shape} if value.ndim > 1 else {})}
    if isinstance(value, Mapping):
        return {key: _written(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_written(inner) for inner in value]
    return value
