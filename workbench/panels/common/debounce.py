"""Waits until a person has stopped changing things before something slow is asked."""

import threading
from collections.abc import Callable


class Debouncer:
    """Calls ``action``, on a thread of its own, once `later` has been quiet for ``seconds``.

    It is called under ``lock``, the panel's: whoever holds that and cancels is sure of it.
    """

    def __init__(self, action: Callable[[], None], seconds: float, lock: "threading.RLock") -> None:
        self._action, self._seconds, self._lock = action, seconds, lock
        self._timer: threading.Timer | None = None

    def later(self) -> None:
        """Something was changed: wait from now."""
        with self._lock:
            self.cancel()
            timer = threading.Timer(self._seconds, lambda: self._due(timer))
            timer.daemon = True
            self._timer = timer
            timer.start()

    def cancel(self) -> None:
        """Do not call, unless something changes again."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = None

    def _due(self, timer: threading.Timer) -> None:
        with self._lock:
            if timer is self._timer:  # a cancelled timer may have fired and waited here
                self._timer = None
                self._action()
