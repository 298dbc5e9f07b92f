"""One training run in a thread of its own, and what can be seen of it from elsewhere.

Training inside a cell would leave the kernel deaf to Cancel until the cell ends. Here a daemon
thread trains, and whoever follows asks for a `Progress` whenever it suits. A process trains one run
at a time: a second `start` is refused while the first is going, whichever panel or cell asks.
"""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from workbench import training
from workbench.config import RunConfig
from workbench.errors import InputError
from workbench.privacy import Guarantee
from workbench.training.folder import METRICS, fresh_path, metrics_row
from workbench.training.ledger import read
from workbench.training.report import RunResult, StepReport

Phase = Literal["preparing", "running", "cancelling", "done", "cancelled", "failed"]
ENDED: tuple[Phase, ...] = ("done", "cancelled", "failed")


@dataclass(frozen=True, eq=False)
class Progress:
    """A run as it stood at one moment; ``metrics`` has the columns of the run folder's."""

    version: int
    phase: Phase
    latest: StepReport | None
    metrics: pd.DataFrame
    result: RunResult | None = None
    error: str = ""
    spent: Guarantee | None = None  # certified, once the run has ended

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.phase in ENDED


class Run:
    """A run that `start` has begun; every method can be called from any thread."""

    def __init__(self, config: RunConfig, run_dir: Path) -> None:
        self.config, self.run_dir = config, run_dir
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._rows = _Rows()
        self._now = Progress(0, "preparing", None, self._rows.frame())
        self._thread = threading.Thread(target=self._work, name="dp-sgd run", daemon=True)
        self._thread.start()

    @property
    def active(self) -> bool:
        """Whether the run is still going."""
        return not self._now.ended

    def cancel(self) -> None:
        """Finish the step in hand and stop; the run then tells what it truly spent."""
        self._stop.set()
        self._tell(phase="cancelling")

    def progress(self, *, newer_than: int = -1, timeout: float | None = None) -> Progress:
        """The run as it stands, once it has moved on from version ``newer_than``."""
        with self._changed:
            self._changed.wait_for(lambda: self._now.version > newer_than, timeout)
            return self._current()

    def wait(self, timeout: float | None = None) -> Progress:
        """The run as it ended, or as it stands after ``timeout`` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._now.ended, timeout)
            return self._current()

    def _current(self) -> Progress:
        # The table is copied when somebody looks, not at every step.
        return Progress(**{**vars(self._now), "metrics": self._rows.frame()})

    def _work(self) -> None:
        try:
            result = training.train(
                self.config, on_step=self._stepped, stop=self._stop, run_dir=self.run_dir
            )
        except Exception as error:
            reason = str(error) if isinstance(error, InputError) else _sentence(error)
            self._tell(phase="failed", error=reason, spent=self._recorded())
        else:
            self._tell(phase=result.state, result=result, spent=result.guarantee)

    def _stepped(self, report: StepReport) -> None:
        with self._changed:
            self._rows.add(report)
            self._tell(phase="cancelling" if self._stop.is_set() else "running", latest=report)

    def _tell(self, **changes: object) -> None:
        with self._changed:
            if not self._now.ended:
                version = self._now.version + 1
                self._now = Progress(**{**vars(self._now), **changes, "version": version})
                self._changed.notify_all()

    def _recorded(self) -> Guarantee | None:
        """What the ledger of a failed run says was spent; None if it never came to a ledger."""
        try:
            return read(self.run_dir / "ledger.jsonl").guarantee()
        except InputError:
            return None


_latest: Run | None = None
_one_at_a_time = threading.Lock()


def start(config: RunConfig, *, run_dir: str | Path | None = None) -> Run:
    """Train ``config`` in the background; the folder is ``run_dir`` or ``runs/`` and the time.

    Raises `InputError` while another run is going or if the folder holds something already.
    """
    global _latest
    with _one_at_a_time:
        if _latest is not None and _latest.active:
            raise InputError(
                f"A run is already going in this kernel ({_latest.run_dir}); cancel it or wait "
                "for its end before starting another."
            )
        _latest = Run(config, fresh_path(run_dir))
        return _latest


def latest() -> Run | None:
    """The run that is going, or the last one that went; None if this process has trained none."""
    return _latest


def no_metrics() -> pd.DataFrame:
    """The metrics of a run that has not begun."""
    return _Rows().frame()


class _Rows:
    """Rows of metrics in one growing array, so that a copy costs little however long the run."""

    def __init__(self) -> None:
        self._values = np.empty((512, len(METRICS)))
        self._used = 0

    def add(self, report: StepReport) -> None:
        if self._used == len(self._values):
            self._values = np.concatenate([self._values, np.empty_like(self._values)])
        self._values[self._used] = list(metrics_row(report).values())
        self._used += 1

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self._values[: self._used].copy(), columns=list(METRICS))


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split()).rstrip(".")[:300]
    return f"The run stopped with {type(error).__name__}: {text or 'no further words'}."
