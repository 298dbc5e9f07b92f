"""Waits until a person has stopped changing things before something slow is asked."""

import threading
from collections.abc import Callable


class Settling:
    """Calls ``action``, on a thread of its own, once `later` has been quiet for ``seconds``."""

    def __init__(self, action: Callable[[], None], seconds: float) -> None:
        self._action, self._seconds = action, seconds
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()

    def later(self) -> None:
        """Something was changed: wait from now."""
        with self._lock:
            self._stop()
            self._timer = threading.Timer(self._seconds, self._action)
            self._timer.daemon = True
            self._timer.start()

    def cancel(self) -> None:
        """Do not call, unless something changes again."""
        with self._lock:
            self._stop()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
