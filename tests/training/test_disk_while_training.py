"""A disk that is full or cannot be written leaves a true state, and the run goes on afterwards.

Each place where a run writes fails in turn. What is on the disk then verifies and counts at least
the steps that the weights have taken; a step that could not be recorded has moved no weight.
"""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from workbench import training
from workbench.cli import main
from workbench.config import RunConfig
from workbench.errors import InputError
from workbench.runs.folder import RunFolder
from workbench.runs.ledger import read
from workbench.training import step

# What is synced to the disk: of a file that could not be, nothing is sure.
SYNCED = [
    "ledger.jsonl",
    "model.safetensors",
    "optimizer.safetensors",
    "state.json",
    ".summary.json.partial",
]


class Disk:
    """Fails to sync files of one name, and to write metrics, while it is full."""

    def __init__(self, patch: pytest.MonkeyPatch, name: str, reason: int) -> None:
        self.full, self.reason = False, reason
        sync, write = os.fsync, RunFolder.write_metrics

        def syncing(file: int) -> None:
            self.fail_for(Path(f"/proc/self/fd/{file}").readlink().name == name)
            sync(file)

        def writing(folder: RunFolder) -> None:
            self.fail_for(name == "metrics.parquet")
            write(folder)

        patch.setattr(os, "fsync", syncing)
        patch.setattr(RunFolder, "write_metrics", writing)

    def fail_for(self, this: bool) -> None:
        if this and self.full:
            raise OSError(self.reason, os.strerror(self.reason))


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts how often weights have moved."""
    real, count = step.take_step, [0]

    def moving(*args: Any, **kwargs: Any) -> None:
        count[0] += 1
        real(*args, **kwargs)

    monkeypatch.setattr(step, "take_step", moving)
    return count


def _weights(run_dir: Path) -> dict[str, torch.Tensor]:
    checkpoint = training.read_run(run_dir).checkpoint
    assert checkpoint is not None
    return load_file(checkpoint / "model.safetensors")


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to name open files")
@pytest.mark.parametrize("name", [*SYNCED, "metrics.parquet"])
@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EROFS])
def test_what_is_on_the_disk_is_true_and_goes_on(
    config: RunConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moves: list[int],
    name: str,
    reason: int,
) -> None:
    """Full after the second of six steps, in a run that is saved after every second."""
    config = config.with_changes({"training.steps": 6, "privacy.accountant": "rdp"})
    training.train(config, run_dir=tmp_path / "whole")
    moves[0] = 0
    with monkeypatch.context() as patch:
        disk, run = Disk(patch, name, reason), tmp_path / "run"

        def fill(report: training.StepReport) -> None:
            disk.full = disk.full or report.step == 2

        with pytest.raises((OSError, InputError)):
            training.train(config, run_dir=run, on_step=fill)
    record = training.read_run(run)
    assert record.ledger.steps >= moves[0] >= 2
    if name == "ledger.jsonl":
        assert moves[0] == 2
    assert record.summary["state"] in ("failed", "running")
    training.verify(run)
    result = training.resume(run)
    assert (result.state, result.steps) == ("done", 6)
    assert read(run / "ledger.jsonl").steps >= 6
    assert training.verify(run) == result.guarantee
    whole, again = _weights(tmp_path / "whole"), _weights(run)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to name open files")
def test_the_terminal_says_so_in_one_sentence(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(config.to_yaml(), "utf-8")
    disk = Disk(monkeypatch, "ledger.jsonl", errno.ENOSPC)
    real = step.take_step

    def filling(*args: Any, **kwargs: Any) -> None:
        real(*args, **kwargs)
        disk.full = True

    monkeypatch.setattr(step, "take_step", filling)
    answer = CliRunner().invoke(main, ["train", str(file), "--run-dir", str(tmp_path / "run")])
    assert answer.exit_code in (1, 2)
    last = answer.stderr.strip().splitlines()[-1]
    assert last.startswith("workbench: ")
    assert "No space left on device" in last
    assert "Traceback" not in answer.output
