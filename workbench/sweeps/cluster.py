"""Where a sweep computes: worker processes on this machine, or whatever a Dask scheduler has."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import InputError
from workbench.sweeps.config import Cell

if TYPE_CHECKING:
    from distributed import Client

_CONNECT_SECONDS = 10
_BYTES_A_WORKER = 1.5e9  # torch and the default run together peak at 1.2e9
# Ctrl-C, SLURM and others reach every process at once; a worker is to finish its step, as the
# sweep tells it to, and not to die of it.
_IGNORE_SIGNALS = """
import signal
for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
    if hasattr(signal, name):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
"""


@contextmanager
def connected(
    scheduler: "str | Path | Client | None", cells: Sequence[Cell]
) -> Iterator[tuple["Client", int | None]]:
    """A client, and how many of ``cells`` to hand it at once; None stands for all.

    Raises `InputError` if no scheduler answers.
    """
    if scheduler is None:
        with _local(local_workers(cells)) as client:
            # A dead worker takes down whatever Dask has assigned to it, so it gets no more than it
            # can run.
            yield client, local_workers(cells)
    elif isinstance(scheduler, str | Path):
        with _at(scheduler) as client:
            yield client, None
    else:
        yield scheduler, None


def local_workers(cells: Sequence[Cell]) -> int:
    """One process a core, but no more than there are cells, and than memory or one GPU can hold."""
    from dask.system import CPU_COUNT
    from distributed.system import MEMORY_LIMIT

    if _one_gpu_for_all(cells):
        return 1
    return max(1, min(CPU_COUNT, len(cells), int(MEMORY_LIMIT / _BYTES_A_WORKER)))


def _one_gpu_for_all(cells: Sequence[Cell]) -> bool:
    asked = {cell.config.runtime.device for cell in cells}
    if asked == {"cpu"}:
        return False
    import torch

    return "mps" in asked or torch.cuda.is_available()


@contextmanager
def _local(workers: int) -> Iterator["Client"]:
    from dask import config
    from distributed import Client, LocalCluster

    # By default Dask would try a task that kills its worker on three more.
    with (
        config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            dashboard_address="127.0.0.1:0",  # any free port, and for this machine alone
            silence_logs=logging.CRITICAL,
            preload=[_IGNORE_SIGNALS],
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextmanager
def _at(scheduler: str | Path) -> Iterator["Client"]:
    from distributed import Client

    file = Path(scheduler).is_file()
    where: dict[str, Any] = {"scheduler_file" if file else "address": str(scheduler)}
    try:
        client = Client(**where, timeout=_CONNECT_SECONDS)
    except (OSError, ValueError, TypeError, AssertionError) as error:
        # Of a file without an address Dask only asserts that it has one.
        reason = str(error) or f"{scheduler} names none"
        raise InputError(
            f"No Dask scheduler answers at {scheduler} ({reason}); give its address, such as "
            "tcp://host:8786, or its scheduler file."
        ) from None
    with client:
        yield client
