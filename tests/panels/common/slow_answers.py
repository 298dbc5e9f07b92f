"""Questions for `Worker`, at module level because it imports them by name."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workbench.errors import InputError


def echo(argument: Any) -> Iterator[Any]:
    """What was asked, and the process that answered."""
    yield argument, os.getpid()


def stepwise(gate: str) -> Iterator[str]:
    """Two answers; before the second it waits until somebody writes to the FIFO ``gate``."""
    yield "first"
    if gate:
        Path(gate).read_bytes()
    yield "second"


def marked_then_slow(path: str) -> Iterator[str]:
    """Write this process's id to ``path``, then take longer than any test."""
    Path(path).write_text(str(os.getpid()), encoding="utf-8")
    signal.pause()
    yield "too late"


def refusing(word: str) -> Iterator[str]:
    """Raise what a panel shows."""
    yield "one answer"
    raise InputError(f"{word} cannot be used; choose another.")


def printing(text: str) -> Iterator[str]:
    """Print on the way, as libraries do."""
    print(text, flush=True)  # noqa: T201 - this is the point
    yield text


def dying(_: Any) -> Iterator[str]:
    """End the process without an answer."""
    os._exit(1)
    yield "never"
