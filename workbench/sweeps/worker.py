"""What a Dask worker does with one cell of a sweep; nothing here loads torch before it has begun.

The cell's folder is all that goes in and out, so a worker may be a thread, a process, or another
machine that sees the same files under the same path.
"""

import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from workbench.config import RunConfig
from workbench.errors import sentence
from workbench.sweeps.folder import CellFolder

_LOOK_SECONDS = 0.5


def train_cell(config: str, cell: str, stop_file: str) -> None:
    """Train the run that the YAML ``config`` describes in the folder ``cell``, or go on with it.

    An error is kept in that folder and not raised. While ``stop_file`` exists, the run finishes the
    step in hand and ends as "cancelled".
    """
    folder = CellFolder(Path(cell))
    if Path(stop_file).exists():
        return
    folder.start()
    try:
        from workbench import training

        stop = threading.Event()
        on_step = _looking_for(Path(stop_file), stop)
        with _threads_of_the_worker():
            if folder.run.exists():
                training.resume(folder.run, on_step=on_step, stop=stop)
            else:
                training.train(
                    RunConfig.from_yaml(config), on_step=on_step, stop=stop, run_dir=folder.run
                )
    except Exception as error:
        folder.fail(sentence(error), traceback.format_exc())


def _looking_for(stop_file: Path, stop: threading.Event) -> Callable[[Any], None]:
    """A callback for every step that now and then looks whether the sweep is to stop."""
    looked = time.monotonic()

    def on_step(_report: Any) -> None:
        nonlocal looked
        if time.monotonic() - looked > _LOOK_SECONDS:
            looked = time.monotonic()
            if stop_file.exists():
                stop.set()

    return on_step


@contextmanager
def _threads_of_the_worker() -> Iterator[None]:
    """As many torch threads as Dask gives this worker, unless the run's configuration says."""
    import torch
    from distributed import get_worker

    before = torch.get_num_threads()
    torch.set_num_threads(get_worker().state.nthreads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
