"""A figure on a panel: redrawn from any thread, one message a time, and true after a reload.

Plotly's own widget answers each redraw with all that the browser filled in, which takes kernel,
server and browser longer than to draw, and sends 5 MB of code with every figure. This one sends its
code once a page and what changes, and says nothing back.
"""

import base64
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs
from plotly.utils import PlotlyJSONEncoder
from traitlets import Dict, Int, Unicode

from workbench.figures.theme import CONFIG, Traces

_ASSETS = Path(__file__).parent / "assets"
_HEIGHT = 450  # pixels, plotly's own where a layout names none


class LiveFigure(anywidget.AnyWidget):
    """A plotly figure as a widget, without the button that would upload it.

    ``figure`` is what it shows now; `redraw` changes it.
    """

    _esm = _ASSETS / "live.js"
    height = Int().tag(sync=True)
    config = Dict().tag(sync=True)

    def __init__(self, plain: go.Figure) -> None:
        _Code.send_once()
        self._drawing = threading.RLock()
        self._listening = False
        self.figure = go.Figure(plain)
        super().__init__(height=plain.layout["height"] or _HEIGHT, config=CONFIG)
        self.on_msg(self._begun)

    def redraw(self, traces: Traces, layout: Mapping[str, Any] | None = None) -> None:
        """Update traces by name, and the layout, as one message to the browser.

        Paths within either are dotted, ``{"xaxis.range": [0, 1]}``, or dictionaries.
        """
        with self._drawing:
            drawn: Any = self.figure.data
            by_name = {trace.name: trace for trace in drawn}
            for name, values in traces.items():
                by_name[name].update(values)
            self.figure.update_layout(**(layout or {}))
            if self._listening:
                changed = {name: _flat(values) for name, values in traces.items()}
                message = {"traces": changed, "layout": _flat(layout or {})}
                self.send(json.dumps(message, cls=PlotlyJSONEncoder))

    def _begun(self, *_: object) -> None:
        """A page has come to listen: all that is shown, after which changes are enough."""
        with self._drawing:
            self._listening = True
            self.send(f'{{"whole": {self.figure.to_json()}}}')


class _Code(anywidget.AnyWidget):
    """Plotly's code, which figures find on the page."""

    _esm = Unicode().tag(sync=True)
    _sent: "_Code | None" = None

    @classmethod
    def send_once(cls) -> None:
        """Have it on the page of this kernel, also after somebody closed all widgets."""
        if cls._sent is None or cls._sent.comm is None:
            end = (_ASSETS / "plotly.js").read_text(encoding="utf-8")
            cls._sent = cls(_esm=f"const module = {{ exports: {{}} }};\n{get_plotlyjs()}\n{end}")


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
