"""What is slow is asked once, after the last change, and not at all once the panel is closed."""

import threading
import time

from tests.panels.waiting import eventually
from workbench.panels.settling import Settling


def test_many_changes_are_one_question_after_the_last() -> None:
    asked: list[float] = []
    settling = Settling(lambda: asked.append(time.monotonic()), 0.1)
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
    settling = Settling(asked.set, 0.05)
    settling.later()
    settling.cancel()
    Settling(other.set, 0.1).later()
    assert other.wait(10)
    assert not asked.is_set()
