"""One slow answer at a time in a process of its own; a newer question replaces an older one.

Accounting is CPU-bound Python: in a thread it would hold the interpreter that sliders need. The
process is `worker_server`; this is the panel's end of it.
"""

import atexit
import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from workbench.panels.common import worker_server
from workbench.panels.common.worker_server import Finished, Question

Deliver = Callable[[Any], None]


class Worker:
    """Answers by running ``function(argument)`` elsewhere, each yielded value delivered at once.

    Only the newest question is answered. An exception is delivered as the exception. ``deliver``
    is called on a thread of its own and under ``lock``: if that is the panel's, nothing outdated
    reaches it. The process starts with the first question or `warm_up`; one that dies is replaced,
    and asked again once.
    """

    def __init__(self, lock: "threading.RLock | None" = None, *, use_process: bool = True) -> None:
        self._lock = lock or threading.RLock()
        self._use_process = use_process
        self._process: subprocess.Popen[bytes] | None = None
        self._ticket = 0
        self._open: Question | None = None
        self._deliver: Deliver = lambda _answer: None
        atexit.register(self.close)

    def warm_up(self) -> None:
        """Start the process now, so that the first answer does not wait for its imports."""
        with self._lock:
            self._running()

    def submit(
        self, function: Callable[[Any], Iterator[Any]], argument: Any, deliver: Deliver
    ) -> None:
        """Ask for ``function(argument)``; whatever was asked before is dropped."""
        with self._lock:
            self._ticket += 1
            self._deliver = deliver
            name = f"{function.__module__}:{function.__qualname__}"
            self._ask(Question(self._ticket, name, argument))

    def cancel(self) -> None:
        """Forget the question being answered; its answer will not be delivered."""
        with self._lock:
            self._ticket += 1
            self._open = None

    def close(self) -> None:
        """End the process; a later question starts a new one."""
        atexit.unregister(self.close)
        with self._lock:
            self._ticket += 1
            self._open = None
            process, self._process = self._process, None
        if process is not None:
            _end(process)

    def _ask(self, question: Question) -> None:
        self._open = question
        if not self._sent(question):
            threading.Thread(target=self._answer_here, args=(question,), daemon=True).start()

    def _sent(self, question: Question) -> bool:
        """Whether a process took the question; a dead one is replaced once."""
        for _ in range(2):
            process = self._running()
            if process is None or process.stdin is None:
                return False
            try:
                pickle.dump(question, process.stdin)
                process.stdin.flush()
                return True
            except OSError:
                self._process = None
                _end(process)
        return False

    def _running(self) -> subprocess.Popen[bytes] | None:
        if not self._use_process:
            return None
        if self._process is None or self._process.poll() is not None:
            try:
                self._process = _started()
            except OSError:
                self._use_process = False
                return None
            for task in (self._listen, _outlived):
                threading.Thread(target=task, args=(self._process,), daemon=True).start()
        return self._process

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        while True:
            try:
                ticket, answer = pickle.load(process.stdout)
            except Exception:  # whatever a stream cut off in the middle makes of unpickling
                break
            self._hand_over(ticket, answer)
        self._ended(process)

    def _ended(self, process: subprocess.Popen[bytes]) -> None:
        """Ask again what a process that died has left open; but not what killed it twice."""
        with self._lock:
            if process is not self._process:
                return
            self._process = None
            _end(process)
            question = self._open
            if question and not question.asked_again:
                self._ask(replace(question, asked_again=True))
                return
        if question:
            self._hand_over(question.ticket, worker_server.ended())

    def _answer_here(self, question: Question) -> None:
        for answer in worker_server.answers(question):
            if not self._hand_over(question.ticket, answer):
                return

    def _hand_over(self, ticket: int, answer: Any) -> bool:
        """Deliver unless outdated."""
        with self._lock:
            current = ticket == self._ticket
            if current and isinstance(answer, Finished):
                self._open = None
            elif current:
                self._deliver(answer)
            return current


def _started() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", f"from {worker_server.__name__} import main; main()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        start_new_session=True,
    )


def _outlived(process: subprocess.Popen[bytes]) -> None:
    """Once the process is dead, end the fork it leaves, which would hold the pipe open."""
    process.wait()
    _kill_group(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process together with the fork that is worker_server."""
    _kill_group(process)
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
