"""A job: work in a thread of its own that others watch, such as a panel or a notebook cell."""

import asyncio
import threading
from typing import Generic, Protocol, TypeVar

_LOOK_AGAIN_SECONDS = 0.1


class JobState(Protocol):
    """A job as it stood at one moment."""

    @property
    def version(self) -> int:
        """How often it has moved on."""
        ...

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        ...


S = TypeVar("S", bound=JobState)


class Job(Generic[S]):
    """Keeps the newest state of some work; every method can be called from any thread."""

    def __init__(self, first: S) -> None:
        self._changed = threading.Condition()
        self._now = first

    @property
    def active(self) -> bool:
        """Whether the work is still going, or could go on."""
        return not self._now.ended

    def progress(self, *, newer_than: int = -1, timeout: float | None = None) -> S:
        """The work as it stands, once it has moved on from version ``newer_than``."""
        with self._changed:
            self._changed.wait_for(lambda: self._now.version > newer_than, timeout)
            return self._current()

    def wait(self, timeout: float | None = None) -> S:
        """The work as it ended, or as it stands after ``timeout`` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._now.ended, timeout)
            return self._current()

    async def until_end(self) -> S:
        """The same for a notebook cell: while it awaits, the kernel still hears the buttons."""
        while self.active:
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        return self.progress()

    def _current(self) -> S:
        return self._now

    def _become(self, state: S) -> None:
        """Move on to ``state`` and wake whoever waits; an end is final."""
        with self._changed:
            if not self._now.ended:
                self._now = state
                self._changed.notify_all()
