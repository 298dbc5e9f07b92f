"""What is slow is asked once, after the last change, and not at all once that is called off."""

import threading
import time

from tests.panels.waiting import eventually
from workbench.panels.settling import Settling


def test_many_changes_are_one_question_after_the_last() -> None:
    asked: list[float] = []
    settling = Settling(lambda: asked.append(time.monotonic()), 0.1, threading.RLock())
    for _ in range(5):
        time.sleep(0.02)
        settling.later()
    last = time.monotonic()
    eventually(lambda: len(asked) == 1)
    # The first change's question would have come 0.02 s after the last change; a coarse clock may
    # take some of the 0.1 s.
    assert asked[0] > last + 0.05


def test_a_cancelled_question_is_not_asked() -> None:
    asked, other = threading.Event(), threading.Event()
    settling = Settling(asked.set, 0.05, threading.RLock())
    settling.later()
    settling.cancel()
    Settling(other.set, 0.1, threading.RLock()).later()
    assert other.wait(10)
    assert not asked.is_set()


def test_whoever_holds_the_lock_can_still_call_it_off() -> None:
    """Also when the time is up and the call waits for the lock."""
    asked, other, lock = threading.Event(), threading.Event(), threading.RLock()
    settling = Settling(asked.set, 0.02, lock)
    before = threading.active_count()
    with lock:
        settling.later()
        time.sleep(0.2)  # the timer has fired meanwhile
        settling.cancel()
    eventually(lambda: threading.active_count() <= before)
    Settling(other.set, 0.02, lock).later()
    assert other.wait(10)
    assert not asked.is_set()
