"""Every notebook is committed clean, and runs top to bottom in fast mode."""

import ast
import shutil
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
TOGETHER = 180.0  # seconds for all of them on two cores

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the notebooks folder, so that what they write lands nowhere else."""
    return Path(
        shutil.copytree(NOTEBOOKS[0].parent, tmp_path_factory.mktemp("series") / "notebooks")
    )


@pytest.fixture(scope="module")
def seconds_left() -> list[float]:
    """What is left of the time for all notebooks together; each takes its own share off."""
    return [TOGETHER]


@each_notebook
def test_runs(path: Path, series: Path, seconds_left: list[float], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORKBENCH_FAST", "1")
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    notebook = nbformat.read(series / path.name, as_version=4)
    started = time.monotonic()
    NotebookClient(notebook, timeout=TOGETHER, resources={"metadata": {"path": series}}).execute()
    seconds_left[0] -= time.monotonic() - started
    assert complaints(notebook) == []
    assert seconds_left[0] > 0, f"the notebooks take more than {TOGETHER:.0f} s together"


@each_notebook
def test_is_committed_without_outputs(path: Path):
    notebook = nbformat.read(path, as_version=4)
    assert "widgets" not in notebook.metadata
    for cell in code_cells(notebook):
        assert (cell.outputs, cell.execution_count) == ([], None)


@each_notebook
def test_selects_the_kernel_that_every_environment_has(path: Path):
    assert nbformat.read(path, as_version=4).metadata.kernelspec.name == "python3"


@each_notebook
def test_keeps_code_in_the_package(path: Path):
    notebook = nbformat.read(path, as_version=4)
    for cell in code_cells(notebook):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                assert lines <= 10, f"{node.name} belongs in workbench/: it has {lines} lines"


@each_notebook
def test_is_listed_in_the_readme(path: Path):
    readme = (path.parents[1] / "README.md").read_text(encoding="utf-8")
    assert f"(notebooks/{path.name})" in readme


def test_a_printed_warning_is_a_complaint():
    cell = nbformat.v4.new_code_cell()
    cell.outputs = [nbformat.v4.new_output("stream", name="stderr", text="UserWarning: beware")]
    assert complaints(nbformat.v4.new_notebook(cells=[cell])) == ["UserWarning: beware"]


def code_cells(notebook: Any) -> list[Any]:
    """The cells that hold code."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def complaints(notebook: Any) -> list[str]:
    """What the cells printed on standard error."""
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    return [output.text for output in outputs if output.get("name") == "stderr"]
