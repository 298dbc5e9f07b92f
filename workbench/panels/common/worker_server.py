"""The process behind `worker`: answers questions from standard input, each in a fork.

A fork can be killed, so an outdated question is not waited for. The process ends when its input
closes, which is also what happens when the kernel dies: nothing is left behind.
"""

import contextlib
import importlib
import os
import pickle
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from workbench.errors import InputError

PATIENCE_SECONDS = 120


@dataclass(frozen=True)
class Question:
    """``function``, as ``module:name``, is a generator function of one picklable argument."""

    ticket: int
    function: str
    argument: Any
    asked_again: bool = False


@dataclass(frozen=True)
class Finished:
    """Follows the last answer to a question."""


def answers(question: Question) -> Iterator[Any]:
    """What the question's function yields, an exception as the last answer, and `Finished`."""
    module, _, name = question.function.partition(":")
    try:
        yield from getattr(importlib.import_module(module), name)(question.argument)
    except Exception as error:
        yield error
    yield Finished()


class Server:
    """Reads `Question`s and writes ``(ticket, answer)``, all pickled."""

    def __init__(self, questions: BinaryIO, answers: int) -> None:
        self._questions, self._answers = questions, answers
        self._child, self._ticket = 0, 0

    def serve(self) -> None:
        """Answer until the input closes; a new question ends the one before."""
        forks = hasattr(os, "fork")
        if forks:
            signal.signal(signal.SIGCHLD, lambda *_: self._reap())
        while (question := self._next()) is not None:
            self._stop()
            self._ticket = question.ticket
            if forks:
                self._fork(question)
            else:
                self._write_all(question)
        self._stop()

    def _next(self) -> Question | None:
        try:
            return pickle.load(self._questions)
        except EOFError:
            return None

    def _fork(self, question: Question) -> None:
        # A child that ends at once must not be reaped before its number is known.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        self._child = os.fork()
        if self._child == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        if self._child == 0:
            status = 1
            try:
                limit_time()
                self._write_all(question)
                status = 0
            finally:
                os._exit(status)

    def _reap(self) -> None:
        """Leave no zombie of a child that ended, and say so if it ended without its last answer."""
        if self._child > 0:
            child, status = os.waitpid(self._child, os.WNOHANG)
            if child:
                self._child = 0
                if status:
                    self._write(self._ticket, ended())
                    self._write(self._ticket, Finished())

    def _stop(self) -> None:
        running, self._child = self._child, 0
        if running > 0:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):  # reaped just now
                os.kill(running, signal.SIGKILL)
                os.waitpid(running, 0)

    def _write_all(self, question: Question) -> None:
        for answer in answers(question):
            self._write(question.ticket, answer)

    def _write(self, ticket: int, answer: Any) -> None:
        message = pickle.dumps((ticket, answer))
        while message:
            message = message[os.write(self._answers, message) :]


def limit_time() -> None:
    """Have this process raise `InputError` once it has taken `PATIENCE_SECONDS`."""

    def give_up(*_: Any) -> None:
        raise InputError(
            f"This took longer than {PATIENCE_SECONDS} s; choose fewer steps, stages or cells, or "
            "compute it in a cell with workbench.privacy.compose, which waits."
        )

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE_SECONDS)


def ended() -> InputError:
    """What to say of a process that died."""
    return InputError(
        "The process that certifies ended before its answer, perhaps for want of memory; choose "
        "smaller settings, or ask again by moving a slider."
    )


def main() -> None:
    """Be the process: standard input and output carry questions and answers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the kernel's interrupt is not for this process
    own_output = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints must not mix with the answers
    importlib.import_module("workbench.analysis")
    Server(sys.stdin.buffer, own_output).serve()
