"""Waiting for what happens on another thread, without sleeping longer than it takes."""

import threading
import time
from collections.abc import Callable

PATIENCE = 600.0  # seconds: not how long things take, but when they are taken to hang


def eventually(condition: Callable[[], object], *, seconds: float = PATIENCE) -> None:
    """Return as soon as ``condition()`` is true; fail if it is not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


class WatchedLock:
    """A reentrant lock; ``wanted`` is set once a thread asks for it that did not make it."""

    def __init__(self) -> None:
        self.wanted = threading.Event()
        self._lock, self._maker = threading.RLock(), threading.get_ident()

    def __enter__(self) -> bool:
        if threading.get_ident() != self._maker:
            self.wanted.set()
        return self._lock.__enter__()

    def __exit__(self, *error: object) -> None:
        self._lock.release()
