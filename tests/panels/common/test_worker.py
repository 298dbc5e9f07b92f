"""The worker process: newest question only, exceptions delivered, nothing left behind."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.panels.common.slow_answers import (
    dying,
    echo,
    marked_then_slow,
    printing,
    refusing,
    stepwise,
)
from tests.panels.waiting import PATIENCE, WatchedLock, eventually
from workbench.errors import InputError
from workbench.panels.common import worker as worker_module
from workbench.panels.common import worker_server
from workbench.panels.common.worker import Worker


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A FIFO: whoever reads it waits until somebody writes."""
    os.mkfifo(tmp_path / "gate")
    return tmp_path / "gate"


@pytest.fixture(scope="module")
def shared() -> Iterator[Worker]:
    running = Worker()
    yield running
    running.close()


@pytest.fixture
def worker(shared: Worker) -> Iterator[Worker]:
    """One process for all tests, because its imports take a second; nothing is left open on it."""
    yield shared
    shared.cancel()


def alive(pid: int) -> bool:
    """Whether a process runs or waits to be reaped: a zombie counts."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def server(worker: Worker) -> int:
    """The id of its process."""
    assert worker._process is not None
    return worker._process.pid


def test_it_answers_from_another_process(worker: Worker) -> None:
    answers: list[Any] = []
    worker.submit(echo, {"σ": 0.8}, answers.append)
    eventually(lambda: answers)
    argument, pid = answers[0]
    assert argument == {"σ": 0.8}
    assert pid not in (os.getpid(), server(worker))


def test_answers_arrive_one_by_one(worker: Worker, gate: Path) -> None:
    answers: list[str] = []
    worker.submit(stepwise, str(gate), answers.append)
    eventually(lambda: answers)
    assert answers == ["first"]
    gate.write_text("go on", encoding="utf-8")
    eventually(lambda: answers == ["first", "second"])


def test_a_newer_question_ends_the_older_one(worker: Worker, tmp_path: Path) -> None:
    mark, old, new = tmp_path / "pid", [], []
    worker.submit(marked_then_slow, str(mark), old.append)
    eventually(lambda: mark.exists() and mark.read_text())
    pid = int(mark.read_text())
    worker.submit(echo, "new", new.append)
    eventually(lambda: new)
    eventually(lambda: not alive(pid))
    assert old == []


def test_a_cancelled_question_is_not_answered(worker: Worker) -> None:
    cancelled, answers = [], []
    worker.submit(echo, "cancelled", cancelled.append)
    worker.cancel()
    worker.submit(stepwise, "", answers.append)
    eventually(lambda: len(answers) == 2)
    assert cancelled == []


def test_an_exception_is_an_answer(worker: Worker) -> None:
    answers: list[Any] = []
    worker.submit(refusing, "q", answers.append)
    eventually(lambda: len(answers) == 2)
    assert answers[0] == "one answer"
    assert isinstance(answers[1], InputError)
    assert str(answers[1]) == "q cannot be used; choose another."


def test_what_a_library_prints_does_not_garble_the_answers(worker: Worker) -> None:
    answers: list[str] = []
    worker.submit(printing, "noise on standard output", answers.append)
    eventually(lambda: answers)
    assert answers == ["noise on standard output"]


def test_a_killed_process_is_replaced(worker: Worker) -> None:
    answers: list[Any] = []
    worker.submit(echo, 1, answers.append)
    eventually(lambda: answers)
    first = server(worker)
    os.kill(first, signal.SIGKILL)
    worker.submit(echo, 2, answers.append)
    eventually(lambda: len(answers) == 2)
    assert server(worker) != first
    assert not alive(first)


def test_dying_while_answering_is_said_and_the_next_question_is_answered(
    worker: Worker,
) -> None:
    answers: list[Any] = []
    worker.warm_up()
    before = server(worker)
    worker.submit(dying, None, answers.append)
    eventually(lambda: answers)
    assert "ended before its answer" in str(answers[0])
    worker.submit(echo, "still here", answers.append)
    eventually(lambda: len(answers) == 2)
    assert answers[1][0] == "still here"
    assert server(worker) == before


def test_a_process_killed_while_answering_is_replaced_and_asked_again_once(
    worker: Worker, tmp_path: Path
) -> None:
    mark, answers = tmp_path / "pid", []
    for attempt in range(2):
        if attempt == 0:
            worker.submit(marked_then_slow, str(mark), answers.append)
        eventually(lambda: mark.exists() and mark.read_text())
        mark.unlink()
        os.kill(server(worker), signal.SIGKILL)
    eventually(lambda: answers)
    assert "ended before its answer" in str(answers[0])


def test_an_answered_question_leaves_no_zombie(worker: Worker) -> None:
    answers: list[Any] = []
    worker.submit(echo, 1, answers.append)
    eventually(lambda: answers)
    eventually(lambda: not alive(answers[0][1]))


def test_the_kernels_interrupt_is_not_for_it(worker: Worker) -> None:
    answers: list[Any] = []
    worker.submit(echo, 1, answers.append)
    eventually(lambda: answers)
    os.kill(server(worker), signal.SIGINT)
    worker.submit(echo, 2, answers.append)
    eventually(lambda: len(answers) == 2)


def test_closing_leaves_no_process(tmp_path: Path) -> None:
    worker, mark = Worker(), tmp_path / "pid"
    worker.submit(marked_then_slow, str(mark), lambda _: None)
    eventually(lambda: mark.exists() and mark.read_text())
    pid, fork = server(worker), int(mark.read_text())
    worker.close()
    assert not alive(pid)
    eventually(lambda: not alive(fork))


def test_a_kernel_that_dies_leaves_no_process(worker: Worker, tmp_path: Path) -> None:
    """The process ends when its input closes, which is what death of the kernel looks like."""
    mark = tmp_path / "pid"
    worker.submit(marked_then_slow, str(mark), lambda _: None)
    eventually(lambda: mark.exists() and mark.read_text())
    worker.cancel()
    process = worker._process
    assert process is not None
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(PATIENCE) == 0
    eventually(lambda: not alive(int(mark.read_text())))


def test_without_processes_it_answers_on_a_thread() -> None:
    worker, answers = Worker(use_process=False), []
    worker.submit(echo, "here", answers.append)
    eventually(lambda: answers)
    assert answers == [("here", os.getpid())]
    worker.close()


def test_whoever_holds_the_lock_can_drop_an_answer_that_waits_for_it() -> None:
    lock: Any = WatchedLock()
    answers: list[Any] = []
    worker = Worker(lock, use_process=False)
    with lock:
        worker.submit(echo, "old", answers.append)
        assert lock.wanted.wait(PATIENCE)
        worker.submit(echo, "new", answers.append)
    eventually(lambda: answers)
    assert [answer for answer, _ in answers] == ["new"]
    worker.close()


def test_a_machine_that_cannot_start_one_still_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError("no processes left")

    monkeypatch.setattr(worker_module, "_started", refuse)
    worker, answers = Worker(), []
    worker.submit(echo, "here", answers.append)
    eventually(lambda: answers)
    assert answers[0][1] == os.getpid()
    worker.close()


def test_patience_has_an_end(monkeypatch: pytest.MonkeyPatch, gate: Path) -> None:
    monkeypatch.setattr(worker_server, "PATIENCE_SECONDS", 1)
    before = signal.getsignal(signal.SIGALRM)
    try:
        worker_server.limit_time()
        with pytest.raises(InputError, match="took longer than 1 s; choose fewer steps"):
            list(stepwise(str(gate)))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
