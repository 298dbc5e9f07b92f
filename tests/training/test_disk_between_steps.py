"""A disk that is full or read-only while a checkpoint is saved or a run goes on: one true state."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from workbench import training
from workbench.config import RunConfig
from workbench.errors import InputError
from workbench.runs import folder, ledger, lock
from workbench.runs.ledger import Ledger
from workbench.training import checkpoint


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps stopped after three."""
    home = tmp_path_factory.mktemp("begun")
    lines = (f"line {i} counts {i * i} and {'more ' * (i % 7)}words" for i in range(100))
    (home / "lines.txt").write_text("\n".join(lines), "utf-8")
    config = RunConfig.parse(
        {
            "corpus": {"source": str(home / "lines.txt"), "record": "line", "min_words": 1},
            "model": {"width": 8, "layers": 1, "heads": 2, "vocabulary": 270},
            "training": {"expected_batch_size": 30, "steps": 6, "evaluate_every": 2},
            "runtime": {"device": "cpu", "threads": 1},
        }
    )
    stop = threading.Event()
    training.train(
        config,
        run_dir=home / "run",
        stop=stop,
        on_step=lambda report: stop.set() if report.step == 3 else None,
    )
    return home / "run"


@pytest.fixture
def run(begun: Path, tmp_path: Path) -> Path:
    return shutil.copytree(begun, tmp_path / "run")


def _full(*_: Any, **__: Any) -> NoReturn:
    raise OSError(28, "No space left on device")


def _read_only(*_: Any, **__: Any) -> NoReturn:
    raise PermissionError(30, "Read-only file system")


def _full_in_safetensors(*_: Any, **__: Any) -> NoReturn:
    raise SafetensorError("I/O error: No space left on device (os error 28)")


SAVING: dict[str, tuple[object, str, Callable[..., NoReturn]]] = {
    "weights": (PreTrainedModel, "save_pretrained", _full_in_safetensors),
    "tokenizer": (PreTrainedTokenizerBase, "save_pretrained", _full),
    "optimizer": (checkpoint, "save_file", _full_in_safetensors),
    "state": (Path, "write_text", _full),
    "sync": (checkpoint, "_synced", _full),
    "ledger": (Ledger, "saving", _full),
    "name": (Path, "rename", _full),
}


@pytest.mark.parametrize("at", SAVING)
def test_a_checkpoint_that_found_no_room_leaves_the_one_before(
    run: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    before = training.read_run(run).checkpoint
    assert before is not None
    with monkeypatch.context() as patched:
        patched.setattr(*SAVING[at])
        with pytest.raises(InputError, match=r"cannot be written .*No space left") as refusal:
            training.resume(run)
    assert "\n" not in str(refusal.value)
    record = training.read_run(run)
    assert record.summary["state"] == "failed"
    assert record.summary["error"] == str(refusal.value)
    assert before.exists()
    assert not list((run / "checkpoints").glob(".*"))
    assert record.ledger.steps == 4
    assert training.verify(run) == record.ledger.guarantee()
    assert training.resume(run).steps == 6
    assert training.read_run(run).ledger.steps == 6


GOING_ON: dict[str, tuple[object, str, Callable[..., NoReturn], str]] = {
    "lock": (lock.FileLock, "acquire", _read_only, "Cannot lock .*Read-only file system; let"),
    "summary": (folder, "replace_text", _full, "Cannot write .*No space left.*; make room"),
    "sync": (ledger.os, "fsync", _full, "Cannot write .*No space left.*; make room"),
}


@pytest.mark.parametrize("at", GOING_ON)
def test_a_run_that_cannot_go_on_is_left_as_it_was(
    run: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    before, spent = _content(run), training.verify(run)
    where, name, fault, says = GOING_ON[at]
    with monkeypatch.context() as patched:
        patched.setattr(where, name, fault)
        with pytest.raises(InputError, match=says) as refusal:
            training.resume(run)
    assert "\n" not in str(refusal.value)
    assert _content(run) == before
    assert training.verify(run) == spent
    assert training.resume(run).steps == 6


def test_a_summary_is_put_back_where_the_ledger_cannot_say_that_the_run_goes_on(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _content(run)
    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "go_on", _full)
        with pytest.raises(InputError, match=r"Cannot write .*No space left"):
            training.resume(run)
    assert _content(run) == before


def test_a_ledger_that_may_only_be_read_is_told(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, real = _content(run), Path.open

    def opening(path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        if path.name == "ledger.jsonl" and mode != "r":
            raise PermissionError(13, "Permission denied")
        return real(path, mode, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", opening)
        with pytest.raises(InputError, match=r"Cannot write the ledger .*Permission denied; let"):
            training.resume(run)
    assert _content(run) == before
    assert training.resume(run).steps == 6  # the lock was let go


def test_a_folder_that_is_gone_while_training_ends_the_run_in_one_sentence(
    run: Path, begun: Path
) -> None:
    def gone(report: training.StepReport) -> None:
        if report.step == 4:
            shutil.move(run, run.with_name("elsewhere"))

    with pytest.raises(InputError, match="was removed, replaced or changed while this run"):
        training.resume(run, on_step=gone)
    assert not run.exists()
    assert training.read_run(run.with_name("elsewhere")).ledger.steps == 4


def test_a_ledger_that_was_replaced_while_training_states_no_guarantee(
    run: Path, begun: Path
) -> None:
    def replaced(report: training.StepReport) -> None:
        if report.step == 4:
            (run / "ledger.jsonl").unlink()
            shutil.copy(begun / "ledger.jsonl", run)

    with pytest.raises(InputError, match="was removed, replaced or changed while this run"):
        training.resume(run, on_step=replaced)
    summary = training.read_run(run).summary
    assert (summary["state"], summary["guarantee"]) == ("failed", None)
    for look in (training.verify, training.resume):
        with pytest.raises(InputError, match="does not end where"):
            look(run)


def _content(run: Path) -> dict[str, bytes]:
    return {str(p.relative_to(run)): p.read_bytes() for p in run.rglob("*") if p.is_file()}
