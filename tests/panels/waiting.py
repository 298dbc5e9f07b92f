"""Waiting for what happens on another thread, without sleeping longer than it takes."""

import time
from collections.abc import Callable

PATIENCE = 30.0  # seconds; a certified value takes about one on an idle machine


def eventually(condition: Callable[[], object], *, seconds: float = PATIENCE) -> None:
    """Return as soon as ``condition()`` is true; fail if it is not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)
