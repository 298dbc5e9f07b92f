"""Our scaling study: blocks of runs, measured in pieces on whatever machine goes on with it.

A run that has its rows under ``data/measured/study/`` is not trained again. Stopped at any moment,
even by ``kill -9``, the study goes on with the same command: from its run folders on this machine,
from the rows alone on another.

>>> run_study(["D"], hours=1)  # doctest: +SKIP
"""

import os
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from workbench import presets
from workbench.config import RunConfig
from workbench.errors import InputError
from workbench.scaling.study_blocks import BASE, BLOCKS, StudyRun
from workbench.scaling.study_corpus import keep_corpus
from workbench.scaling.study_plans import planned_runs
from workbench.scaling.study_rows import StudyData, rows_of, session
from workbench.scaling.study_time import estimated_seconds

if TYPE_CHECKING:
    import pandas as pd
    from distributed import Client

ORDER = (*BLOCKS, "G")
_DIVERGED = "The held-out loss is not finite"


@dataclass(frozen=True)
class Progress:
    """How far a block is."""

    block: str
    measured: int
    runs: int


OnProgress = Callable[[Progress], None]


def measured_folder() -> Path:
    """Where the study's rows are: with the package, under ``data/measured/study``."""
    return presets.data_file("measured") / "study"


def runs_of(block: str, data: StudyData) -> list[StudyRun]:
    """All runs of a block, as far as what they depend on is measured.

    Raises `InputError` for an unknown block, or one that others have to come before.
    """
    if block == "G":
        return planned_runs(data.folder)
    if block not in BLOCKS:
        raise InputError(f"There is no block {block!r}; choose one of {', '.join(ORDER)}.")
    return list(BLOCKS[block](data.rates()))


def due(block: str, data: StudyData) -> list[StudyRun]:
    """The runs of a block that have no rows yet."""
    measured = data.measured(block)
    return [run for run in runs_of(block, data) if run.id not in measured]


def run_study(
    blocks: Sequence[str] = ORDER,
    *,
    data: Path | None = None,
    out: Path = Path("sweeps/study"),
    scheduler: "str | Path | Client | None" = None,
    workers: int | None = None,
    hours: float | None = None,
    disturbed: bool = False,
    base: RunConfig = BASE,
    on_progress: OnProgress | None = None,
    stop: threading.Event | None = None,
) -> dict[str, int]:
    """Measure what is due of ``blocks``, in that order; returns how many runs each still lacks.

    Args:
        blocks: names of blocks; see `workbench.scaling.study_blocks`.
        data: folder of the rows, `measured_folder` if not given.
        out: folder of the runs themselves, which are large and can be thrown away.
        scheduler: as in `workbench.sweeps.run_sweep`.
        workers: at most so many processes on this machine, which otherwise are one a core.
        hours: ends the study after so long; runs in hand are kept to go on with.
        disturbed: says of the rows that other work runs on the machine, also where its load does
            not tell.
        base: what all runs share.
        on_progress: called in this thread when a run got its rows.
        stop: when set, the steps in hand are finished and the study ends, to be gone on with.

    Raises `InputError` for a block that another one has to come before, or as `run_sweep` does.
    """
    asked = StudyData(data or measured_folder())
    stop = stop or threading.Event()
    timer = threading.Timer(hours * 3600, stop.set) if hours is not None else None
    if timer is not None:
        timer.daemon = True
        timer.start()
    left = {}
    try:
        keep_corpus(asked.folder, base)
        for block in blocks:
            if stop.is_set():
                break
            study = _Block(
                block, asked, out / block, base, disturbed, on_progress or (lambda _: None)
            )
            study.train(scheduler, workers, stop)
            left[block] = len(study.due)
    finally:
        if timer is not None:
            timer.cancel()
    return left


def estimate(
    blocks: Sequence[str], data: Path | None = None, base: RunConfig = BASE
) -> dict[str, float]:
    """Processor seconds of what is due of each block, calibrated on this machine.

    Blocks that others have to come before are left out.
    """
    known = StudyData(data or measured_folder())
    found = {}
    for block in blocks:
        try:
            runs = due(block, known)
        except InputError:
            continue
        found[block] = estimated_seconds(runs, base)
    return found


@dataclass
class _Block:
    """One block being measured."""

    name: str
    data: StudyData
    out: Path
    base: RunConfig
    disturbed: bool
    on_progress: OnProgress
    runs: list[StudyRun] = field(init=False)
    due: dict[str, StudyRun] = field(init=False)  # by the id of the sweep's cell

    def __post_init__(self) -> None:
        from workbench.sweeps.config import cell_id

        self.runs = runs_of(self.name, self.data)
        measured = self.data.measured(self.name)
        self.due = {
            cell_id(self.base.with_changes(run.changes())): run
            for run in self.runs
            if run.id not in measured
        }

    def train(
        self, scheduler: "str | Path | Client | None", workers: int | None, stop: threading.Event
    ) -> None:
        """Train what is due and keep its rows as it ends."""
        from workbench.sweeps.sweep import SweepConfig, run_sweep

        self._tell()
        if not self.due:
            return
        sweep = SweepConfig(base=self.base, list=tuple(run.changes() for run in self.due.values()))
        frame = run_sweep(
            sweep,
            folder=self.out,
            scheduler=scheduler,
            workers=workers,
            retry_failed=True,
            on_change=self._keep,
            stop=stop,
        )
        self._keep(frame)
        if self.due and not stop.is_set():
            first = frame.loc[frame["error"] != "", "error"]
            raise InputError(
                f"{len(self.due)} runs of block {self.name} have failed"
                f"{' (' + first.iloc[0].rstrip('.') + ')' if len(first) else ''}; start the study "
                "again to try them once more."
            )

    def _keep(self, frame: "pd.DataFrame") -> None:
        """Keep the rows of every run that has ended since the last look."""
        for row in frame.to_dict(orient="records"):
            if row["id"] not in self.due:
                continue
            diverged = row["state"] == "failed" and _DIVERGED in row["error"]
            if row["state"] == "done" or diverged:
                self._keep_run(str(row["id"]), self.out / row["folder"], diverged=diverged)

    def _keep_run(self, cell: str, folder: Path, *, diverged: bool) -> None:
        from workbench.runs.folder import read_run

        run, record = self.due[cell], read_run(folder)
        busy = self.disturbed or _is_busy()
        rows = rows_of(run, record, diverged=diverged, disturbed=busy)
        self.data.add(self.name, rows, session(record.summary))
        del self.due[cell]
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # most of its size
        self._tell()

    def _tell(self) -> None:
        self.on_progress(Progress(self.name, len(self.runs) - len(self.due), len(self.runs)))


def _is_busy() -> bool:
    """Whether more wants to run on this machine than it has cores; a minute's mean."""
    cores = os.cpu_count() or 1
    return hasattr(os, "getloadavg") and os.getloadavg()[0] > cores + 0.5
