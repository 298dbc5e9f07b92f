"""A figure on a panel: true after a reload, one message a redraw, and no upload button."""

import base64
import json
import threading
from typing import Any

import numpy as np
import pytest

from workbench.figures import live as live_module
from workbench.figures.live import LiveFigure
from workbench.figures.theme import axis, figure, layout


def live() -> LiveFigure:
    traces = {"a": {"x": np.arange(3.0), "y": np.zeros(3)}, "b": {"x": [0.0], "y": [1.0]}}
    return LiveFigure(figure(traces, layout(height=200, xaxis=axis("x"), yaxis=axis("y"))))


def traces(shown: LiveFigure) -> dict[str, Any]:
    data: Any = shown.figure.data
    return {trace.name: trace for trace in data}


def numbers(written: dict[str, str]) -> list[float]:
    return np.frombuffer(base64.b64decode(written["bdata"]), written["dtype"]).tolist()


def test_the_upload_button_is_off() -> None:
    assert live().config["showSendToCloud"] is False


def test_a_redraw_changes_traces_by_name_and_leaves_the_rest() -> None:
    shown = live()
    shown.redraw({"a": {"y": np.ones(3)}}, {"height": 300})
    by_name = traces(shown)
    assert list(by_name["a"].y) == [1, 1, 1]
    assert list(by_name["a"].x) == [0, 1, 2]
    assert list(by_name["b"].y) == [1]
    assert shown.figure.layout["height"] == 300


def heard(shown: LiveFigure, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the figure sends from now on."""
    sent: list[Any] = []
    monkeypatch.setattr(shown, "send", lambda message: sent.append(json.loads(message)))
    return sent


def ask(shown: LiveFigure, have: object = -1) -> None:
    shown._handle_custom_msg({"have": have}, [])


def test_a_redraw_is_one_message_of_what_changes_and_only_to_a_page_that_listens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = live()
    sent = heard(shown, monkeypatch)
    shown.redraw({"a": {"y": np.ones(3)}})
    assert sent == []
    ask(shown)
    changed = {"y": [2.0, np.nan], "line": {"color": "red"}}
    shown.redraw({"b": changed}, {"xaxis": {"range": (0, np.float64(1))}})
    whole, change = sent
    assert [trace["name"] for trace in whole["whole"]["data"]] == ["a", "b"]
    assert numbers(whole["whole"]["data"][0]["y"]) == [1, 1, 1]
    assert change == {
        "number": whole["number"] + 1,
        "traces": {"b": {"y": [2, None], "line.color": "red"}},
        "layout": {"xaxis.range": [0, 1]},
    }


def test_numbers_in_bulk_arrive_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = live()
    ask(shown)
    sent = heard(shown, monkeypatch)
    shown.redraw({"a": {"y": np.array([0.1, np.nan, 3])}, "b": {"y": np.array([], float)}})
    (change,) = sent
    np.testing.assert_array_equal(numbers(change["traces"]["a"]["y"]), [0.1, np.nan, 3])
    assert change["traces"]["b"]["y"] == []


def test_every_page_that_comes_gets_what_is_shown_now(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = live()
    sent = heard(shown, monkeypatch)
    for value in (7.0, 8.0):
        shown.redraw({"a": {"y": np.full(3, value)}})
        ask(shown)
        assert numbers(sent[-1]["whole"]["data"][0]["y"]) == [value] * 3


def test_a_page_that_asks_again_is_answered_again_but_not_for_a_queue_of_questions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown, clock = live(), [100.0]
    sent = heard(shown, monkeypatch)
    monkeypatch.setattr(live_module.time, "monotonic", lambda: clock[0])
    for _ in range(9):  # all waited while a cell was running
        ask(shown)
    assert [set(message) for message in sent] == [{"number", "whole"}]
    clock[0] += 0.5  # the answer was lost: a page waits that long before it asks again
    ask(shown)
    assert sent == [sent[0]] * 2


def test_a_page_in_step_hears_just_that(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = live()
    sent = heard(shown, monkeypatch)
    ask(shown)
    ask(shown, have=sent[0]["number"])
    assert sent[1:] == [{"number": sent[0]["number"], "same": True}]


@pytest.mark.parametrize("content", ["listening", None, {}, [], {"have": "all"}, {"have": 10**9}])
def test_a_question_in_other_words_gets_the_whole(
    content: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = live()
    sent = heard(shown, monkeypatch)
    shown._handle_custom_msg(content, [])
    assert "whole" in sent[0]


def test_a_redraw_that_fails_halfway_leaves_no_page_in_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = live()
    sent = heard(shown, monkeypatch)
    ask(shown)
    with pytest.raises(KeyError):
        shown.redraw({"a": {"y": np.ones(3)}, "no such trace": {}})
    shown.redraw({"b": {"y": [3.0]}})
    assert sent[-1]["number"] == sent[0]["number"] + 2, "the page sees the gap and asks"
    ask(shown, have=sent[0]["number"])
    assert numbers(sent[-1]["whole"]["data"][0]["y"]) == [1, 1, 1]


def test_the_code_is_sent_once_and_again_after_all_widgets_were_closed() -> None:
    live()
    first = live_module._Code._sent
    live()
    assert live_module._Code._sent is first
    assert first is not None
    assert "Plotly" in first.code
    first.close()
    live()
    assert live_module._Code._sent is not first


def test_redraws_from_many_threads_leave_traces_whole_and_numbers_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = live()
    sent = heard(shown, monkeypatch)
    ask(shown)

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
    assert [message["number"] for message in sent] == list(range(61))
