"""Drawing that never falls behind: of many requests, only the newest state is drawn."""

import threading
from collections.abc import Callable


class RedrawWorker:
    """Calls ``paint()`` on a thread of its own, once for all requests since it last began.

    A slider sends its moves faster than surfaces can be computed; the caller only asks, and
    ``paint`` looks up what there is to draw. ``on_error`` gets what it raises.
    """

    def __init__(self, paint: Callable[[], None], on_error: Callable[[Exception], None]) -> None:
        self._paint, self._on_error = paint, on_error
        self._asked = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="painter", daemon=True)
        self._thread.start()

    def ask(self) -> None:
        """Have the state of now, or a newer one, drawn soon."""
        self._asked.set()

    def close(self) -> None:
        """End the thread once it has drawn what it is drawing."""
        self._closed = True
        self._asked.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _work(self) -> None:
        while self._asked.wait() and not self._closed:
            self._asked.clear()
            try:
                self._paint()
            except Exception as error:
                self._on_error(error)
