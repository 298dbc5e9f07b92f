"""One sweep in a thread of its own, and what can be seen of it from elsewhere.

The thread only waits for Dask's workers, so the kernel stays free. A process runs one sweep at a
time: a second `start` is refused while the first is going, whichever panel or cell asks.
"""

import threading
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from workbench.errors import InputError, sentence
from workbench.panels.common.job import Job
from workbench.sweeps.sweep import SweepConfig, fresh_folder, run_sweep

Phase = Literal["running", "cancelling", "done", "cancelled", "failed"]
ENDED: tuple[Phase, ...] = ("done", "cancelled", "failed")


@dataclass(frozen=True, eq=False)
class SweepState:
    """A sweep as it stood at one moment; ``frame`` has a row a cell as in `read_sweep`."""

    version: int
    phase: Phase
    frame: pd.DataFrame | None = None
    error: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.phase in ENDED

    @property
    def counts(self) -> Counter[str]:
        """How many cells are in each state."""
        return Counter(self.frame["state"].tolist() if self.frame is not None else ())

    @property
    def ended_cells(self) -> int:
        """How many cells are done or have failed."""
        return self.counts["done"] + self.counts["failed"]


class SweepJob(Job[SweepState]):
    """A sweep that `start` has begun; every method can be called from any thread."""

    def __init__(
        self, config: SweepConfig, folder: Path, *, scheduler: Any, retry_failed: bool
    ) -> None:
        self.config, self.folder = config, folder
        self._options = {"scheduler": scheduler, "retry_failed": retry_failed}
        super().__init__(SweepState(0, "running"))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="sweep", daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        """Have the steps in hand finished and stop; the same sweep can then go on."""
        self._stop.set()
        self._tell(phase="cancelling")

    def _work(self) -> None:
        try:
            frame = run_sweep(
                self.config,
                folder=self.folder,
                stop=self._stop,
                on_change=lambda frame: self._tell(frame=frame),
                **self._options,
            )
        except Exception as error:
            self._tell(phase="failed", error=sentence(error, what="The sweep"))
        else:
            whole = frame.attrs["state"] == "done"
            self._tell(phase="done" if whole else "cancelled", frame=frame)

    def _tell(self, **changes: Any) -> None:
        with self._changed:
            self._become(replace(self._now, version=self._now.version + 1, **changes))


_latest: SweepJob | None = None
_one_at_a_time = threading.Lock()


def start(
    config: SweepConfig,
    *,
    folder: Path | None = None,
    scheduler: Any = None,
    retry_failed: bool = False,
) -> SweepJob:
    """Run ``config`` in the background, or go on with it in its ``folder``.

    Raises `InputError` while another sweep is going.
    """
    global _latest
    with _one_at_a_time:
        if _latest is not None and _latest.active:
            raise InputError(
                f"A sweep is already going in this kernel ({_latest.folder}); cancel it or wait "
                "for its end before starting another."
            )
        _latest = SweepJob(
            config, folder or fresh_folder(), scheduler=scheduler, retry_failed=retry_failed
        )
        return _latest


def latest() -> SweepJob | None:
    """The sweep that is going, or the last one that went; None if this process has run none."""
    return _latest
