"""One folder, one run: of several starts one takes it, and the others leave nothing behind."""

import json
import multiprocessing
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from workbench.config import RunConfig
from workbench.errors import InputError
from workbench.runs import folder, identity, ledger
from workbench.runs.folder import RunFolder, fresh_path
from workbench.runs.ledger import Ledger, Terms
from workbench.runs.lock import hold

TERMS = Terms(1e-5, "pld", "poisson", "add_or_remove_one", "record", 1000, 20)
SUMMARY = {"state": "running", "ledger_head": None}
LINE = {"noise_multiplier": 1.0, "sample_rate": 0.02, "max_grad_norm": 1.0}
FORK = multiprocessing.get_context("fork") if hasattr(os, "fork") else None


def _new(path: Path) -> tuple[RunFolder, Ledger]:
    return RunFolder.new(RunConfig(), path, TERMS, SUMMARY, corpus="all of the corpus")


def _in_processes(count: int, action: Callable[[int], Any]) -> list[Any]:
    """What ``action`` returns in each of ``count`` forks."""
    assert FORK is not None
    results = FORK.Queue()

    def work(number: int) -> None:
        results.put((number, action(number)))

    with warnings.catch_warnings():
        # Python 3.12 warns of forking beside other threads; the child waits for none of them.
        warnings.simplefilter("ignore", DeprecationWarning)
        processes = [FORK.Process(target=work, args=(number,)) for number in range(count)]
        for process in processes:
            process.start()
    answers = dict(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(60)
    return [answers[number] for number in range(count)]


@pytest.mark.skipif(FORK is None, reason="needs fork")
@pytest.mark.parametrize("there", [False, True], ids=["new", "empty"])
def test_of_many_starts_at_once_one_goes_on(tmp_path: Path, there: bool) -> None:
    """Six processes meet at a barrier before each of forty folders."""
    assert FORK is not None
    starts, rounds = 6, 40
    barrier = FORK.Barrier(starts)

    def start(number: int) -> list[str]:
        outcomes = []
        for turn in range(rounds):
            path = tmp_path / f"run-{turn}"
            if there and number == 0:
                path.mkdir()
            barrier.wait(60)
            try:
                _, book = _new(path)
            except InputError as error:
                outcomes.append(str(error))
            else:
                with book:
                    book.record_step(**LINE)
                    barrier.wait(60)
                outcomes.append("won")
                continue
            barrier.wait(60)  # the winner holds the folder until all others have tried
        return outcomes

    outcomes = _in_processes(starts, start)
    for turn in range(rounds):
        told = [each[turn] for each in outcomes]
        assert told.count("won") == 1
        assert all("exists and is not empty" in text for text in told if text != "won")
        assert ledger.read(tmp_path / f"run-{turn}" / "ledger.jsonl").steps == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(f"run-{n}" for n in range(rounds))


def test_a_start_that_comes_between_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second starts and finishes just before the first gives its folder the name."""
    path, claim, others = tmp_path / "run", folder._claim, []

    def late(name: Path, partial: Path) -> None:
        monkeypatch.setattr(folder, "_claim", claim)
        others.append(_new(path)[1])
        claim(name, partial)

    monkeypatch.setattr(folder, "_claim", late)
    with pytest.raises(InputError, match=r"exists and is not empty; choose a new one"):
        _new(path)
    with others[0] as winner:
        winner.record_step(**LINE)
    assert ledger.read(path / "ledger.jsonl").steps == 1
    assert [each.name for each in tmp_path.iterdir()] == ["run"]


def test_a_start_between_two_looks_at_an_empty_folder_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between taking the empty folder away and giving its name to another."""
    path, rmdir, others = tmp_path / "run", Path.rmdir, []
    path.mkdir()

    def then_another(self: Path) -> None:
        rmdir(self)
        monkeypatch.setattr(Path, "rmdir", rmdir)
        others.append(_new(path)[1])

    monkeypatch.setattr(Path, "rmdir", then_another)
    with pytest.raises(InputError, match="exists and is not empty"):
        _new(path)
    with others[0] as winner:
        winner.record_step(**LINE)
    assert ledger.read(path / "ledger.jsonl").steps == 1


def test_a_run_is_not_gone_on_with_while_it_is_being_written(tmp_path: Path) -> None:
    _, book = _new(tmp_path / "run")
    again = {"recorded": 0, "same_noise": True, "head": book.head}
    with book, pytest.raises(InputError, match="being written by another process"):
        Ledger.resumed(book._path, **again)
    Ledger.resumed(book._path, **again).close()


@pytest.mark.skipif(FORK is None, reason="needs fork")
def test_a_lock_left_by_a_killed_process_stops_nobody(tmp_path: Path) -> None:
    held, kept = os.pipe(), os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        lock = hold(tmp_path)
        os.write(held[1], b"held")
        os.read(kept[0], 1)
        lock.release()
        os._exit(0)
    assert os.read(held[0], 4) == b"held"
    with pytest.raises(InputError, match="being written by another process"):
        hold(tmp_path)
    os.kill(child, 9)
    os.waitpid(child, 0)
    assert (tmp_path / ".lock").exists()
    hold(tmp_path).release()
    for end in (*held, *kept):
        os.close(end)


def _removed(path: Path) -> None:
    path.unlink()


def _replaced_by_a_copy(path: Path) -> None:
    copy = path.with_name("copy")
    shutil.copy(path, copy)
    copy.replace(path)


def _with_its_folder_moved(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _added_to(path: Path) -> None:
    with path.open("a") as file:
        file.write("{}\n")


@pytest.mark.parametrize(
    "meddle", [_removed, _replaced_by_a_copy, _with_its_folder_moved, _cut, _added_to]
)
@pytest.mark.parametrize("repeated", [False, True])
def test_no_step_is_taken_once_the_ledger_is_not_where_it_was(
    tmp_path: Path, meddle: Callable[[Path], None], repeated: bool
) -> None:
    _, book = _new(tmp_path / "run")
    with book:
        book.record_step(**LINE)
    if repeated:  # a step that the ledger holds from before a crash, which is not written again
        path = book._path
        book = Ledger.resumed(path, recorded=0, same_noise=True, head=ledger.read(path).head)
    else:
        path = book._path
        book = Ledger.resumed(path, recorded=1, same_noise=True, head=ledger.read(path).head)
    with book:
        meddle(book._path)
        for write in (
            lambda: book.record_step(**LINE),
            lambda: book.saving("0" * 64, step=1),
        ):
            with pytest.raises(InputError, match="removed, replaced or changed while this run"):
                write()


class _FullDisk:
    """The ledger's file on a disk that takes ``room`` more bytes."""

    def __init__(self, file: Any, room: int) -> None:
        self._file, self._room = file, room

    def write(self, data: bytes) -> int:
        if not self._room:
            raise OSError(28, "No space left on device")
        taken = self._file.write(data[: self._room])
        self._room -= taken
        return taken

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@pytest.mark.parametrize("room", [0, 10, 150])
def test_a_line_that_found_no_room_is_not_there(tmp_path: Path, room: int) -> None:
    _, book = _new(tmp_path / "run")
    with book:
        book.record_step(**LINE)
        whole, head, file = book._path.read_bytes(), book.head, book._file
        book._file = _FullDisk(file, room)  # type: ignore[assignment]
        with pytest.raises(OSError, match="No space left"):
            book.record_step(**LINE)
        assert (book._path.read_bytes(), book.head) == (whole, head)
        book._file = file
        book.record_step(**LINE)
    assert ledger.read(book._path).steps == 2


def test_a_line_that_is_taken_in_parts_is_whole(tmp_path: Path) -> None:
    _, book = _new(tmp_path / "run")
    with book:
        file = book._file
        for room in (10**6, 3, 60):

            class Slow(_FullDisk):
                def write(self, data: bytes, room: int = room) -> int:
                    return self._file.write(data[:room])

            book._file = Slow(file, 0)  # type: ignore[assignment]
            book.record_step(**LINE)
    assert ledger.read(book._path).steps == 3


CREATION = ["mkdir", "config.yaml", "summary.json", "corpus.key", "ledger", "rename"]


@pytest.mark.parametrize("at", CREATION)
def test_a_folder_that_cannot_be_made_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    def unless(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        return lambda path, *rest: full() if path.name == name else real(path, *rest)

    match at:
        case "mkdir" | "rename":
            monkeypatch.setattr(Path, at, full)
        case "ledger":
            monkeypatch.setattr(os, "fsync", full)
        case _:
            replace = folder.replace_text
            for module in (folder, identity):
                monkeypatch.setattr(module, "replace_text", unless(at, replace))
    with pytest.raises(InputError, match=r"Cannot write the run folder .*No space left") as refusal:
        _new(tmp_path / "run")
    assert "\n" not in str(refusal.value)
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []
    _new(tmp_path / "run")[1].close()


def test_a_name_on_another_disk_is_not_called_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty folder that is a mount point can be neither taken away nor replaced."""
    path = tmp_path / "run"
    path.mkdir()

    def busy(*_: Any) -> Any:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(Path, "rmdir", busy)
    monkeypatch.setattr(Path, "rename", busy)
    with pytest.raises(InputError, match="Device or resource busy; choose another"):
        _new(path)
    assert [each.name for each in tmp_path.iterdir()] == ["run"]


def test_names_that_lead_nowhere_are_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no path"):
        fresh_path("~nobody-of-this-name/run")
    with pytest.raises(InputError, match="cannot be reached"):
        fresh_path(tmp_path / ("long" * 200))


def test_a_disk_without_locks_is_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, book = _new(tmp_path / "run")
    book.close()

    def none(*_: Any, **__: Any) -> Any:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("workbench.runs.lock.FileLock.acquire", none)
    with pytest.raises(InputError, match=r"Cannot lock .*No locks available; let this user"):
        Ledger.resumed(book._path, recorded=0, same_noise=True, head=book.head)


def test_the_ledger_tells_nothing_that_guesses_could_be_tested_against(tmp_path: Path) -> None:
    """The same corpus has another digest in every run, and the key is in the folder alone."""
    digests = set()
    for name in "ab":
        _new(tmp_path / name)[1].close()
        text = (tmp_path / name / "ledger.jsonl").read_text("utf-8")
        key = identity.read_key(tmp_path / name)
        assert key.hex() not in text
        assert len(key) == 32
        digests.add(json.loads(text)["terms"]["corpus_digest"])
        assert identity.keyed_digest(key, "all of the corpus") in digests
    assert len(digests) == 2
