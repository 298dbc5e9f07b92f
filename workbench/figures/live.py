"""A figure on a panel: redrawn from any thread, one message a time, and true after a reload."""

import threading
from copy import deepcopy
from typing import Any

import plotly.graph_objects as go

from workbench.figures.theme import CONFIG, Traces

_DATA = ("x", "y", "z", "customdata", "text")


class LiveFigure(go.FigureWidget):
    """A figure widget without the button that would upload it.

    Plotly's widget drops what is sent while the browser still loads its code, and gives a reloaded
    page the data it was built with. This one sends its data again once the browser has drawn, and
    answers a reload with what it shows now.
    """

    def __init__(self, plain: go.Figure) -> None:
        self._drawing = threading.RLock()
        super().__init__(plain)
        self._config = dict(CONFIG)
        self.observe(self._first_drawn, names="_js2py_traceDeltas")

    def redraw(self, traces: Traces, layout: dict[str, Any] | None = None) -> None:
        """Update traces by name, and the layout, as one message to the browser."""
        drawn: Any = self.data
        with self._drawing, self.batch_update():
            by_name = {trace.name: trace for trace in drawn}
            for name, values in traces.items():
                by_name[name].update(values)
            if layout:
                self.update_layout(**layout)

    def get_state(self, key: Any = None, drop_defaults: bool = False) -> dict[str, Any]:
        """The widget's state; all of it, as a reloading page asks, with the data shown now."""
        if key is None and self.comm is not None:
            self._widget_data = deepcopy(self._data)
            self._widget_layout = deepcopy(self._layout)
        return super().get_state(key, drop_defaults)

    def _first_drawn(self, change: dict[str, Any]) -> None:
        if change["new"] is None:
            return
        self.unobserve(self._first_drawn, names="_js2py_traceDeltas")
        drawn: Any = self.data
        with self._drawing:
            kept = {trace.name: _data(trace) for trace in drawn}
            self.redraw({trace.name: _emptied(trace) for trace in drawn})
            self.redraw(kept)


def _data(trace: Any) -> dict[str, Any]:
    """What a trace shows; parallel coordinates keep theirs in their axes and their line."""
    if trace.type == "parcoords":
        line = {key: trace.line[key] for key in ("color", "cmin", "cmax")}
        return {"dimensions": [axis.to_plotly_json() for axis in trace.dimensions], "line": line}
    return {key: trace[key] for key in _DATA if key in trace}


def _emptied(trace: Any) -> dict[str, Any]:
    """The same without data."""
    data = _data(trace)
    if trace.type == "parcoords":
        axes = [{**dict.fromkeys(axis), "values": []} for axis in data["dimensions"]]
        return {"dimensions": axes, "line": {**dict.fromkeys(data["line"]), "color": []}}
    return dict.fromkeys(data)
