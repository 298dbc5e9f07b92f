"""JupyterLab on the series, opened without a question and without a word to the outside.

The settings in ``share/jupyter``, which installing the project puts into the environment, keep the
interface quiet on Binder and under a plain ``jupyter lab`` too; the arguments here keep the server
from asking even if someone turns them on.
"""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from workbench.errors import InputError, usable_path

FIRST_NOTEBOOK = "00_start_here.ipynb"


def notebooks_folder(chosen: str | Path | None = None) -> Path:
    """The folder of the series: ``chosen``, or the one of this clone, or the current folder's.

    Raises `InputError` if the first notebook is not in it.
    """
    clone = Path(__file__).parents[1] / "notebooks"
    candidates = [usable_path("--notebooks", chosen)] if chosen else [clone, Path("notebooks")]
    for folder in candidates:
        if (folder / FIRST_NOTEBOOK).is_file():
            return folder.resolve()
    raise InputError(
        f"{candidates[-1]} has no {FIRST_NOTEBOOK}; "
        "run this in a clone of the project or name its folder with --notebooks."
    )


def jupyter_arguments(folder: Path, workspaces: str | Path, extra: Sequence[str] = ()) -> list[str]:
    """What `open_lab` passes to JupyterLab, which remembers its open tabs in ``workspaces``."""
    return [
        f"--ServerApp.root_dir={folder}",
        f"--LabApp.default_url=/lab/tree/{FIRST_NOTEBOOK}",
        f"--LabApp.workspaces_dir={workspaces}",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.handlers.announcements.NeverCheckForUpdate",
        "--LabApp.extension_manager=readonly",
        *extra,
    ]


def open_lab(extra: Sequence[str] = (), notebooks: str | Path | None = None) -> None:
    """Run JupyterLab until it is stopped; ``extra`` are arguments of ``jupyter lab``.

    Raises `InputError` if JupyterLab is not installed or there are no notebooks to open.
    """
    if find_spec("jupyterlab") is None:
        raise InputError(
            "JupyterLab is not installed; run 'make lab' or install dp-sgd-workbench[lab]."
        )
    folder = notebooks_folder(notebooks)
    # The environment's kernel and settings come before the user's of the same name.
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")
    from jupyterlab.labapp import main

    # Tabs of another project's files would be restored as errors, so every start is a fresh one.
    with TemporaryDirectory(prefix="workbench-") as workspaces:
        main(jupyter_arguments(folder, workspaces, extra))
