"""The DP-SGD run: from a `RunConfig` to a run folder, from its beginning or from where it was."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from workbench.config import RunConfig
from workbench.errors import InputError
from workbench.runs.folder import LEDGER, RunFolder, RunRecord, fresh_path, read_run
from workbench.runs.ledger import Ledger
from workbench.runs.ledger import read as read_ledger
from workbench.runs.planted import read_planted
from workbench.runs.report import RunResult
from workbench.training.distributed import joined
from workbench.training.prepare import prepare
from workbench.training.randomness import coins
from workbench.training.same_run import refuse_edits
from workbench.training.session import OnStep, Session, Writer
from workbench.training.start import Start


def train(
    config: RunConfig,
    *,
    on_step: OnStep | None = None,
    stop: threading.Event | None = None,
    run_dir: str | Path | None = None,
) -> RunResult:
    """Train privately as ``config`` says and leave a run folder behind.

    Args:
        config: the whole run; equal seeded configurations give equal weights on one machine's CPU.
            Elsewhere they are other runs, with batches and noise of their own.
        on_step: called in this thread with a `StepReport` before the first step and after each.
        stop: when set, the step in hand is finished and the run ends as "cancelled", with the ε of
            the steps truly taken. `resume` goes on from there.
        run_dir: a folder that is new or empty; ``runs/`` and the time of day if not given.

    Raises `InputError` before anything is written if the run cannot be as asked. An error during
    the run is raised on, with everything up to it kept and the summary saying "failed".
    """
    path = fresh_path(run_dir)  # before the processes meet: after that the first may have made it
    with joined(config.runtime.device) as world, _threads(config.runtime.threads):
        start = Start.fresh(config, prepare(config, coins=world.agreed(coins(config))), world)
        path = world.agreed(path)
        if not world.first:
            return Session(start, run_dir=path, writer=None).to_the_end(on_step, stop)
        folder, ledger = RunFolder.new(
            config,
            path,
            start.prepared.terms,
            start.summary(),
            corpus=start.prepared.corpus,
            planted=start.prepared.planted,
        )
        with ledger:
            session = Session(start, run_dir=path, writer=Writer(folder, ledger))
            return session.to_the_end(on_step, stop)


def resume(
    run_dir: str | Path, *, on_step: OnStep | None = None, stop: threading.Event | None = None
) -> RunResult:
    """Go on with a run that was stopped, failed or was killed, from its newest checkpoint.

    A seeded run on the CPU ends with the very weights that it would have had uninterrupted. Where
    that cannot be, as on another machine, with other threads or an edited configuration, it goes on
    with new batches and noise, and the steps that were lost stay counted. Length, noise, learning
    rate, evaluation and all of ``schedule`` and ``runtime`` may be edited; records, model,
    optimizer and the terms of ε may not (see `workbench.training.same_run`). Raises `InputError`,
    before a step is spent, if such a field was edited, the folder does not hold together, cannot be
    read or written, or another process is writing it.
    """
    record = read_run(run_dir)
    state, planted = refuse_edits(record), read_planted(record.path, record.ledger.planted)
    runtime = record.config.runtime
    with joined(runtime.device) as world, _threads(runtime.threads):
        known = planted.included if planted else np.zeros(0, bool)
        prepared = prepare(record.config, coins=known)
        start = Start.fresh(record.config, prepared, world).restored(record, state)
        path = world.agreed(record.path)
        if not world.first:
            return Session(start, run_dir=path, writer=None).to_the_end(on_step, stop)
        folder = RunFolder.resumed(record, step=start.position.step)
        ledger = Ledger.resumed(
            record.path / LEDGER,
            recorded=start.position.recorded,
            same_noise=start.same_noise,
            head=record.ledger.head,
        )
        with ledger:
            _go_on(start, folder, ledger, record)
            session = Session(start, run_dir=path, writer=Writer(folder, ledger))
            return session.to_the_end(on_step, stop)


def _go_on(start: Start, folder: RunFolder, ledger: Ledger, record: RunRecord) -> None:
    """Have it on the disk that the run goes on, or leave the folder as it was."""
    try:
        folder.write_summary(start.summary())  # the old one names the old end of the ledger
        try:
            ledger.go_on(step=start.position.step, same_noise=start.same_noise)
        except OSError:
            if read_ledger(folder.path / LEDGER).head == record.ledger.head:
                folder.write_summary(record.summary)
            raise
    except OSError as error:
        raise InputError(
            f"Cannot write the run folder {folder.path}: {error.strerror}; make room and let this "
            "user write there, then resume."
        ) from None


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Let torch use ``count`` threads, and as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
