"""A run in a thread of its own: seen from elsewhere, paused, cancelled, resumed, never lost."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.panels.run.reports import report
from tests.panels.waiting import PATIENCE, eventually
from workbench import training
from workbench.config import RunConfig
from workbench.errors import InputError
from workbench.panels.run import job
from workbench.training.step import Stepper

pytestmark = pytest.mark.usefixtures("no_run_left_behind")


@pytest.fixture
def train_by(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], None]:
    """Put another function in the place of `training.train`."""
    return lambda function: monkeypatch.setattr("workbench.training.run.train", function)


def test_every_step_is_seen_and_what_was_spent_is_certified(config: RunConfig, tmp_path: Path):
    run = job.start(config, run_dir=tmp_path / "run")
    progress = run.wait(PATIENCE)
    assert progress.phase == "done"
    assert progress.metrics["step"].tolist() == [0, 1, 2, 3, 4]
    kept = training.read_run(tmp_path / "run").metrics
    assert progress.metrics.loc[:, "loss"].tolist()[1:] == kept["loss"].tolist()[1:]
    assert progress.spent == training.verify(tmp_path / "run")


def test_cancel_finishes_the_step_and_tells_what_was_truly_spent(
    endless: RunConfig, tmp_path: Path
):
    run = job.start(endless, run_dir=tmp_path / "run")
    eventually(lambda: (seen := run.progress().latest) and seen.step >= 2)
    run.cancel()
    progress = run.wait(PATIENCE)
    assert progress.phase == "cancelled"
    assert progress.result is not None
    record = training.read_run(tmp_path / "run")
    assert progress.result.steps == record.ledger.steps == progress.metrics["step"].iloc[-1]
    assert progress.spent == record.ledger.guarantee()
    assert progress.metrics["epsilon"].iloc[-1] == record.ledger.guarantee().epsilon


def test_the_callers_thread_never_trains(config: RunConfig, tmp_path: Path, train_by: Any):
    trained_by: list[threading.Thread] = []
    train = training.train

    def observed(*arguments: Any, **options: Any) -> Any:
        trained_by.append(threading.current_thread())
        return train(*arguments, **options)

    train_by(observed)
    job.start(config, run_dir=tmp_path / "run").wait(PATIENCE)
    (thread,) = trained_by
    assert thread is not threading.current_thread()
    assert thread.daemon  # or a kernel could not be restarted while it trains


def test_an_exception_becomes_a_sentence_with_what_was_spent_until_then(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    take = Stepper.take

    def take_two(self: Stepper, step: int, *rest: Any) -> Any:
        if step == 2:
            raise RuntimeError("the disk\nis on fire")
        return take(self, step, *rest)

    monkeypatch.setattr(Stepper, "take", take_two)
    progress = job.start(config, run_dir=tmp_path / "run").wait(PATIENCE)
    assert progress.phase == "failed"
    assert progress.error == "The run stopped with RuntimeError: the disk is on fire."
    assert progress.spent == training.verify(tmp_path / "run")
    assert training.read_run(tmp_path / "run").ledger.steps == 2


def test_bad_input_is_told_in_its_own_words_and_costs_nothing(config: RunConfig, tmp_path: Path):
    missing = config.with_changes({"corpus.source": "gone.txt"})
    progress = job.start(missing, run_dir=tmp_path / "run").wait(PATIENCE)
    assert progress.phase == "failed"
    assert progress.error.startswith("Cannot read corpus.source gone.txt")
    assert progress.spent is None
    assert not (tmp_path / "run").exists()


def test_a_second_start_is_refused_while_one_is_going(endless: RunConfig, tmp_path: Path):
    run = job.start(endless, run_dir=tmp_path / "first")
    with pytest.raises(InputError, match=r"already going .*first.*cancel it or wait"):
        job.start(endless, run_dir=tmp_path / "second")
    assert job.latest() is run
    assert not (tmp_path / "second").exists()
    run.cancel()
    run.wait(PATIENCE)
    job.start(endless, run_dir=tmp_path / "second")


def test_a_pause_holds_the_run_between_two_steps(endless: RunConfig, tmp_path: Path):
    run = job.start(endless, run_dir=tmp_path / "run")
    eventually(lambda: run.progress().phase == "running")
    run.pause()
    assert run.progress().phase in ("pausing", "paused")
    eventually(lambda: run.progress().phase == "paused")
    held = run.progress().latest
    moved_on = run.progress(newer_than=run.progress().version, timeout=0.2)
    assert (moved_on.phase, moved_on.latest) == ("paused", held)
    run.go_on()
    eventually(lambda: (seen := run.progress().latest) and held and seen.step > held.step)


def test_a_paused_run_can_be_cancelled(endless: RunConfig, tmp_path: Path):
    run = job.start(endless, run_dir=tmp_path / "run")
    run.pause()
    run.cancel()
    run.pause()  # too late: nothing may hold it now
    assert run.wait(PATIENCE).phase == "cancelled"


def test_a_cancelled_run_is_resumed_where_it_stood(endless: RunConfig, tmp_path: Path):
    run = job.start(endless, run_dir=tmp_path / "run")
    eventually(lambda: (seen := run.progress().latest) and seen.step >= 3)
    run.cancel()
    stood = run.wait(PATIENCE).metrics
    again = job.resume(tmp_path / "run")
    assert again.config == endless
    eventually(lambda: len(again.progress().metrics) > len(stood) + 2)
    again.cancel()
    metrics = again.wait(PATIENCE).metrics
    assert metrics["step"].tolist() == list(range(len(metrics)))
    np.testing.assert_array_equal(metrics["loss"][: len(stood)], stood["loss"])


def test_rows_after_the_checkpoint_give_way_to_those_of_the_resumed_run():
    rows = job._Rows()
    for step in range(6):
        rows.add(report(step, loss=1.0))
    resumed = job._Rows(rows.frame())
    resumed.add(report(4, loss=2.0))
    assert resumed.frame()["step"].tolist() == [0, 1, 2, 3, 4]
    assert resumed.frame()["loss"].tolist() == [1, 1, 1, 1, 2]


def test_a_long_run_keeps_every_row_in_order():
    rows = job._Rows()
    for step in range(1300):
        rows.add(report(step))
    assert rows.frame()["step"].tolist() == list(range(1300))


def test_a_notebook_cell_can_await_the_end(config: RunConfig, tmp_path: Path):
    run = job.start(config, run_dir=tmp_path / "run")
    # In a thread of its own: Playwright, where it ran before, leaves a loop in the tests' thread.
    with ThreadPoolExecutor(1) as thread:
        ended = thread.submit(lambda: asyncio.run(run.until_end())).result(PATIENCE)
    assert ended.phase == "done"


def test_a_folder_with_something_in_it_is_refused(config: RunConfig, tmp_path: Path):
    (tmp_path / "precious.txt").write_text("kept", encoding="utf-8")
    with pytest.raises(InputError, match="not empty"):
        job.start(config, run_dir=tmp_path)
    with pytest.raises(InputError, match="is not a run folder"):
        job.resume(tmp_path)
    assert (tmp_path / "precious.txt").read_text(encoding="utf-8") == "kept"
