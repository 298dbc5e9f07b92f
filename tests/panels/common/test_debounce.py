"""What is slow is asked once, after the last change, and not at all once that is called off."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.panels.waiting import PATIENCE, WatchedLock
from workbench.panels.common.debounce import Debouncer


class Timer:
    """A timer that is up when the test says so, also one that was cancelled too late."""

    made: "list[Timer]"

    def __init__(self, seconds: float, up: Callable[[], None]) -> None:
        self.seconds, self.up, self.cancelled = seconds, up, False
        Timer.made.append(self)

    def start(self) -> None: ...

    def cancel(self) -> None:
        self.cancelled = True


@pytest.fixture
def timers(monkeypatch: pytest.MonkeyPatch) -> list[Timer]:
    Timer.made = []
    monkeypatch.setattr(threading, "Timer", Timer)
    return Timer.made


def test_many_changes_are_one_question_after_the_last(timers: list[Timer]) -> None:
    asked: list[bool] = []
    debouncer = Debouncer(lambda: asked.append(True), 0.1, threading.RLock())
    for _ in range(5):
        debouncer.later()
    assert [timer.seconds for timer in timers] == [0.1] * 5, "each change waits the whole time"
    assert [timer.cancelled for timer in timers] == [True] * 4 + [False]
    for timer in timers[:-1]:
        timer.up()
    assert asked == []
    timers[-1].up()
    assert asked == [True]


def test_a_cancelled_question_is_not_asked(timers: list[Timer]) -> None:
    asked: list[bool] = []
    debouncer = Debouncer(lambda: asked.append(True), 0.05, threading.RLock())
    debouncer.later()
    debouncer.cancel()
    assert timers[0].cancelled
    timers[0].up()
    assert asked == []


def test_whoever_holds_the_lock_can_still_call_it_off(timers: list[Timer]) -> None:
    """Also when the time is up and the call waits for the lock."""
    asked = threading.Event()
    lock: Any = WatchedLock()
    debouncer = Debouncer(asked.set, 0.02, lock)
    with lock:
        debouncer.later()
        thread = threading.Thread(target=timers[0].up)
        thread.start()
        assert lock.wanted.wait(PATIENCE)
        debouncer.cancel()
    thread.join()
    assert not asked.is_set()


def test_a_real_timer_asks_on_a_thread_of_its_own() -> None:
    asked = threading.Event()
    Debouncer(asked.set, 0.01, threading.RLock()).later()
    assert asked.wait(PATIENCE)
