"""A run goes on from where it was, with the weights it would have had and an honest ledger."""

import json
import math
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from safetensors.torch import load_file

from workbench import privacy, training
from workbench.config import RunConfig
from workbench.errors import InputError
from workbench.runs.ledger import Ledger, read
from workbench.training import run as run_module
from workbench.training import session, start, step

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bias-corrected": {"training.optimizer": "adamw_bc", "training.learning_rate": 1e-4},
    "momentum": {"training.optimizer": "sgd", "training.warmup_steps": 3},
    "adaptive": {"privacy.clipping": "adaptive", "training.learning_rate_schedule": "cosine"},
    "scheduled": {
        "schedule.noise": {"kind": "linear", "end_factor": 0.5},
        "schedule.batch": {"kind": "step", "end_factor": 0.5},
    },
    "not private": {"privacy.private": False},
}


@pytest.fixture
def long(config: RunConfig) -> RunConfig:
    """Seven steps, evaluated and saved after every third."""
    return config.with_changes({"training.steps": 7, "training.evaluate_every": 3})


def _weights(run_dir: Path) -> dict[str, torch.Tensor]:
    checkpoint = training.read_run(run_dir).checkpoint
    assert checkpoint is not None
    return load_file(checkpoint / "model.safetensors")


def _same_end(one: Path, other: Path) -> None:
    """Bit for bit the same weights and, but for the clock, the same metrics."""
    a, b = _weights(one), _weights(other)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    clock = ["seconds", "tokens_per_second", "memory_mb", "epsilon"]
    metrics = [training.read_run(path).metrics.drop(columns=clock) for path in (one, other)]
    assert metrics[0].equals(metrics[1])


def _stopped(config: RunConfig, path: Path, *, after: int) -> None:
    stop = threading.Event()
    training.train(
        config, run_dir=path, stop=stop, on_step=lambda r: stop.set() if r.step == after else None
    )


def _crashed(config: RunConfig, path: Path, patch: pytest.MonkeyPatch, *, at: int) -> None:
    """Fail between the ledger and the weights of step ``at``."""
    with _failing(patch, at=at):
        training.train(config, run_dir=path)


def _crashed_again(path: Path, patch: pytest.MonkeyPatch, *, at: int) -> None:
    """Resume and fail in the same way at the session's own step ``at``."""
    with _failing(patch, at=at):
        training.resume(path)


@contextmanager
def _failing(patch: pytest.MonkeyPatch, *, at: int) -> Iterator[None]:
    real, calls = step.take_step, iter(range(1, 100))

    def failing(*args: Any, **kwargs: Any) -> None:
        if next(calls) == at:
            raise RuntimeError("power cut")
        real(*args, **kwargs)

    with patch.context() as patched:
        patched.setattr(step, "take_step", failing)
        with pytest.raises(RuntimeError, match="power cut"):
            yield


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_stopped_run_ends_as_if_it_had_not_been(
    long: RunConfig, tmp_path: Path, variant: str
) -> None:
    config = long.with_changes(VARIANTS[variant])
    training.train(config, run_dir=tmp_path / "whole")
    _stopped(config, tmp_path / "stopped", after=4)
    result = training.resume(tmp_path / "stopped")
    assert (result.state, result.steps) == ("done", 7)
    _same_end(tmp_path / "whole", tmp_path / "stopped")
    assert training.verify(tmp_path / "stopped") == training.verify(tmp_path / "whole")
    assert read(tmp_path / "stopped" / "ledger.jsonl").resumed_at == (4,)


@pytest.mark.parametrize("at", [1, 3, 5, 7])
def test_a_crash_between_ledger_and_weights_loses_nothing(
    long: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    training.train(long, run_dir=tmp_path / "whole")
    _crashed(long, tmp_path / "run", monkeypatch, at=at)
    assert read(tmp_path / "run" / "ledger.jsonl").steps == at
    training.resume(tmp_path / "run")
    _same_end(tmp_path / "whole", tmp_path / "run")
    # The steps taken again had the same batches and noise: one release each.
    assert read(tmp_path / "run" / "ledger.jsonl").steps == 7


def test_a_second_crash_and_a_second_resume(
    long: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training.train(long, run_dir=tmp_path / "whole")
    _crashed(long, tmp_path / "run", monkeypatch, at=5)
    stop = threading.Event()
    training.resume(
        tmp_path / "run", stop=stop, on_step=lambda r: stop.set() if r.step == 4 else None
    )
    assert read(tmp_path / "run" / "ledger.jsonl").steps == 5
    training.resume(tmp_path / "run")
    _same_end(tmp_path / "whole", tmp_path / "run")
    assert read(tmp_path / "run" / "ledger.jsonl").resumed_at == (3, 4)


def test_steps_taken_again_with_new_noise_are_counted_again(
    long: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = long.with_changes({"randomness": "secure"})
    _crashed(config, tmp_path / "run", monkeypatch, at=5)
    result = training.resume(tmp_path / "run")
    assert result.steps == 7
    assert read(tmp_path / "run" / "ledger.jsonl").steps == 9  # five, and the last four again
    assert result.guarantee.epsilon == privacy.epsilon(0.8, result.sample_rate, 9, 1e-5)
    assert training.verify(tmp_path / "run") == result.guarantee


def test_a_budget_is_kept_although_steps_were_lost(
    long: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = {"privacy.noise_multiplier": None, "privacy.target_epsilon": 8.0}
    config = long.with_changes({"randomness": "secure", **target})
    _crashed(config, tmp_path / "run", monkeypatch, at=5)
    result = training.resume(tmp_path / "run")
    assert (result.reason, result.steps) == ("budget", 5)
    assert 7.9 < training.verify(tmp_path / "run").epsilon <= 8.0


def test_a_run_that_is_done_has_nothing_left_to_do(long: RunConfig, tmp_path: Path) -> None:
    done = training.train(long, run_dir=tmp_path / "run")
    again = training.resume(tmp_path / "run")
    assert (again.steps, again.guarantee) == (done.steps, done.guarantee)
    assert again.heldout_loss == done.heldout_loss


def test_a_cut_ledger_is_refused(long: RunConfig, tmp_path: Path) -> None:
    _stopped(long, tmp_path / "run", after=4)
    path = tmp_path / "run" / "ledger.jsonl"
    path.write_text("".join(path.read_text("utf-8").splitlines(keepends=True)[:-1]), "utf-8")
    _refused(tmp_path / "run", "does not end where")
    _forget_the_end(tmp_path / "run")
    _refused(tmp_path / "run", "the ledger was cut")


def _refused(run_dir: Path, says: str) -> None:
    """Neither gone on with nor vouched for."""
    for look in (training.resume, training.verify):
        with pytest.raises(InputError, match=says):
            look(run_dir)


def _forget_the_end(run_dir: Path) -> None:
    """Leave the summary as that of a killed run, which names no last line."""
    summary = json.loads((run_dir / "summary.json").read_text("utf-8"))
    (run_dir / "summary.json").write_text(json.dumps({**summary, "ledger_head": None}), "utf-8")


def test_weights_of_another_run_are_refused(long: RunConfig, tmp_path: Path) -> None:
    """Weights trained without privacy, as many steps, beside a private run's ledger."""
    _stopped(long, tmp_path / "run", after=4)
    _stopped(long.with_changes({"privacy.private": False}), tmp_path / "twin", after=4)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    shutil.copytree(tmp_path / "twin" / "checkpoints", tmp_path / "run" / "checkpoints")
    for asked in (training.resume, training.verify):
        with pytest.raises(InputError, match="or the weights are another run's"):
            asked(tmp_path / "run")


def test_other_terms_than_at_the_beginning_are_refused(long: RunConfig, tmp_path: Path) -> None:
    _stopped(long, tmp_path / "run", after=4)
    for changes in ({"privacy.delta": 1e-3}, {"privacy.accountant": "rdp"}):
        _edited(tmp_path / "run", changes)
        with pytest.raises(InputError, match="was begun with"):
            training.resume(tmp_path / "run")


def _edited(run_dir: Path, changes: dict[str, Any]) -> None:
    config = training.read_run(run_dir).config.with_changes(changes)
    (run_dir / "config.yaml").write_text(config.to_yaml(), "utf-8")


def _drawn(patch: pytest.MonkeyPatch) -> tuple[list[tuple[int, ...]], list[float]]:
    """The batches and a number of the noise of all steps from here on."""
    batches: list[tuple[int, ...]] = []
    noises: list[float] = []
    draw, make_noise = step.poisson_batch, step.gaussian_noise

    def drawing(*args: Any, **kwargs: Any) -> Any:
        batch = draw(*args, **kwargs)
        batches.append(tuple(batch))
        return batch

    def noising(*args: Any, **kwargs: Any) -> Any:
        noise = make_noise(*args, **kwargs)
        noises.append(float(next(iter(noise.values())).flatten()[0]))
        return noise

    patch.setattr(step, "poisson_batch", drawing)
    patch.setattr(step, "gaussian_noise", noising)
    return batches, noises


def _another_device(run_dir: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(start, "fingerprint", lambda *_: None)


def _other_threads(run_dir: Path, patch: pytest.MonkeyPatch) -> None:
    _edited(run_dir, {"runtime.threads": 2})


def _an_edited_configuration(run_dir: Path, patch: pytest.MonkeyPatch) -> None:
    _edited(run_dir, {"runtime.engine": "reference"})


def _a_corpus_that_moved(run_dir: Path, patch: pytest.MonkeyPatch) -> None:
    source = Path(training.read_run(run_dir).config.corpus.source)
    _edited(run_dir, {"corpus.source": str(shutil.copy(source, run_dir.with_name("moved.txt")))})


@pytest.mark.parametrize(
    "elsewhere",
    [_another_device, _other_threads, _an_edited_configuration, _a_corpus_that_moved],
)
def test_lost_steps_are_paid_and_drawn_anew_where_they_may_come_out_differently(
    long: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: Any
) -> None:
    """The old noise on another sum would let out the difference of the two."""
    with monkeypatch.context() as patched:
        batches, noises = _drawn(patched)
        _crashed(long, tmp_path / "run", monkeypatch, at=5)
        assert len(batches) == 5
        elsewhere(tmp_path / "run", patched)
        training.resume(tmp_path / "run")
    assert len(batches) == 9 == read(tmp_path / "run" / "ledger.jsonl").steps
    assert len(set(batches)) == len(set(noises)) == 9


def test_steps_taken_elsewhere_in_between_are_not_taken_for_the_lost_ones(
    long: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Crash, resume on another device, crash, and back again: 2 + 2 lost steps, all paid."""
    _crashed(long, tmp_path / "run", monkeypatch, at=5)
    with monkeypatch.context() as patched:
        _another_device(tmp_path / "run", patched)
        _crashed_again(tmp_path / "run", patched, at=2)
    assert read(tmp_path / "run" / "ledger.jsonl").steps == 7
    result = training.resume(tmp_path / "run")
    assert read(tmp_path / "run" / "ledger.jsonl").steps == 7 + 4
    assert result.guarantee.epsilon == privacy.epsilon(0.8, result.sample_rate, 11, 1e-5)


def test_a_ledger_that_grew_while_it_was_read_is_refused(
    long: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process had the run until now: what it spent would be missing."""
    _stopped(long, tmp_path / "run", after=4)
    prepared = run_module.prepare

    def meanwhile(config: RunConfig, **coins: Any) -> Any:
        path = tmp_path / "run" / "ledger.jsonl"
        head = read(path).head
        with Ledger.resumed(path, recorded=4, same_noise=True, head=head) as other:
            other.record_step(noise_multiplier=0.8, sample_rate=0.5, max_grad_norm=1.0)
        return prepared(config, **coins)

    with monkeypatch.context() as patched:
        patched.setattr(run_module, "prepare", meanwhile)
        with pytest.raises(InputError, match="still being written"):
            training.resume(tmp_path / "run")
    assert read(tmp_path / "run" / "ledger.jsonl").steps == 5


def test_a_line_cut_short_by_a_crash_is_taken_away(long: RunConfig, tmp_path: Path) -> None:
    _stopped(long, tmp_path / "run", after=4)
    path = tmp_path / "run" / "ledger.jsonl"
    with path.open("a", encoding="utf-8") as file:
        file.write('{"step": 5, "noise_mul')
    training.resume(tmp_path / "run")
    assert read(path).steps == 7


def test_two_processes_do_not_write_one_run(long: RunConfig, tmp_path: Path) -> None:
    _stopped(long, tmp_path / "run", after=4)
    path = tmp_path / "run" / "ledger.jsonl"
    holder = (
        "import sys; from pathlib import Path; from workbench.runs.ledger import Ledger, read\n"
        "path = Path(sys.argv[1]); head = read(path).head\n"
        "with Ledger.resumed(path, recorded=4, same_noise=True, head=head):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="being written by another process"):
            training.resume(tmp_path / "run")
        other.communicate("")
    assert training.resume(tmp_path / "run").steps == 7


def test_another_step_in_the_place_of_a_recorded_one_is_noticed(
    long: RunConfig, tmp_path: Path
) -> None:
    """A changed configuration would otherwise hide behind the lines of the old one."""
    _stopped(long, tmp_path / "run", after=4)
    path = tmp_path / "run" / "ledger.jsonl"
    with (
        Ledger.resumed(path, recorded=3, same_noise=True, head=read(path).head) as ledger,
        pytest.raises(InputError, match=r"noise_multiplier 0\.1.* but the ledger has it with"),
    ):
        ledger.record_step(noise_multiplier=0.1, sample_rate=0.5, max_grad_norm=1.0)


def test_a_stop_in_a_step_that_is_evaluated_changes_nothing(
    long: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Patience counts evaluations; one left out would end the run elsewhere."""
    config = long.with_changes({"training.patience": 1, "training.learning_rate": 0.3})
    training.train(config, run_dir=tmp_path / "whole")
    stop, real, taken = threading.Event(), step.take_step, iter(range(1, 100))

    def stopping(*args: Any, **kwargs: Any) -> None:
        real(*args, **kwargs)
        if next(taken) == 3:
            stop.set()

    with monkeypatch.context() as patched:
        patched.setattr(step, "take_step", stopping)
        assert training.train(config, run_dir=tmp_path / "run", stop=stop).state == "cancelled"
    training.resume(tmp_path / "run")
    _same_end(tmp_path / "whole", tmp_path / "run")


def test_weights_that_are_not_the_saved_ones_are_noticed(long: RunConfig, tmp_path: Path) -> None:
    _stopped(long, tmp_path / "run", after=4)
    twin = long.with_changes({"privacy.private": False})
    _stopped(twin, tmp_path / "twin", after=4)
    mine, others = (training.read_run(tmp_path / name).checkpoint for name in ("run", "twin"))
    assert mine is not None
    assert others is not None
    shutil.copy(others / "model.safetensors", mine / "model.safetensors")
    _refused(tmp_path / "run", "is not what was saved there")


def test_a_ledger_cut_after_its_run_ended_does_not_go_on(
    long: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights of step 3 are saved, but steps 4 and 5 were spent as well."""
    _crashed(long, tmp_path / "run", monkeypatch, at=5)
    path = tmp_path / "run" / "ledger.jsonl"
    path.write_text("".join(path.read_text("utf-8").splitlines(keepends=True)[:-2]), "utf-8")
    _refused(tmp_path / "run", "does not end where")


def test_a_kill_as_a_run_goes_on_leaves_no_false_alarm(
    long: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Just before and just after the ledger's line that says it goes on."""
    _stopped(long, tmp_path / "run", after=4)
    real = Ledger.go_on

    def before(_: Ledger, **__: Any) -> NoReturn:
        raise KeyboardInterrupt

    def after(ledger: Ledger, **said: Any) -> NoReturn:
        real(ledger, **said)
        raise KeyboardInterrupt

    for killed in (before, after):
        with monkeypatch.context() as patched:
            patched.setattr(Ledger, "go_on", killed)
            with pytest.raises(KeyboardInterrupt):
                training.resume(tmp_path / "run")
        training.verify(tmp_path / "run")
    assert training.resume(tmp_path / "run").steps == 7


@pytest.mark.parametrize("look", [training.verify, training.read_run])
def test_the_ledger_is_read_after_all_that_it_must_hold(
    long: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look: Any
) -> None:
    """A run that is going adds to it, and saves weights, between any two reads."""
    _stopped(long, tmp_path / "run", after=4)
    module = sys.modules[look.__module__]
    order = []

    def noting(name: str) -> None:
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda path: order.append(name) or real(path))

    for name in ("read_summary", "checkpoints", "read_ledger"):
        noting(name)
    look(tmp_path / "run")
    assert order == ["read_summary", "checkpoints", "read_ledger"]


def test_a_run_is_saved_by_the_clock_where_evaluations_are_rare(
    long: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_SAVE_SECONDS", 0.0)
    monkeypatch.setattr(session, "_SAVE_SHARE", math.inf)
    saved = []

    def look(report: training.StepReport) -> None:
        checkpoint = training.read_run(tmp_path / "run").checkpoint
        saved.append((report.step, checkpoint and checkpoint.name))

    rare = long.with_changes({"training.evaluate_every": 9, "training.steps": 8})
    stop = threading.Event()
    training.train(
        rare,
        run_dir=tmp_path / "run",
        stop=stop,
        on_step=lambda report: look(report) or (stop.set() if report.step == 3 else None),
    )
    training.resume(tmp_path / "run", on_step=look)
    assert saved == [(n, f"step-{n:06d}") for n in range(9)]


def test_what_is_no_checkpoint_and_no_table_is_passed_over(long: RunConfig, tmp_path: Path) -> None:
    """A copy made by hand; a table that a power cut has emptied, which costs its rows alone."""
    _stopped(long, tmp_path / "run", after=4)
    checkpoint = training.read_run(tmp_path / "run").checkpoint
    assert checkpoint is not None
    shutil.copytree(checkpoint, checkpoint.with_name(f"{checkpoint.name} (copy)"))
    (tmp_path / "run" / "metrics.parquet").write_bytes(b"")
    assert training.read_run(tmp_path / "run").checkpoint == checkpoint
    assert training.resume(tmp_path / "run").steps == 7


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a run folder"):
        training.resume(tmp_path)


def test_a_run_killed_in_its_first_step_starts_again(
    long: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> NoReturn:
        raise KeyboardInterrupt

    training.train(long, run_dir=tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr(step, "take_step", killed)
        patched.setattr("workbench.runs.folder.RunFolder.write_metrics", lambda _: None)
        with pytest.raises(KeyboardInterrupt):
            training.train(long, run_dir=tmp_path / "run")
    assert training.read_run(tmp_path / "run").metrics.empty
    training.resume(tmp_path / "run")
    _same_end(tmp_path / "whole", tmp_path / "run")
