"""One training run in a thread of its own, and what can be seen of it from elsewhere.

Training inside a cell would leave the kernel deaf to Cancel until the cell ends. Here a daemon
thread trains, and whoever follows asks for a `RunState` whenever it suits. A process trains one run
at a time: a second `start` is refused while the first is going, whichever panel or cell asks.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from workbench import training
from workbench.config import RunConfig
from workbench.corpora.counts import RecordCounts
from workbench.errors import InputError, sentence
from workbench.panels.common.job import Job
from workbench.privacy import Guarantee
from workbench.runs.folder import METRICS, fresh_path, metrics_row
from workbench.runs.ledger import read
from workbench.runs.report import RunResult, StepReport

Phase = Literal[
    "preparing", "running", "pausing", "paused", "cancelling", "done", "cancelled", "failed"
]
ENDED: tuple[Phase, ...] = ("done", "cancelled", "failed")
Work = Callable[..., RunResult]  # called with on_step and stop


@dataclass(frozen=True, eq=False)
class RunState:
    """A run as it stood at one moment; ``metrics`` has the columns of the run folder's."""

    version: int
    phase: Phase
    latest: StepReport | None
    metrics: pd.DataFrame
    result: RunResult | None = None
    error: str = ""
    spent: Guarantee | None = None  # certified, once the run has ended
    records: RecordCounts | None = None  # of a run that has taken its first step here

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.phase in ENDED


class RunJob(Job[RunState]):
    """A run that `start` or `resume` has begun; every method can be called from any thread."""

    def __init__(self, config: RunConfig, run_dir: Path, work: Work, rows: "_Rows") -> None:
        self.config, self.run_dir = config, run_dir
        self._work, self._rows = work, rows
        super().__init__(RunState(0, "preparing", None, rows.frame()))
        self._stop, self._going_on = threading.Event(), threading.Event()
        self._going_on.set()
        self._thread = threading.Thread(target=self._to_the_end, name="dp-sgd run", daemon=True)
        self._thread.start()

    @property
    def phase(self) -> Phase:
        """What the run is doing."""
        return self._now.phase

    def cancel(self) -> None:
        """Finish the step in hand and stop; the run then tells what it truly spent."""
        with self._changed:
            self._stop.set()
            self._going_on.set()
            self._tell()

    def pause(self) -> None:
        """Finish the step in hand and wait there, with everything kept in memory."""
        with self._changed:
            if not self._stop.is_set():
                self._going_on.clear()
                self._tell()

    def go_on(self) -> None:
        """End a pause."""
        with self._changed:
            self._going_on.set()
            self._tell()

    def _current(self) -> RunState:
        # The table is copied when somebody looks, not at every step.
        return replace(self._now, metrics=self._rows.frame())

    def _to_the_end(self) -> None:
        try:
            result = self._work(on_step=self._stepped, stop=self._stop)
        except Exception as error:
            self._tell(phase="failed", error=sentence(error), spent=self._recorded())
        else:
            with self._changed:
                self._rows.settle(result.guarantee.epsilon)
                self._tell(phase=result.state, result=result, spent=result.guarantee)

    def _stepped(self, report: StepReport) -> None:
        """Called in the run's own thread after each step; a pause holds it here."""
        with self._changed:
            self._rows.add(report)
            self._tell(latest=report, records=report.records or self._now.records)
            if not self._going_on.is_set():
                self._tell(phase="paused")
        self._going_on.wait()

    def _tell(self, *, phase: Phase | None = None, **changes: object) -> None:
        with self._changed:
            now = replace(self._now, version=self._now.version + 1, **changes)  # type: ignore[arg-type]
            self._become(replace(now, phase=phase or self._phase(now.latest)))

    def _phase(self, latest: StepReport | None) -> Phase:
        """What a run that has not ended is about to do."""
        if self._stop.is_set():
            return "cancelling"
        if not self._going_on.is_set():
            return "pausing"
        return "running" if latest else "preparing"

    def _recorded(self) -> Guarantee | None:
        """What the ledger of a failed run says was spent; None if nothing can tell."""
        try:
            return read(self.run_dir / "ledger.jsonl").guarantee()
        except Exception:  # accounting itself may be what failed, and this thread is to say so
            return None


_latest: RunJob | None = None
_one_at_a_time = threading.Lock()


def start(config: RunConfig, *, run_dir: str | Path | None = None) -> RunJob:
    """Train ``config`` in the background; the folder is ``run_dir`` or ``runs/`` and the time.

    Raises `InputError` while another run is going or if the folder holds something already.
    """
    path = fresh_path(run_dir)

    # The name is looked up in the run's thread, where importing torch keeps nobody waiting.
    def work(**watching: Any) -> RunResult:
        return training.train(config, run_dir=path, **watching)

    return _begin(config, path, work, _Rows())


def resume(run_dir: str | Path) -> RunJob:
    """Go on in the background with a run that was stopped, failed or was killed.

    Raises `InputError` while another run is going or if the folder cannot be read.
    """
    record = training.read_run(run_dir)

    def work(**watching: Any) -> RunResult:
        return training.resume(record.path, **watching)

    return _begin(record.config, record.path, work, _Rows(record.metrics))


def latest() -> RunJob | None:
    """The run that is going, or the last one that went; None if this process has trained none."""
    return _latest


def no_metrics() -> pd.DataFrame:
    """The metrics of a run that has not begun."""
    return _Rows().frame()


def _begin(config: RunConfig, run_dir: Path, work: Work, rows: "_Rows") -> RunJob:
    global _latest
    with _one_at_a_time:
        if _latest is not None and _latest.active:
            raise InputError(
                f"A run is already going in this kernel ({_latest.run_dir}); cancel it or wait "
                "for its end before starting another."
            )
        _latest = RunJob(config, run_dir, work, rows)
        return _latest


class _Rows:
    """Rows of metrics in one growing array, so that a copy costs little however long the run."""

    def __init__(self, metrics: pd.DataFrame | None = None) -> None:
        before = np.empty((0, len(METRICS)))
        if metrics is not None:
            before = metrics.reindex(columns=METRICS).to_numpy(float)
        self._values = np.concatenate([before, np.empty((512, len(METRICS)))])
        self._used = len(before)

    def add(self, report: StepReport) -> None:
        """Append a step; a resumed run takes back the rows that its checkpoint did not have."""
        while self._used and self._values[self._used - 1, 0] >= report.step:
            self._used -= 1
        if self._used == len(self._values):
            self._values = np.concatenate([self._values, np.empty_like(self._values)])
        self._values[self._used] = list(metrics_row(report).values())
        self._used += 1

    def settle(self, epsilon: float) -> None:
        """Replace the bound on ε in the last row by what was truly spent."""
        if self._used:
            self._values[self._used - 1, METRICS.index("epsilon")] = epsilon

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self._values[: self._used].copy(), columns=METRICS)
