"""Training in a terminal: the same run as in a notebook, a bar, Ctrl-C, and plain refusals."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import yaml
from click.testing import CliRunner, Result

from workbench import terminal, training
from workbench.cli import main
from workbench.config import RunConfig
from workbench.sweeps.folder import CellFolder
from workbench.sweeps.sweep import read_sweep


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
    counts = record.summary["records"]
    assert f"Records: {counts['training']} private to train on" in result.stderr
    assert counts["truncated"] > 0
    assert f"{counts['truncated']} cut at corpus.record_tokens" in result.stderr
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
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_a_signal_finishes_the_step_and_leaves_a_run_to_go_on(
    file: Path, config: RunConfig, tmp_path: Path, name: str
) -> None:
    """In a process of its own, told to stop as soon as its bar shows a step."""
    long = config.with_changes({"training.steps": 100_000, "training.evaluate_every": 100_000})
    file.write_text(long.to_yaml(), "utf-8")
    with _started("train", str(file), "--run-dir", str(tmp_path / "run")) as process:
        shown = _read_until(process, b"loss=")
        process.send_signal(getattr(signal, name))
        output, rest = process.communicate()
    assert process.returncode == 130
    assert b"Finishing the step in hand" in shown + rest
    assert b"Cancelled after" in output
    _stopped_well(tmp_path / "run")


@contextmanager
def _started(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "workbench", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    watchdog = threading.Timer(500, process.kill)
    watchdog.start()
    try:
        with process:
            yield process
    finally:
        watchdog.cancel()


def _read_until(process: subprocess.Popen[bytes], words: bytes) -> bytes:
    """Standard error up to these words; all of it if they never come."""
    assert process.stderr is not None
    shown = b""
    while words not in shown and (part := process.stderr.read(1)):
        shown += part
    return shown


def _stopped_well(run_dir: Path) -> None:
    """Weights, summary and ledger are of the same step, and say so."""
    record = training.read_run(run_dir)
    assert record.summary["state"] == "cancelled"
    assert record.ledger.steps == record.summary["steps"] > 0
    assert record.checkpoint is not None
    assert record.checkpoint.name == f"step-{record.summary['steps']:06d}"
    assert training.verify(run_dir).epsilon > 0


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_a_second_signal_acts_as_it_would_have_before(name: str) -> None:
    """That is, it ends at once; whichever came first."""
    number = getattr(signal, name)
    kept = {each: signal.getsignal(each) for each in terminal._SIGNALS}
    with terminal.stop_on_signals() as stop:
        assert not stop.is_set()
        assert signal.getsignal(number) != kept[number]
        os.kill(os.getpid(), number)
        assert stop.is_set()
        assert {each: signal.getsignal(each) for each in terminal._SIGNALS} == kept
    with terminal.stop_on_signals() as stop:
        pass
    assert {each: signal.getsignal(each) for each in terminal._SIGNALS} == kept
    assert not stop.is_set()


def test_torchrun_may_repeat_a_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its processes have had it already where the whole group was told to stop."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with terminal.stop_on_signals() as stop:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.is_set()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_sweep_takes_every_signal_for_ctrl_c(name: str) -> None:
    kept = signal.getsignal(getattr(signal, name))
    with pytest.raises(KeyboardInterrupt), terminal.interrupted_by_signals():
        os.kill(os.getpid(), getattr(signal, name))
    assert signal.getsignal(getattr(signal, name)) == kept


@pytest.mark.slow
def test_a_signal_to_all_processes_stops_a_run_of_two(
    file: Path, config: RunConfig, tmp_path: Path
) -> None:
    """As SLURM and docker reach them, also twice; torchrun itself is left alone."""
    long = config.with_changes({"training.steps": 100_000, "training.evaluate_every": 100_000})
    file.write_text(long.to_yaml(), "utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "workbench", "train", str(file)]
    process = subprocess.Popen(
        [*command, "--run-dir", str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    with process:
        _read_until(process, b"loss=")
        for worker in psutil.Process(process.pid).children():
            worker.terminate()
            worker.terminate()
        process.communicate()
    _stopped_well(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_a_signal_stops_a_sweep_after_the_steps_in_hand(
    config: RunConfig, tmp_path: Path, name: str
) -> None:
    """To all of its processes at once, as a shell or SLURM sends it."""
    long = {"training": {**config.training.model_dump(), "steps": 100_000}}
    base = yaml.safe_dump({**config.model_dump(mode="json"), **long})
    indented = base.replace("\n", "\n  ").rstrip()
    (tmp_path / "sweep.yaml").write_text(f"base:\n  {indented}\ngrid:\n  seed: [0]\n", "utf-8")
    folder = tmp_path / "sweep"
    with _started("sweep", str(tmp_path / "sweep.yaml"), "--out", str(folder)) as process:
        # The bar is drawn anew whenever a cell has got further.
        while not any(CellFolder(cell).steps_so_far() for cell in folder.glob("cells/*")):
            assert _read_until(process, b"running=1")
        children = psutil.Process(process.pid).children(recursive=True)
        for child in children:
            if "resource_tracker" not in " ".join(child.cmdline()):
                child.send_signal(getattr(signal, name))
        process.send_signal(getattr(signal, name))
        _, rest = process.communicate()
    assert process.returncode == 130, rest
    frame = read_sweep(folder)
    assert frame.attrs["state"] == "interrupted"
    assert list(frame["state"]) == ["interrupted"], frame["error"]
    _stopped_well(folder / str(frame["folder"].iloc[0]))


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
