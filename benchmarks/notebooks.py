"""How long the series takes in fast mode; the peer is as many notebooks with nothing in them."""

import os
import shutil
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from tests.browser.lab_server import NOTEBOOKS


def main() -> dict[str, float]:
    """Seconds of each notebook, top to bottom with the start of its kernel, and of all."""
    os.environ.update(WORKBENCH_FAST="1", JUPYTER_PREFER_ENV_PATH="1")
    names = sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(shutil.copytree(NOTEBOOKS, Path(parent) / "notebooks"))
        seconds = {f"{name} (s)": run(nbformat.read(folder / name, 4), folder) for name in names}
        empty = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("")])
        return {
            **seconds,
            "all notebooks (s)": sum(seconds.values()),
            "all notebooks (s) | empty ones": sum(run(empty, folder) for _ in names),
        }


def run(notebook: nbformat.NotebookNode, folder: Path) -> float:
    """Seconds from no kernel to the last cell done."""
    started = time.perf_counter()
    folder_of = {"metadata": {"path": folder}}
    NotebookClient(notebook, timeout=600, skip_cells_with_tag="", resources=folder_of).execute()
    return time.perf_counter() - started
