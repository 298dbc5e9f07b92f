"""How long until something is there: the package imported, JupyterLab answering.

The peers are Python starting with nothing to import, and JupyterLab started without the workbench.
"""

import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.browser.lab_server import running_lab


def main() -> dict[str, float]:
    """Seconds, each the least of several starts."""
    return {
        "import workbench (s)": least(lambda: python("import workbench"), 5),
        "import workbench (s) | python alone": least(lambda: python("pass"), 5),
        "import workbench (s) | import numpy": least(lambda: python("import numpy"), 5),
        "warm make lab until it answers (s)": least(lambda: lab(make_lab), 3),
        "warm make lab until it answers (s) | jupyter lab": least(lambda: lab(jupyter_lab), 3),
    }


def least(measure: Callable[[], float], repeats: int) -> float:
    """The least of several measurements: what is left when nothing else disturbed it."""
    return min(measure() for _ in range(repeats))


def python(statement: str) -> float:
    """Seconds a fresh Python takes to run ``statement`` and end."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - started


def lab(command: Callable[[list[str]], list[str]]) -> float:
    """Seconds until a server started by ``command`` answers."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        with running_lab(Path(folder), command):
            return time.perf_counter() - started


def make_lab(arguments: list[str]) -> list[str]:
    """What a user types, with the test server's port and folder."""
    return ["make", "lab", f"ARGS={shlex.join(arguments)}"]


def jupyter_lab(arguments: list[str]) -> list[str]:
    """JupyterLab itself on the same folder."""
    _, folder, *others = arguments
    return [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={folder}", *others]
