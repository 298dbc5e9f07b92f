"""A figure on a panel: true after a reload, one message a redraw, and no upload button."""

import threading
from typing import Any

import numpy as np

from workbench.figures.live import LiveFigure
from workbench.figures.theme import axis, figure, layout


def live() -> LiveFigure:
    traces = {"a": {"x": np.arange(3.0), "y": np.zeros(3)}, "b": {"x": [0.0], "y": [1.0]}}
    return LiveFigure(figure(traces, layout(height=200, xaxis=axis("x"), yaxis=axis("y"))))


def traces(shown: LiveFigure) -> dict[str, Any]:
    data: Any = shown.data
    return {trace.name: trace for trace in data}


def test_the_upload_button_is_off() -> None:
    assert live()._config["showSendToCloud"] is False


def test_a_redraw_changes_traces_by_name_and_leaves_the_rest() -> None:
    shown = live()
    shown.redraw({"a": {"y": np.ones(3)}}, {"height": 300})
    by_name = traces(shown)
    assert list(by_name["a"].y) == [1, 1, 1]
    assert list(by_name["a"].x) == [0, 1, 2]
    assert list(by_name["b"].y) == [1]
    assert shown.layout["height"] == 300


def test_a_redraw_is_one_message() -> None:
    shown, sent = live(), []
    shown.observe(lambda change: sent.append(change["new"]), names="_py2js_update")
    shown.redraw({"a": {"y": np.ones(3)}, "b": {"y": [2.0]}}, {"height": 300})
    assert len([message for message in sent if message]) == 1


def test_a_reloaded_page_gets_what_is_shown_now() -> None:
    shown = live()
    shown.redraw({"a": {"y": np.full(3, 7.0)}})
    sent = shown.get_state()["_widget_data"][0]["y"]
    assert list(np.frombuffer(sent["buffer"], dtype=sent["dtype"])) == [7, 7, 7]


def test_redraws_from_many_threads_leave_traces_whole() -> None:
    shown = live()

    def draw(value: float) -> None:
        for _ in range(20):
            shown.redraw({"a": {"y": np.full(3, value)}, "b": {"y": [value]}})

    threads = [threading.Thread(target=draw, args=(value,)) for value in (1.0, 2.0, 3.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    by_name = traces(shown)
    assert len({*by_name["a"].y, *by_name["b"].y}) == 1
