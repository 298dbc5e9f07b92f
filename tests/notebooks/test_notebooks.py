"""Every notebook is committed clean, and runs top to bottom in fast mode."""

import ast
import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
HANGS = (
    3600  # seconds after which a cell is taken to hang; how long they take is told by make bench
)
WAITS = "skip-execution"  # the tag of cells that train, or need what was trained

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the notebooks folder, so that what they write lands nowhere else."""
    return Path(
        shutil.copytree(NOTEBOOKS[0].parent, tmp_path_factory.mktemp("series") / "notebooks")
    )


@pytest.mark.slow
@each_notebook
def test_runs(path: Path, series: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORKBENCH_FAST", "1")
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    notebook = nbformat.read(series / path.name, as_version=4)
    place = {"metadata": {"path": series}}
    NotebookClient(notebook, timeout=HANGS, skip_cells_with_tag="", resources=place).execute()
    assert complaints(notebook) == []


@each_notebook
def test_a_dashboard_can_leave_out_the_cells_that_train(path: Path):
    """Voilà shows nothing until every cell has run, and nobody can press Start before that."""
    notebook = nbformat.read(path, as_version=4)
    missing: set[str] = set()
    for cell in code_cells(notebook):
        tree = ast.parse(cell.source)
        trains = any(isinstance(node, ast.Await) or is_training(node) for node in ast.walk(tree))
        needed = missing & names(tree, ast.Load)
        if WAITS in cell.metadata.get("tags", []):
            missing |= names(tree, ast.Store)
        else:
            assert not trains, f"tag this cell {WAITS!r}, because it trains:\n{cell.source}"
            assert not needed, f"{needed} come from a cell that trains; tag this one too"
            missing -= names(tree, ast.Store)


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


def is_training(node: ast.AST) -> bool:
    """Whether this calls ``training.train`` or begins what a panel shows."""
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("train", "resume", "begin", "run_sweep", "calibrated_norm")
    )


def names(tree: ast.AST, context: type[ast.expr_context]) -> set[str]:
    """The names that are read (``ast.Load``) or bound (``ast.Store``), by imports too."""
    found = {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, context)
    }
    if context is ast.Store:
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                found |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    return found
