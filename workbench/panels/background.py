"""One slow answer at a time in a process of its own; a newer question replaces an older one.

Accounting is CPU-bound Python: in a thread it would hold the interpreter that sliders need. Run as
a module, this file is that process. It reads questions from standard input and forks for each, so
that an outdated one is killed and not waited for, and it ends when its input closes, which is also
what happens when the kernel dies: nothing is left behind.
"""

import atexit
import contextlib
import importlib
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from workbench.errors import InputError

PATIENCE_SECONDS = 120
Deliver = Callable[[Any], None]


@dataclass(frozen=True)
class _Question:
    """``function``, as ``module:name``, is a generator function of one picklable argument."""

    ticket: int
    function: str
    argument: Any


class Background:
    """Answers by running ``function(argument)`` elsewhere, each yielded value delivered at once.

    Only the newest question is answered. An exception is delivered as the exception. ``deliver``
    is called on a thread of its own. The process starts with the first question or `warm_up`.
    """

    def __init__(self, *, use_process: bool = True) -> None:
        self._lock = threading.Lock()
        self._use_process = use_process
        self._process: subprocess.Popen[bytes] | None = None
        self._ticket = 0
        self._deliver: Deliver = lambda _answer: None
        atexit.register(self.close)

    def warm_up(self) -> None:
        """Start the process now, so that the first answer does not wait for its imports."""
        with self._lock:
            self._running()

    def submit(self, function: Callable[[Any], Iterator[Any]], argument: Any, deliver: Deliver):
        """Ask for ``function(argument)``; whatever was asked before is dropped."""
        with self._lock:
            self._ticket += 1
            self._deliver = deliver
            name = f"{function.__module__}:{function.__qualname__}"
            question = _Question(self._ticket, name, argument)
            if not self._sent(question):
                threading.Thread(target=self._answer_here, args=(question,), daemon=True).start()

    def cancel(self) -> None:
        """Forget the question being answered; its answer will not be delivered."""
        with self._lock:
            self._ticket += 1

    def close(self) -> None:
        """End the process; a later question starts a new one."""
        atexit.unregister(self.close)
        with self._lock:
            self._ticket += 1
            process, self._process = self._process, None
        if process is not None:
            _end(process)

    def _sent(self, question: _Question) -> bool:
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
                _end(process)
                self._process = None
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
            threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()
        return self._process

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        while True:
            try:
                ticket, answer = pickle.load(process.stdout)
            except (EOFError, OSError, ValueError, pickle.UnpicklingError):
                return
            self._hand_over(ticket, answer)

    def _answer_here(self, question: _Question) -> None:
        for answer in _answers(question):
            if not self._hand_over(question.ticket, answer):
                return

    def _hand_over(self, ticket: int, answer: Any) -> bool:
        """Deliver unless outdated; the panel checks again under its own lock."""
        with self._lock:
            current, deliver = ticket == self._ticket, self._deliver
        if current:
            deliver(answer)
        return current


def _started() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", __spec__.name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def _answers(question: _Question) -> Iterator[Any]:
    module, _, name = question.function.partition(":")
    try:
        yield from getattr(importlib.import_module(module), name)(question.argument)
    except Exception as error:
        yield error


def _serve(questions: BinaryIO, answers: int) -> None:
    """Answer questions until the input closes, each in a fork that the next question kills."""
    importlib.import_module("workbench.readings")
    importlib.import_module("dp_accounting.pld.privacy_loss_distribution")
    child = 0
    while True:
        try:
            question = pickle.load(questions)
        except EOFError:
            break
        _stop(child)
        child = os.fork() if hasattr(os, "fork") else -1
        if child == 0:
            try:
                _limit_time()
                _write_all(question, answers)
            finally:
                os._exit(0)
        if child < 0:
            _write_all(question, answers)
    _stop(child)


def _write_all(question: _Question, answers: int) -> None:
    for answer in _answers(question):
        os.write(answers, pickle.dumps((question.ticket, answer)))


def _limit_time() -> None:
    def give_up(*_: Any) -> None:
        raise InputError(
            f"The certified value takes longer than {PATIENCE_SECONDS} s; choose fewer steps, or "
            "compute it with the command workbench epsilon."
        )

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE_SECONDS)


def _stop(child: int) -> None:
    if child > 0:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the kernel's interrupt is not for this process
    own_output = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints must not mix with the answers
    _serve(sys.stdin.buffer, own_output)
