"""Sweeps: many runs that differ in some fields, on Dask, in a folder that survives interruption.

A cell is one run. Cells that are done are never run again, unfinished ones go on from their last
checkpoint, and failed ones keep their error until they are retried on demand.

>>> sweep = SweepConfig.from_yaml("grid: {privacy.noise_multiplier: [0.6, 0.8]}")
>>> frame = run_sweep(sweep, folder="sweeps/noise")  # doctest: +SKIP
>>> frame[["privacy.noise_multiplier", "epsilon", "heldout_perplexity"]]  # doctest: +SKIP

Without a scheduler, Dask starts local worker processes: a script calls `run_sweep` under
``if __name__ == "__main__":``. Only a `distributed.Client` is used, so every Dask deployment will
do, for example ``Client(SLURMCluster(...))`` of dask-jobqueue or ``Client(KubeCluster(...))`` of
dask-kubernetes, as long as its workers have this package and see the folder under the same path.
"""

import queue
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pandas as pd

from workbench.errors import InputError, sentence
from workbench.sweeps.cluster import connected
from workbench.sweeps.config import Cell, SweepConfig
from workbench.sweeps.cost import SweepCost, sweep_cost
from workbench.sweeps.folder import SweepFolder, read_sweep, tidy
from workbench.sweeps.worker import train_cell

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["Cell", "SweepConfig", "SweepCost", "read_sweep", "run_sweep", "sweep_cost"]

OnChange = Callable[[pd.DataFrame], None]
NO_WORKERS = "no workers yet"
TICK_SECONDS = 0.5
_ANSWER_SECONDS = 5
STOP_PATIENCE_SECONDS = 60.0  # for the steps in hand; a run that is left behind is gone on with


def run_sweep(
    config: SweepConfig,
    *,
    folder: str | Path | None = None,
    scheduler: "str | Path | Client | None" = None,
    workers: int | None = None,
    retry_failed: bool = False,
    on_change: OnChange | None = None,
    stop: threading.Event | None = None,
) -> pd.DataFrame:
    """Run every cell that is not done yet and return the results, as `read_sweep` does.

    Args:
        config: base, grid and list.
        folder: a new folder, or a sweep's, which then goes on; see `fresh_folder` if not given.
        scheduler: address or scheduler file of a Dask scheduler, or a `distributed.Client`. If
            None, worker processes on this machine, one a core as far as memory allows.
        workers: at most so many of those.
        retry_failed: run failed cells again, too.
        on_change: called in this thread with the results so far whenever they have changed. While
            a scheduler has nobody to work, their ``attrs["note"]`` says so, and is empty else.
        stop: when set, the steps in hand are finished and the sweep ends, to be gone on with.

    Raises `InputError` for a folder or a scheduler that cannot be used. A cell that fails, or whose
    worker dies, is a row of the results with its error.
    """
    path = Path(folder or fresh_folder())
    with SweepFolder(path, config) as kept:
        sweep = _Sweep(kept, config.cells(), on_change or (lambda _: None))
        due = sweep.begin(retry_failed=retry_failed)
        try:
            if due:
                with connected(scheduler, due, workers) as (client, at_once):
                    sweep.work(client, due, at_once or len(due), stop or threading.Event())
        finally:
            sweep.end()
    return read_sweep(path)


def fresh_folder() -> Path:
    """``sweeps/`` and the time of day."""
    return Path("sweeps") / datetime.now().strftime("%Y%m%d-%H%M%S")


class _Sweep:
    """One sweep in progress: which cells are with Dask, and the table of all."""

    def __init__(self, folder: SweepFolder, cells: Sequence[Cell], on_change: OnChange) -> None:
        self.folder, self.cells, self.on_change = folder, cells, on_change
        self.rows = {cell.id: folder.row(cell, folder.cell(cell).state) for cell in cells}
        self.fields = tuple(cells[0].values)
        self.submitted: dict[Any, tuple[Cell, Future]] = {}
        self.ended: queue.SimpleQueue[Future] = queue.SimpleQueue()
        self.stopping = self.scheduler_lost = False
        self.note = ""

    def begin(self, *, retry_failed: bool) -> list[Cell]:
        """Say that the sweep runs, before anything does; returns the cells to train."""
        again = ("waiting", "interrupted", *(("failed",) if retry_failed else ()))
        due = [cell for cell in self.cells if self.rows[cell.id]["state"] in again]
        self.folder.write_summary("running", None)
        for cell in due:
            self.folder.cell(cell).wait()
            self.rows[cell.id] = self.folder.row(cell, "waiting")
        self._tell(write=True)
        return due

    def work(
        self, client: "Client", due: Sequence[Cell], at_once: int, stop: threading.Event
    ) -> None:
        """Have ``due`` trained, ``at_once`` of them in Dask's hands, until the end or ``stop``."""
        waiting = deque(due)
        try:
            while (waiting or self.submitted) and not stop.is_set():
                while waiting and len(self.submitted) < at_once:
                    self._submit(client, waiting.popleft())
                self._look_for_workers(client)
                self._follow()
        finally:
            # Nothing is left to stop unless it was asked for, here or with Ctrl-C.
            self._stop(client)
        if self.scheduler_lost:
            raise InputError(
                "The connection to the Dask scheduler was lost; start the sweep again to go on."
            )

    def end(self) -> None:
        """Write what has come of every cell, and what all of them have cost."""
        self.rows = {c.id: self.folder.row(c, self.folder.cell(c).state) for c in self.cells}
        self._tell(write=True)
        ended = all(row["state"] in ("done", "failed") for row in self.rows.values())
        state = "done" if ended else "interrupted"
        self.folder.write_summary(state, None)
        self.folder.write_summary(state, sweep_cost(self.folder.path).as_dict())

    def _submit(self, client: "Client", cell: Cell) -> None:
        where = str(self.folder.cell(cell).path), str(self.folder.stop_file)
        future = client.submit(train_cell, cell.config.to_yaml(), *where, pure=False)
        self.submitted[future.key] = cell, future
        future.add_done_callback(self.ended.put)

    def _look_for_workers(self, client: "Client") -> None:
        """Say so while nothing happens because the scheduler has no worker."""
        idle = not any(row["state"] == "running" for row in self.rows.values())
        try:
            nobody = idle and not client.nthreads(callback_timeout=_ANSWER_SECONDS)
        except (OSError, TimeoutError):  # whether the scheduler is lost, the futures tell
            return
        note = NO_WORKERS if nobody else ""
        if note != self.note:
            self.note = note
            self._tell(write=False)

    def _follow(self) -> None:
        """Take in what has ended within a tick, and where the running cells are."""
        shown = dict(self.rows)
        for future in self._ended_within(TICK_SECONDS):
            self._settle(future)
        for cell, _ in self.submitted.values():
            if self._started(cell):
                self.rows[cell.id] = self.folder.row(cell, "running")
        if self.rows != shown:
            self._tell(write=any(shown[key]["state"] != self.rows[key]["state"] for key in shown))

    def _ended_within(self, seconds: float) -> list["Future"]:
        ended = []
        try:
            ended.append(self.ended.get(timeout=seconds))
            while True:
                ended.append(self.ended.get_nowait())
        except queue.Empty:
            return ended

    def _settle(self, future: "Future") -> None:
        """Take a future's end for what it says about its cell."""
        cell, _ = self.submitted.pop(future.key)
        folder = self.folder.cell(cell)
        if not self.stopping and future.status == "error":
            error = cast(BaseException, future.exception())
            folder.fail(_reason(error), "".join(traceback.format_exception(error)))
        if not self.stopping and future.status == "cancelled":
            self.scheduler_lost = True
        if not self.stopping and future.status == "finished" and folder.state == "waiting":
            folder.fail(
                f"The worker has finished, but nothing is in {folder.path}; let its machine see "
                "that folder under the same path.",
                "",
            )
        self.rows[cell.id] = self.folder.row(cell, folder.state)

    def _stop(self, client: "Client") -> None:
        """Let running cells finish the step in hand, and give up those that no worker has yet."""
        if not self.submitted:
            return
        self.stopping = True
        self.folder.stop_file.touch()
        client.cancel([f for cell, f in self.submitted.values() if not self._started(cell)])
        deadline = time.monotonic() + STOP_PATIENCE_SECONDS
        while self.submitted and time.monotonic() < deadline:
            self._follow()

    def _started(self, cell: Cell) -> bool:
        return self.folder.cell(cell).started

    def _tell(self, *, write: bool) -> None:
        frame = tidy(list(self.rows.values()), self.fields)
        if write:
            self.folder.write_results(frame)
        frame.attrs["note"] = self.note
        self.on_change(frame)


def _reason(error: BaseException) -> str:
    from distributed.scheduler import KilledWorker

    if isinstance(error, KilledWorker):
        return (
            "The worker that trained this cell died, killed or out of memory; see what ended it, "
            "then retry the cell."
        )
    return sentence(error)
