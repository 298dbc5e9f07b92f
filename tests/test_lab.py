"""``workbench lab``: what it opens, what it switches off, and how it refuses."""

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from workbench import lab
from workbench.cli import main
from workbench.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / lab.FIRST_NOTEBOOK).touch()
    return tmp_path


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The arguments of every JupyterLab that would have been started."""
    import jupyterlab.labapp

    starts: list[list[str]] = []
    monkeypatch.setattr(jupyterlab.labapp, "main", starts.append)
    return starts


def test_jupyterlab_opens_the_first_notebook_and_asks_nobody(
    folder: Path, started: list[list[str]]
):
    command = ["lab", "--notebooks", str(folder), "--port", "8890", "--no-browser"]
    assert CliRunner().invoke(main, command).exit_code == 0
    [arguments] = started
    assert f"--ServerApp.root_dir={folder}" in arguments
    assert f"--LabApp.default_url=/lab/tree/{lab.FIRST_NOTEBOOK}" in arguments
    assert "--LabApp.news_url=None" in arguments
    assert arguments[-3:] == ["--port", "8890", "--no-browser"]


def test_every_start_has_a_workspace_of_its_own(folder: Path, started: list[list[str]]):
    lab.open_lab(notebooks=folder)
    lab.open_lab(notebooks=folder)
    workspaces = [
        next(text for text in arguments if "workspaces_dir" in text) for arguments in started
    ]
    assert len(set(workspaces)) == 2
    assert not Path(workspaces[0].partition("=")[2]).exists()


def test_a_missing_jupyterlab_is_answered_in_one_sentence(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "jupyterlab", None)
    result = CliRunner().invoke(main, ["lab"])
    assert result.exit_code == 2
    assert result.output.count("\n") == 1
    assert "JupyterLab is not installed" in result.output


def test_a_folder_without_the_series_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="has no 00_start_here"):
        lab.notebooks_folder(tmp_path)
