"""The table of past runs: picked ones are read, unreadable ones are told, one can be resumed."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from workbench import training
from workbench.config import RunConfig
from workbench.panels.run.past_runs import PastRuns
from workbench.privacy.accountant import written_epsilon


@pytest.fixture
def runs(config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One run, of four steps, in ``runs/``."""
    monkeypatch.chdir(tmp_path)
    training.train(config, run_dir=tmp_path / "runs" / "first")
    return tmp_path / "runs"


@pytest.fixture
def told() -> list[Any]:
    return []


@pytest.fixture
def past(told: list[Any]) -> PastRuns:
    table = PastRuns(
        on_shown=lambda: told.append("shown"), on_resume=told.append, going=lambda: None
    )
    table.refresh()
    return table


def test_a_row_says_what_was_asked_spent_and_learnt(runs: Path, past: PastRuns):
    (row,) = past.table.rows
    summary = training.read_run(runs / "first").summary
    cells = dict(zip(past.table.columns, row["cells"], strict=True))
    assert cells["run"] == "first"
    assert (cells["state"], cells["steps"]) == ("done", "4 of 4")
    assert cells["ε"] == written_epsilon(summary["guarantee"]["epsilon"])
    assert cells["perplexity"] == f"{summary['heldout_perplexity']:.0f}"
    assert (cells["σ"], cells["C"], cells["B"]) == ("0.8", "1", "30")
    assert not row["resumable"]


def test_a_picked_run_is_read_and_told(runs: Path, past: PastRuns, told: list[Any]):
    past.table.shown = {"A": past.table.rows[0]["id"]}
    assert past.metrics["A"].equals(training.read_run(runs / "first").metrics)
    assert told == ["shown"]


def test_a_picked_run_that_was_tampered_with_is_not_shown(runs: Path, past: PastRuns):
    ledger = runs / "first" / "ledger.jsonl"
    text = ledger.read_text(encoding="utf-8").replace(
        '"noise_multiplier": 0.8', '"noise_multiplier": 9'
    )
    ledger.write_text(text, encoding="utf-8")
    past.table.shown = {"A": past.table.rows[0]["id"]}
    assert past.metrics == {}
    assert "do not rely on its ε" in past.note.value


def test_a_run_that_is_gone_is_no_longer_picked(runs: Path, past: PastRuns):
    past.table.shown = {"A": past.table.rows[0]["id"]}
    shutil.rmtree(runs / "first")
    past.refresh()
    assert (past.table.rows, past.table.shown, past.metrics) == ([], {}, {})
    assert "No runs here yet" in past.note.value


def test_the_run_that_is_going_is_not_a_past_one(runs: Path):
    past = PastRuns(
        on_shown=lambda: None, on_resume=lambda _: None, going=lambda: Path("runs/first")
    )
    past.refresh()
    assert past.table.rows == []


def test_resume_names_a_run_of_the_table_or_nothing(runs: Path, past: PastRuns, told: list[Any]):
    past.table._handle_custom_msg({"resume": "/etc"}, [])
    assert told == []
    past.table._handle_custom_msg({"resume": past.table.rows[0]["id"]}, [])
    assert told == [Path("runs/first")]
