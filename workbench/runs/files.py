"""How files of a run are written so that a crash leaves the old text or the new, never a part."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from workbench.errors import usable_path


def replace_text(path: Path, text: str) -> None:
    """Write ``path`` so that a reader finds the old text or the new, never a part."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # or a power cut can leave the name without its text
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)  # on a full disk its room is needed
        raise


def sync_names(folder: Path) -> None:
    """Have the names in ``folder`` on the disk: `os.fsync` of a file keeps its content alone."""
    if os.name == "nt":  # Windows opens no directories
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """The hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def located(path: str | Path) -> Path:
    """``path`` as an absolute one, ``~`` written out; `InputError` for what no path can be."""
    return usable_path("The run folder", path).absolute()
