"""Training in a terminal: the same run as in a notebook, a bar, Ctrl-C, and plain refusals."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from workbench import training
from workbench.cli import main
from workbench.config import RunConfig


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@pytest.fixture
def file(config: RunConfig, tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(config.to_yaml(), "utf-8")
    return path


def test_train_does_what_the_notebook_does(file: Path, tmp_path: Path) -> None:
    result = run("train", str(file), "--run-dir", str(tmp_path / "run"))
    assert result.exit_code == 0, result.output
    record = training.read_run(tmp_path / "run")
    assert record.config == RunConfig.load(file)
    assert result.stdout.startswith("Done (all steps) after 4 steps")
    assert str(training.verify(tmp_path / "run")) in result.stdout
    assert re.search(r"4/4 .*held-out perplexity=\d+.*loss=.*ε=", result.stderr)


def test_verify_recomputes_epsilon_and_finds_an_edit(file: Path, tmp_path: Path) -> None:
    run("train", str(file), "--run-dir", str(tmp_path / "run"))
    answer = json.loads(run("verify", str(tmp_path / "run"), "--json").stdout)
    assert answer["epsilon"] == training.verify(tmp_path / "run").epsilon
    assert answer["steps"] == 4
    assert "The ledger of 4 steps is whole" in run("verify", str(tmp_path / "run")).stdout
    ledger = tmp_path / "run" / "ledger.jsonl"
    ledger.write_text(ledger.read_text("utf-8").replace("0.8", "1.8", 1), "utf-8")
    result = run("verify", str(tmp_path / "run"))
    assert result.exit_code == 2
    assert "does not fit the chain" in result.stderr


def test_a_run_without_privacy_says_so_in_json(
    file: Path, config: RunConfig, tmp_path: Path
) -> None:
    file.write_text(config.with_changes({"privacy.private": False}).to_yaml(), "utf-8")
    result = run("train", str(file), "--run-dir", str(tmp_path / "run"), "--json")
    assert json.loads(result.stdout)["guarantee"]["epsilon"] is None


def test_a_run_that_diverges_ends_in_one_sentence(file: Path, tmp_path: Path) -> None:
    config = RunConfig.load(file).with_changes({"training.learning_rate": 1e30})
    file.write_text(config.to_yaml(), "utf-8")
    answer = run("train", str(file), "--run-dir", str(tmp_path / "run"))
    assert answer.exit_code == 1
    last = answer.stderr.splitlines()[-1]
    assert last.startswith("workbench: ")
    assert "lower the learning rate" in last


@pytest.mark.slow
def test_ctrl_c_finishes_the_step_and_resume_ends_the_run(
    file: Path, config: RunConfig, tmp_path: Path
) -> None:
    """In a process of its own, interrupted as soon as its bar shows a step."""
    long = config.with_changes({"training.steps": 100_000, "training.evaluate_every": 100_000})
    file.write_text(long.to_yaml(), "utf-8")
    command = [sys.executable, "-m", "workbench", "train", str(file)]
    process = subprocess.Popen(
        [*command, "--run-dir", str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    shown = b""
    while b"loss=" not in shown and (part := process.stderr.read(1)):
        shown += part
    process.send_signal(signal.SIGINT)
    output, rest = process.communicate()
    watchdog.cancel()
    assert process.returncode == 130
    assert b"Finishing the step in hand" in shown + rest
    assert b"Cancelled after" in output
    steps = training.read_run(tmp_path / "run").summary["steps"]
    assert training.verify(tmp_path / "run").epsilon > 0
    assert training.read_run(tmp_path / "run").ledger.steps == steps


def test_resume_goes_on_in_the_same_folder(file: Path, tmp_path: Path) -> None:
    run("train", str(file), "--run-dir", str(tmp_path / "run"))
    result = run("train", "--resume", str(tmp_path / "run"))
    assert result.exit_code == 0, result.output
    assert f"Kept in {tmp_path / 'run'}" in result.stdout


def test_resume_takes_the_file_of_its_run_and_no_other(
    file: Path, config: RunConfig, tmp_path: Path
) -> None:
    folder = str(tmp_path / "run")
    run("train", str(file), "--run-dir", folder)
    assert run("train", str(file), "--resume", folder).exit_code == 0
    file.write_text(config.with_changes({"training.steps": 9}).to_yaml(), "utf-8")
    result = run("train", str(file), "--resume", folder)
    assert result.exit_code == 2
    assert "is not the configuration that" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("train",), "Give a RUN.YAML to start, or --resume RUN"),
        (("train", "--resume", "runs/1", "--run-dir", "x"), "--run-dir is for a new run"),
        (("train", "gone.yaml"), "gone.yaml: No such file"),
        (("train", "--resume", "gone"), "gone is not a run folder"),
        (("verify", "gone"), "gone is not a run folder"),
    ],
)
def test_bad_input_is_one_line_on_standard_error_with_status_2(
    arguments: tuple[str, ...], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("workbench: ")
    assert says in last
