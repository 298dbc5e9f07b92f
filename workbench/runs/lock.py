"""One process at a time writes a folder.

The operating system takes the lock away when its process ends, also by ``kill -9``, so that the
file ``.lock``, which stays, stops nobody. A file system that several machines mount must pass locks
on to all of them, as NFS does by default; one mounted with ``nolock`` or ``local_lock`` does not.
"""

from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from workbench.errors import InputError

LOCK = ".lock"


def hold(folder: Path) -> BaseFileLock:
    """Keep other processes from writing ``folder`` until the lock is released.

    Raises `InputError` if another holds it, or the folder cannot be written or locked.
    """
    # Not bound to a thread: a run may be closed by another than the one that began it.
    lock = FileLock(folder / LOCK, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(
            f"{folder} is being written by another process; wait for its end or stop it."
        ) from None
    except (OSError, NotImplementedError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(
            f"Cannot lock {folder} against other processes: {' '.join(reason.split())}; let this "
            "user write there, on a disk that has room and knows locks."
        ) from None
    return lock
