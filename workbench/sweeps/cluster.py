"""Where a sweep computes: worker processes on this machine, or whatever a Dask scheduler has."""

import json
import logging
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import InputError, usable_path
from workbench.sweeps.config import Cell

if TYPE_CHECKING:
    from distributed import Client

_CONNECT_SECONDS = 7
_GREETING_SECONDS = 5
_LENGTH, _LONGEST_GREETING = struct.Struct("<Q"), 2**16
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
    scheduler: "str | Path | Client | None", cells: Sequence[Cell], workers: int | None = None
) -> Iterator[tuple["Client", int | None]]:
    """A client, and how many of ``cells`` to hand it at once; None stands for all.

    ``workers`` is how many processes there are on this machine, if not as many as it holds. Raises
    `InputError` if no scheduler answers.
    """
    if scheduler is None:
        at_once = min(workers or len(cells), local_workers(cells))
        with _local(at_once) as client:
            # A dead worker takes down whatever Dask has assigned to it, so it gets no more than it
            # can run.
            yield client, at_once
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

    settings = {
        # By default Dask would try a task that kills its worker on three more.
        "distributed.scheduler.allowed-failures": 0,
        # A worker here that says nothing for minutes is short of a core and not dead: that would
        # close its connection.
        "distributed.scheduler.worker-ttl": None,
    }
    with (
        config.set(settings),
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

    where = scheduler_at(scheduler)
    try:
        client = Client(**where, timeout=_CONNECT_SECONDS)
    except Exception as error:  # whatever answers there may answer anything
        raise _nobody_at(scheduler, str(error) or type(error).__name__) from None
    with client:
        yield client


def scheduler_at(scheduler: str | Path) -> dict[str, Any]:
    """How Dask's client is told where the scheduler is, once something there speaks as one does.

    Dask's own client waits for minutes on a web server, and takes an SSH server's greeting for a
    message of many gigabytes. Raises `InputError` if nothing answers in time, or something else.
    """
    file = usable_path("scheduler", scheduler)
    if not file.is_file():
        _refuse_other_server(scheduler, str(scheduler))
        return {"address": str(scheduler)}
    try:
        address = json.loads(file.read_text(encoding="utf-8"))["address"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise _nobody_at(scheduler, "it is a file that names none") from None
    _refuse_other_server(scheduler, str(address))
    return {"scheduler_file": str(file)}


def _refuse_other_server(scheduler: str | Path, address: str) -> None:
    """Raise `InputError` unless Dask's greeting comes from ``address``.

    In a thread of its own, because to look up a host's name may take longer than anybody waits.
    """
    found: list[str] = []
    asking = threading.Thread(target=lambda: found.append(_fault_at(address)), daemon=True)
    asking.start()
    asking.join(_CONNECT_SECONDS)
    fault = found[0] if found else "it does not answer"
    if fault:
        raise _nobody_at(scheduler, fault)


def _fault_at(address: str) -> str:
    """Why no Dask scheduler seems to be there; empty if nothing speaks against one."""
    from distributed.comm.addressing import get_address_host_port, parse_address

    try:
        scheme, _ = parse_address(address)
        if scheme != "tcp":  # others have greetings of their own, and limits that hold
            return ""
        host, port = get_address_host_port(address)
        with socket.create_connection((host, port), timeout=_GREETING_SECONDS) as connection:
            return _fault_of(connection)
    except TimeoutError:
        return "it does not answer"
    except (OSError, ValueError, OverflowError) as error:
        return getattr(error, "strerror", None) or str(error)


def _fault_of(connection: socket.socket) -> str:
    """Whether the first bytes are Dask's, whose servers speak first: a length, then as much."""
    connection.settimeout(_GREETING_SECONDS)
    try:
        start = _received(connection, _LENGTH.size)
        if start is None:
            return "something is there, but it hangs up"
        (length,) = _LENGTH.unpack(start)
        if length > _LONGEST_GREETING or _received(connection, length) is None:
            return "something else than Dask is there"
    except TimeoutError:
        return "something is there, but it says nothing that Dask says"
    return ""


def _received(connection: socket.socket, size: int) -> bytes | None:
    """The next bytes; None if the other side hangs up before it has sent all of them."""
    found = b""
    while len(found) < size:
        more = connection.recv(size - len(found))
        if not more:
            return None
        found += more
    return found


def _nobody_at(scheduler: str | Path, reason: str) -> InputError:
    return InputError(
        f"No Dask scheduler answers at {scheduler} ({' '.join(reason.split())[:200]}); give its "
        "address, such as tcp://host:8786, or its scheduler file."
    )
