"""The background process: newest question only, exceptions delivered, nothing left behind."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.panels.slow_answers import (
    dying,
    echo,
    marked_then_slow,
    printing,
    refusing,
    stepwise,
)
from tests.panels.waiting import PATIENCE, WatchedLock, eventually
from workbench.errors import InputError
from workbench.panels import answering
from workbench.panels import background as background_module
from workbench.panels.background import Background


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A FIFO: whoever reads it waits until somebody writes."""
    os.mkfifo(tmp_path / "gate")
    return tmp_path / "gate"


@pytest.fixture(scope="module")
def shared() -> Iterator[Background]:
    running = Background()
    yield running
    running.close()


@pytest.fixture
def background(shared: Background) -> Iterator[Background]:
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


def server(background: Background) -> int:
    """The id of its process."""
    assert background._process is not None
    return background._process.pid


def test_it_answers_from_another_process(background: Background) -> None:
    answers: list[Any] = []
    background.submit(echo, {"σ": 0.8}, answers.append)
    eventually(lambda: answers)
    argument, pid = answers[0]
    assert argument == {"σ": 0.8}
    assert pid not in (os.getpid(), server(background))


def test_answers_arrive_one_by_one(background: Background, gate: Path) -> None:
    answers: list[str] = []
    background.submit(stepwise, str(gate), answers.append)
    eventually(lambda: answers)
    assert answers == ["first"]
    gate.write_text("go on", encoding="utf-8")
    eventually(lambda: answers == ["first", "second"])


def test_a_newer_question_ends_the_older_one(background: Background, tmp_path: Path) -> None:
    mark, old, new = tmp_path / "pid", [], []
    background.submit(marked_then_slow, str(mark), old.append)
    eventually(lambda: mark.exists() and mark.read_text())
    pid = int(mark.read_text())
    background.submit(echo, "new", new.append)
    eventually(lambda: new)
    eventually(lambda: not alive(pid))
    assert old == []


def test_a_cancelled_question_is_not_answered(background: Background) -> None:
    cancelled, answers = [], []
    background.submit(echo, "cancelled", cancelled.append)
    background.cancel()
    background.submit(stepwise, "", answers.append)
    eventually(lambda: len(answers) == 2)
    assert cancelled == []


def test_an_exception_is_an_answer(background: Background) -> None:
    answers: list[Any] = []
    background.submit(refusing, "q", answers.append)
    eventually(lambda: len(answers) == 2)
    assert answers[0] == "one answer"
    assert isinstance(answers[1], InputError)
    assert str(answers[1]) == "q cannot be used; choose another."


def test_what_a_library_prints_does_not_garble_the_answers(background: Background) -> None:
    answers: list[str] = []
    background.submit(printing, "noise on standard output", answers.append)
    eventually(lambda: answers)
    assert answers == ["noise on standard output"]


def test_a_killed_process_is_replaced(background: Background) -> None:
    answers: list[Any] = []
    background.submit(echo, 1, answers.append)
    eventually(lambda: answers)
    first = server(background)
    os.kill(first, signal.SIGKILL)
    background.submit(echo, 2, answers.append)
    eventually(lambda: len(answers) == 2)
    assert server(background) != first
    assert not alive(first)


def test_dying_while_answering_is_said_and_the_next_question_is_answered(
    background: Background,
) -> None:
    answers: list[Any] = []
    background.warm_up()
    before = server(background)
    background.submit(dying, None, answers.append)
    eventually(lambda: answers)
    assert "ended before its answer" in str(answers[0])
    background.submit(echo, "still here", answers.append)
    eventually(lambda: len(answers) == 2)
    assert answers[1][0] == "still here"
    assert server(background) == before


def test_a_process_killed_while_answering_is_replaced_and_asked_again_once(
    background: Background, tmp_path: Path
) -> None:
    mark, answers = tmp_path / "pid", []
    for attempt in range(2):
        if attempt == 0:
            background.submit(marked_then_slow, str(mark), answers.append)
        eventually(lambda: mark.exists() and mark.read_text())
        mark.unlink()
        os.kill(server(background), signal.SIGKILL)
    eventually(lambda: answers)
    assert "ended before its answer" in str(answers[0])


def test_an_answered_question_leaves_no_zombie(background: Background) -> None:
    answers: list[Any] = []
    background.submit(echo, 1, answers.append)
    eventually(lambda: answers)
    eventually(lambda: not alive(answers[0][1]))


def test_the_kernels_interrupt_is_not_for_it(background: Background) -> None:
    answers: list[Any] = []
    background.submit(echo, 1, answers.append)
    eventually(lambda: answers)
    os.kill(server(background), signal.SIGINT)
    background.submit(echo, 2, answers.append)
    eventually(lambda: len(answers) == 2)


def test_closing_leaves_no_process(tmp_path: Path) -> None:
    background, mark = Background(), tmp_path / "pid"
    background.submit(marked_then_slow, str(mark), lambda _: None)
    eventually(lambda: mark.exists() and mark.read_text())
    pid, answering = server(background), int(mark.read_text())
    background.close()
    assert not alive(pid)
    eventually(lambda: not alive(answering))


def test_a_kernel_that_dies_leaves_no_process(background: Background, tmp_path: Path) -> None:
    """The process ends when its input closes, which is what death of the kernel looks like."""
    mark = tmp_path / "pid"
    background.submit(marked_then_slow, str(mark), lambda _: None)
    eventually(lambda: mark.exists() and mark.read_text())
    background.cancel()
    process = background._process
    assert process is not None
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(PATIENCE) == 0
    eventually(lambda: not alive(int(mark.read_text())))


def test_without_processes_it_answers_on_a_thread() -> None:
    background, answers = Background(use_process=False), []
    background.submit(echo, "here", answers.append)
    eventually(lambda: answers)
    assert answers == [("here", os.getpid())]
    background.close()


def test_whoever_holds_the_lock_can_drop_an_answer_that_waits_for_it() -> None:
    lock: Any = WatchedLock()
    answers: list[Any] = []
    background = Background(lock, use_process=False)
    with lock:
        background.submit(echo, "old", answers.append)
        assert lock.wanted.wait(PATIENCE)
        background.submit(echo, "new", answers.append)
    eventually(lambda: answers)
    assert [answer for answer, _ in answers] == ["new"]
    background.close()


def test_a_machine_that_cannot_start_one_still_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError("no processes left")

    monkeypatch.setattr(background_module, "_started", refuse)
    background, answers = Background(), []
    background.submit(echo, "here", answers.append)
    eventually(lambda: answers)
    assert answers[0][1] == os.getpid()
    background.close()


def test_patience_has_an_end(monkeypatch: pytest.MonkeyPatch, gate: Path) -> None:
    monkeypatch.setattr(answering, "PATIENCE_SECONDS", 1)
    before = signal.getsignal(signal.SIGALRM)
    try:
        answering.limit_time()
        with pytest.raises(InputError, match="took longer than 1 s; choose fewer steps"):
            list(stepwise(str(gate)))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
