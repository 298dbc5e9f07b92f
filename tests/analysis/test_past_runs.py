"""Past runs as a table: certified where it can be known, and never a guess."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from workbench import training
from workbench.analysis.past_runs import past_runs
from workbench.config import RunConfig


@pytest.fixture
def kept(config: RunConfig, tmp_path: Path) -> Path:
    training.train(config, run_dir=tmp_path / "a")
    return tmp_path


def change_summary(run: Path, **changes: Any) -> None:
    path = run / "summary.json"
    summary = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.write_text(json.dumps(summary), encoding="utf-8")


def test_a_finished_run_is_read_from_its_summary(kept: Path, config: RunConfig):
    (run,) = past_runs([kept])
    assert (run.state, run.steps, run.steps_planned, run.problem) == ("done", 4, 4, "")
    assert run.config == config
    assert run.epsilon == training.verify(kept / "a").epsilon
    assert not run.resumable


def test_a_killed_run_is_asked_of_its_ledger(kept: Path):
    change_summary(kept / "a", state="running", steps=None, guarantee=None)
    (run,) = past_runs([kept])
    assert (run.state, run.steps, run.resumable) == ("unfinished", 4, True)
    assert run.epsilon == training.read_run(kept / "a").ledger.guarantee().epsilon


def test_a_failed_run_says_why_and_can_be_resumed(kept: Path):
    change_summary(kept / "a", state="failed", error="OSError: no space left")
    (run,) = past_runs([kept])
    assert (run.state, run.problem, run.resumable) == ("failed", "OSError: no space left", True)


def test_a_run_whose_accounting_failed_is_a_run(kept: Path, config: RunConfig):
    """What its folder says then: `test_a_run_whose_accounting_fails_says_so` of training."""
    change_summary(kept / "a", state="failed", error="No answer.", guarantee=None, steps=3)
    (run,) = past_runs([kept])
    assert (run.state, run.problem, run.resumable) == ("failed", "No answer.", True)
    assert (run.steps, run.config) == (3, config)
    assert math.isnan(run.epsilon)


def test_a_twin_has_spent_without_bound(config: RunConfig, tmp_path: Path):
    training.train(config.with_changes({"privacy.private": False}), run_dir=tmp_path / "twin")
    (run,) = past_runs([tmp_path])
    assert run.epsilon == math.inf


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("summary.json", "[]", "is not the summary of a run"),
        ("summary.json", '{"state": "done"}', "is not the summary of a run"),
        ("config.yaml", "privacy: {delta: 2}", "privacy.delta is 2"),
    ],
)
def test_what_cannot_be_read_is_a_line_that_says_so(
    kept: Path, file: str, content: str, problem: str
):
    (kept / "a" / file).write_text(content, encoding="utf-8")
    (run,) = past_runs([kept])
    assert run.state == "unreadable"
    assert problem in run.problem
    assert not run.resumable


def test_the_newest_comes_first_and_other_folders_are_left_out(config: RunConfig, kept: Path):
    training.train(config, run_dir=kept / "b")
    change_summary(kept / "b", began="2031-01-01T00:00:00+00:00")
    (kept / "notes").mkdir()
    (kept / "file").write_text("", encoding="utf-8")
    assert [run.path.name for run in past_runs([kept, kept, kept / "missing"])] == ["b", "a"]
