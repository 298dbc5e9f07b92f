"""The drawing draws the newest state, never falls behind, and ends with its panel."""

import threading
from collections.abc import Callable

import pytest

from tests.panels.waiting import PATIENCE, eventually
from workbench.panels.common.redraw import RedrawWorker


def unexpected(error: Exception) -> None:
    pytest.fail(f"painting failed: {error}")


def painters() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "drawing"]


def gated() -> tuple[Callable[[], None], threading.Event, threading.Event, list[int]]:
    """A paint that waits for leave, and what tells that it has begun."""
    begun, leave, drawn = threading.Event(), threading.Event(), []

    def paint() -> None:
        begun.set()
        leave.wait(PATIENCE)
        drawn.append(len(drawn))

    return paint, begun, leave, drawn


def test_many_requests_while_it_draws_are_one() -> None:
    paint, begun, leave, drawn = gated()
    drawing = RedrawWorker(paint, unexpected)
    drawing.ask()
    begun.wait(PATIENCE)
    for _ in range(50):
        drawing.ask()
    leave.set()
    eventually(lambda: len(drawn) == 2)
    drawing.close()
    assert len(drawn) == 2


def test_asking_does_not_wait_for_the_drawing() -> None:
    paint, begun, leave, drawn = gated()
    drawing = RedrawWorker(paint, unexpected)
    drawing.ask()
    begun.wait(PATIENCE)
    drawing.ask()
    assert drawn == []
    leave.set()
    drawing.close()


def test_an_error_is_handed_on_and_the_next_request_is_drawn() -> None:
    errors, drawn = [], []

    def paint() -> None:
        if not errors:
            raise ValueError("no colour left")
        drawn.append(True)

    drawing = RedrawWorker(paint, errors.append)
    drawing.ask()
    eventually(lambda: errors)
    drawing.ask()
    eventually(lambda: drawn)
    drawing.close()
    assert str(errors[0]) == "no colour left"


def test_closing_ends_the_thread_even_from_within() -> None:
    before = len(painters())
    held: list[RedrawWorker] = []
    drawing = RedrawWorker(lambda: held[0].close(), unexpected)
    held.append(drawing)
    drawing.ask()
    eventually(lambda: len(painters()) == before)
    drawing.close()
