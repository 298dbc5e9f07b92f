"""Runs killed with ``kill -9`` at a moment of chance, and what is found of them afterwards.

Each run is a fork of this process, so that it starts at once and many can be killed in a minute.
"""

import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from workbench import training
from workbench.config import RunConfig
from workbench.runs.folder import checkpoints
from workbench.training.checkpoint import Position


@dataclass(frozen=True)
class Found:
    """One killed run: where it was, whether its folder held, and how it ended after `resume`."""

    saved_steps: int  # those of the weights on disk
    recorded_steps: int
    exact: bool

    @property
    def counted(self) -> bool:
        """Whether the ledger has at least the steps that the weights on disk have taken."""
        return self.recorded_steps >= self.saved_steps


def forked(action: Callable[[], object]) -> int:
    """Run ``action`` in a fork; its process id."""
    with warnings.catch_warnings():
        # Python 3.12 warns of forking beside other threads; the child waits for none of them.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        status = 1
        try:
            torch.set_num_threads(1)
            action()
            status = 0
        finally:
            sys.stderr.flush()
            os._exit(status)
    return child


def finished(child: int) -> bool:
    """Wait for a fork; whether it ended well."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def whole(config: RunConfig, run_dir: Path) -> float:
    """Train without being killed; the seconds it took."""
    began = time.perf_counter()
    assert finished(forked(lambda: training.train(config, run_dir=run_dir)))
    return time.perf_counter() - began


def killed_and_resumed(
    config: RunConfig, run_dir: Path, undisturbed: Path, *, after: float
) -> Found | None:
    """Kill a run ``after`` seconds, look, and resume it; None if there was no folder yet.

    Raises whatever `training.read_run` raises if the folder cannot be read.
    """
    child = forked(lambda: training.train(config, run_dir=run_dir))
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if not run_dir.exists():
        return None
    record = training.read_run(run_dir)
    saved = _saved_steps(run_dir)
    assert finished(forked(lambda: training.resume(run_dir)))
    training.verify(run_dir)
    return Found(saved, record.ledger.steps, _same(run_dir, undisturbed))


def _saved_steps(run_dir: Path) -> int:
    whole_ones = checkpoints(run_dir / "checkpoints")
    return int(whole_ones[-1].name.removeprefix("step-")) if whole_ones else Position().step


def _same(one: Path, other: Path) -> bool:
    a, b = (
        load_file(checkpoints(path / "checkpoints")[-1] / "model.safetensors")
        for path in (one, other)
    )
    same_ledger = (
        training.read_run(one).ledger.every_step == training.read_run(other).ledger.every_step
    )
    return same_ledger and all(torch.equal(a[name], b[name]) for name in a)
