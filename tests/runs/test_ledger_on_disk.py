"""A step is on the disk, not only with the operating system, before it is spent."""

import json
import os
from pathlib import Path

import pytest

from workbench.errors import InputError
from workbench.runs import folder, ledger
from workbench.runs.ledger import Ledger

from .made import terms

TERMS = terms()
VALUES = {"noise_multiplier": 1.0, "sample_rate": 0.02, "max_grad_norm": 1.0}


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What each file held when it was forced to the disk."""
    seen: list[bytes] = []
    sync = os.fsync

    def counting(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        seen.append(path.read_bytes() if path.is_file() else b"")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", counting)
    return seen


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="tells open files by /proc"
)


@needs_proc
def test_every_line_is_forced_to_the_disk_with_all_before_it(
    tmp_path: Path, synced: list[bytes]
) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path, TERMS) as book:
        assert synced[-1] == path.read_bytes()
        for number in range(1, 4):
            before = len(synced)
            book.record_step(**VALUES)
            assert len(synced) == before + 1
            assert synced[-1].count(b"\n") == number + 1
            assert json.loads(synced[-1].splitlines()[-1])["step"] == number
        head = book.head
    with Ledger.resumed(path, recorded=3, same_noise=False, head=head) as book:
        before = len(synced)
        book.go_on(step=3, same_noise=False)
        book.record_step(**VALUES)
        assert len(synced) == before + 2
    assert synced[-1] == path.read_bytes()


@needs_proc
def test_a_summary_is_on_the_disk_before_it_replaces_the_old_one(
    tmp_path: Path, synced: list[bytes]
) -> None:
    path = tmp_path / "summary.json"
    folder.replace_text(path, "old")
    folder.replace_text(path, "new")
    assert synced == [b"old", b"new"]
    assert [name.name for name in tmp_path.iterdir()] == ["summary.json"]


def test_only_one_process_holds_a_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path, TERMS) as book:
        with pytest.raises(InputError, match="being written by another process"):
            Ledger.resumed(path, recorded=0, same_noise=True, head=book.head)
        book.record_step(**VALUES)
    Ledger.resumed(path, recorded=1, same_noise=True, head=book.head).__exit__()


def test_steps_that_come_again_alike_are_counted_once_and_others_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path, TERMS) as book:
        for _ in range(3):
            book.record_step(**VALUES)
        assert (book.recorded, book.is_ahead) == (3, False)
    with Ledger.resumed(path, recorded=1, same_noise=True, head=book.head) as again:
        assert (again.recorded, again.is_ahead) == (1, True)
        again.record_step(**VALUES)
        assert (again.recorded, again.is_ahead) == (2, True)
        with pytest.raises(InputError, match="noise_multiplier 2"):
            again.record_step(**{**VALUES, "noise_multiplier": 2.0})
    assert ledger.read(path).steps == 3
    with Ledger.resumed(path, recorded=1, same_noise=True, head=book.head) as again:
        for expected in (2, 3, 4):
            again.record_step(**VALUES)
            assert again.recorded == expected
    assert ledger.read(path).steps == 4
    with Ledger.resumed(path, recorded=1, same_noise=False, head=again.head) as anew:
        assert (anew.recorded, anew.is_ahead) == (4, False)
        anew.record_step(**VALUES)
    assert ledger.read(path).steps == 5


def test_a_ledger_that_grew_in_between_is_left_alone_and_free(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path, TERMS) as book:
        early = book.head
        book.record_step(**VALUES)
    before = path.read_bytes()
    with pytest.raises(InputError, match="still being written"):
        Ledger.resumed(path, recorded=0, same_noise=False, head=early)
    assert path.read_bytes() == before
    with Ledger.resumed(path, recorded=1, same_noise=False, head=book.head) as again:
        again.record_step(**VALUES)
    assert ledger.read(path).steps == 2


def test_a_line_cut_short_is_taken_off_before_the_next_is_written(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path, TERMS) as book:
        book.record_step(**VALUES)
        head = book.head
    whole = path.read_bytes()
    with path.open("ab") as file:
        file.write(b'{"step": 2, "noise_mul')
    with Ledger.resumed(path, recorded=1, same_noise=False, head=head) as again:
        again.record_step(**VALUES)
    assert path.read_bytes().startswith(whole + b'{"step": 2')
    assert ledger.read(path).steps == 2
