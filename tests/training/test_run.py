"""Whole runs on a tiny corpus: what they take, what they keep, and how they end."""

import json
import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from workbench import privacy, training
from workbench.config import RunConfig
from workbench.errors import InputError
from workbench.runs.ledger import Terms, read
from workbench.runs.report import perplexity
from workbench.training import RunResult, StepReport, models, prepare, session, start, step
from workbench.training.randomness import Randomness


def _run(config: RunConfig, path: Path, **changes: Any) -> tuple[RunResult, list[StepReport]]:
    reports: list[StepReport] = []
    changed = config.with_changes({k.replace("__", "."): v for k, v in changes.items()})
    result = training.train(changed, run_dir=path, on_step=reports.append)
    return result, reports


def _weights(result: RunResult) -> dict[str, torch.Tensor]:
    checkpoint = training.read_run(result.run_dir).checkpoint
    assert checkpoint is not None
    return load_file(checkpoint / "model.safetensors")


def _equal(one: RunResult, other: RunResult) -> bool:
    a, b = _weights(one), _weights(other)
    return all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_leaves_everything_its_folder_promises(config: RunConfig, tmp_path: Path) -> None:
    result, reports = _run(config, tmp_path / "run")
    record = training.read_run(result.run_dir)
    names = {path.name for path in result.run_dir.iterdir()}
    assert names == {
        "config.yaml",
        "metrics.parquet",
        "ledger.jsonl",
        "checkpoints",
        "summary.json",
        "corpus.key",
        ".lock",
    }
    assert record.config == config
    assert record.metrics["step"].tolist() == [0, 1, 2, 3, 4] == [r.step for r in reports]
    assert record.summary["state"] == "done" == result.state
    assert record.summary["samples"] == result.samples
    assert result.samples.keys() == {"before", "after"}
    assert record.summary["guarantee"]["epsilon"] == result.guarantee.epsilon
    assert training.verify(result.run_dir) == result.guarantee


def test_epsilon_is_that_of_the_steps_taken(config: RunConfig, tmp_path: Path) -> None:
    result, reports = _run(config, tmp_path / "run")
    spent = privacy.epsilon(0.8, result.sample_rate, 4, 1e-5)
    assert result.guarantee.epsilon == spent == reports[-1].epsilon
    for report in reports[1:]:
        true = privacy.epsilon(0.8, result.sample_rate, report.step, 1e-5)
        assert report.epsilon >= true
        assert not report.epsilon_exact or report.epsilon == true


def test_the_losses_are_the_means_that_a_report_says(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines of any length, so that a mean over records is not one over tokens."""
    config = config.with_changes({"corpus.record_tokens": 60, "training.steps": 1})
    drawn, draw = [], step.poisson_batch

    def drawing(*args: Any, **kwargs: Any) -> np.ndarray:
        drawn.append(draw(*args, **kwargs))
        return drawn[-1]

    monkeypatch.setattr(step, "poisson_batch", drawing)
    _, reports = _run(config, tmp_path / "run")
    prepared = prepare.prepare(config)

    def means(of: prepare.Examples) -> tuple[float, float]:
        """Over records and over tokens, further apart than float32 is coarse."""
        losses = models.record_losses(prepared.model, of.tokens, of.labels).detach().double()
        counts = (of.labels[:, 1:] >= 0).sum(dim=1)
        both = float(losses.mean()), float((losses * counts).sum() / counts.sum())
        assert both[0] != pytest.approx(both[1], rel=1e-5)
        return both

    assert reports[1].loss == pytest.approx(
        means(prepared.training[torch.from_numpy(drawn[0])])[0], rel=1e-6
    )
    assert reports[0].heldout_loss == pytest.approx(means(prepared.heldout)[1], rel=1e-6)


def test_a_summary_that_states_another_guarantee_is_refused(
    config: RunConfig, tmp_path: Path
) -> None:
    """Whatever a panel shows of the run is read from there."""
    result, _ = _run(config, tmp_path / "run")
    file = tmp_path / "run" / "summary.json"
    summary = json.loads(file.read_text("utf-8"))

    def stating(**changes: Any) -> None:
        changed = {**summary, "guarantee": {**summary["guarantee"], **changes}}
        file.write_text(json.dumps(changed), "utf-8")

    for changes in ({"epsilon": 0.1}, {"epsilon": None}, {"delta": 1e-9}, {"unit": "user"}):
        stating(**changes)
        with pytest.raises(InputError, match=r"states another guarantee .* ε = \d.*ledger's alone"):
            training.verify(tmp_path / "run")
    stating(epsilon=result.guarantee.epsilon * (1 + 1e-5))  # as another version may round
    assert training.verify(tmp_path / "run") == result.guarantee
    file.write_text(json.dumps({**summary, "guarantee": None}), "utf-8")
    assert training.verify(tmp_path / "run") == result.guarantee


def test_a_run_that_failed_within_a_step_states_what_its_ledger_holds(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step was recorded, and the weights never moved."""
    taken, take_step = [], step.take_step

    def failing(*args: Any, **kwargs: Any) -> None:
        taken.append(take_step(*args, **kwargs) if len(taken) < 2 else 1 / 0)

    monkeypatch.setattr(step, "take_step", failing)
    with pytest.raises(ZeroDivisionError):
        _run(config, tmp_path / "run")
    record = training.read_run(tmp_path / "run")
    assert (record.summary["steps"], record.ledger.steps) == (2, 3)
    spent = record.ledger.guarantee()
    assert record.summary["guarantee"] == spent.as_dict()
    assert training.verify(tmp_path / "run") == spent


def test_equal_configurations_give_equal_weights_and_another_seed_others(
    config: RunConfig, tmp_path: Path
) -> None:
    one, same = (_run(config, tmp_path / name)[0] for name in "ab")
    other, _ = _run(config, tmp_path / "c", seed=1)
    assert _equal(one, same)
    assert not _equal(one, other)


@pytest.fixture
def same_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs draw the same batches and noise whatever their ``runtime``, to be compared."""
    usual = start.seeded

    def drawn(chance: Randomness, fingerprint: str | None) -> Randomness:
        return usual(chance, "the same")

    monkeypatch.setattr(start, "seeded", drawn)


@pytest.mark.usefixtures("same_chance")
def test_the_physical_batch_changes_rounding_only(config: RunConfig, tmp_path: Path) -> None:
    """The same records and the same noise; float32 sums in another order, grown by four steps."""
    one, reports = _run(config, tmp_path / "a", runtime__physical_batch_size=3)
    other, others = _run(config, tmp_path / "b", runtime__physical_batch_size=64)
    assert [r.batch_size for r in reports] == [r.batch_size for r in others]
    for name, weight in _weights(one).items():
        torch.testing.assert_close(weight, _weights(other)[name], rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("same_chance")
@pytest.mark.parametrize("engine", ["hooks", "reference"])
def test_every_engine_trains_the_same(config: RunConfig, tmp_path: Path, engine: str) -> None:
    one, _ = _run(config, tmp_path / "a", runtime__engine=engine)
    other, _ = _run(config, tmp_path / "b")
    for name, weight in _weights(one).items():
        torch.testing.assert_close(weight, _weights(other)[name], rtol=1e-3, atol=1e-4)


def test_the_step_is_on_disk_before_the_weights_move(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded, take_step = [], step.take_step

    def watched(*args: Any, **kwargs: Any) -> None:
        recorded.append(read(tmp_path / "run" / "ledger.jsonl").steps)
        take_step(*args, **kwargs)

    monkeypatch.setattr(step, "take_step", watched)
    _run(config, tmp_path / "run")
    assert recorded == [1, 2, 3, 4]


def test_an_empty_batch_is_a_step_like_any_other(config: RunConfig, tmp_path: Path) -> None:
    """One record expected of about sixty: a third of the batches are empty."""
    result, reports = _run(
        config, tmp_path / "run", training__expected_batch_size=1, training__steps=12
    )
    empty = [r for r in reports[1:] if r.batch_size == 0]
    assert empty
    assert all(math.isnan(r.loss) and r.gradient_norms.size == 0 for r in empty)
    assert all(r.predicted_noise_to_signal > 0 or r.batch_size == 0 for r in reports[1:])
    assert training.read_run(result.run_dir).ledger.steps == 12


def test_the_measured_noise_is_as_loud_as_predicted(config: RunConfig, tmp_path: Path) -> None:
    """Its norm over d ≈ 3 000 coordinates is σC√d to within a few per cent."""
    _, reports = _run(config, tmp_path / "run")
    for report in reports[1:]:
        ratio = report.noise_to_signal / report.predicted_noise_to_signal
        assert ratio == pytest.approx(1, abs=0.1)


def test_cancel_finishes_the_step_and_reports_what_was_spent(
    config: RunConfig, tmp_path: Path
) -> None:
    stop = threading.Event()
    result = training.train(
        config,
        run_dir=tmp_path / "run",
        stop=stop,
        on_step=lambda report: stop.set() if report.step == 2 else None,
    )
    assert (result.state, result.reason, result.steps) == ("cancelled", "cancelled", 2)
    assert result.guarantee.epsilon == privacy.epsilon(0.8, result.sample_rate, 2, 1e-5)
    assert training.read_run(result.run_dir).summary["state"] == "cancelled"


def test_a_failing_run_keeps_what_it_has_and_says_so(config: RunConfig, tmp_path: Path) -> None:
    def fail(report: StepReport) -> None:
        if report.step == 3:
            raise RuntimeError("the cat walked over the keyboard")

    with pytest.raises(RuntimeError, match="cat"):
        training.train(config, run_dir=tmp_path / "run", on_step=fail)
    record = training.read_run(tmp_path / "run")
    assert record.summary["state"] == "failed"
    assert "cat" in record.summary["error"]
    assert record.ledger.steps == 3
    assert record.checkpoint is not None


def test_a_target_is_kept_by_the_run(config: RunConfig, tmp_path: Path) -> None:
    result, _ = _run(
        config, tmp_path / "run", privacy__noise_multiplier=None, privacy__target_epsilon=6.0
    )
    assert 5.9 < training.verify(result.run_dir).epsilon <= 6.0


def test_a_budget_stops_before_the_step_that_would_exceed_it(
    config: RunConfig, tmp_path: Path
) -> None:
    result, reports = _run(config, tmp_path / "run", privacy__max_epsilon=14.0, training__steps=40)
    assert (result.state, result.reason) == ("done", "budget")
    assert result.guarantee.epsilon <= 14.0
    assert privacy.epsilon(0.8, result.sample_rate, result.steps + 1, 1e-5) > 14.0
    assert reports[-1].step == result.steps


def test_patience_and_time_end_a_run_and_are_named(config: RunConfig, tmp_path: Path) -> None:
    settings = {"training__evaluate_every": 1, "training__learning_rate": 1e-9}
    result, _ = _run(
        config, tmp_path / "a", training__patience=2, training__steps=400,
        training__optimizer="sgd", **settings,
    )  # fmt: skip
    assert result.reason == "patience"
    assert result.steps < 400
    result, _ = _run(config, tmp_path / "b", training__max_minutes=1e-9, **settings)
    assert (result.reason, result.steps) == ("time", 1)


def test_a_schedule_is_trained_and_accounted_as_written(config: RunConfig, tmp_path: Path) -> None:
    result, reports = _run(
        config,
        tmp_path / "run",
        schedule__noise={"kind": "linear", "end_factor": 0.5, "stages": 4},
        schedule__batch={"kind": "step", "end_factor": 0.5},
        schedule__max_grad_norm={"kind": "step", "end_factor": 0.1},
    )
    used = [(r.noise_multiplier, r.expected_batch_size, r.max_grad_norm) for r in reports[1:]]
    n = training.read_run(result.run_dir).summary["records"]["training"]
    recorded = training.read_run(result.run_dir).ledger.every_step
    assert recorded == tuple((sigma, batch / n, bound) for sigma, batch, bound in used)
    assert [batch for _, batch, _ in used] == [30, 30, 15, 15]
    history = [(sigma, batch / n, 1) for sigma, batch, _ in used]
    assert training.verify(result.run_dir).epsilon == pytest.approx(
        privacy.compose(history, 1e-5), rel=5e-3
    )


def test_adaptive_clipping_moves_c_and_spends_no_more(config: RunConfig, tmp_path: Path) -> None:
    changes = {
        "privacy__clipping": "adaptive",
        "privacy__max_grad_norm": 50.0,
        "privacy__clip_learning_rate": 0.5,
        "training__steps": 12,
    }
    result, reports = _run(config, tmp_path / "run", **changes)
    bounds = [r.max_grad_norm for r in reports[1:]]
    assert bounds[0] == 50.0
    assert bounds[-1] < 20.0
    assert result.guarantee.epsilon == privacy.epsilon(0.8, result.sample_rate, 12, 1e-5)


def test_the_twin_without_privacy_is_plain_training(config: RunConfig, tmp_path: Path) -> None:
    result, reports = _run(config, tmp_path / "run", privacy__private=False)
    assert result.guarantee.epsilon == math.inf == reports[-1].epsilon
    assert all(r.noise_to_signal == 0 for r in reports[1:] if r.batch_size)
    summary = json.loads((result.run_dir / "summary.json").read_text("utf-8"))
    assert summary["guarantee"]["epsilon"] is None
    assert not summary["private"]
    assert training.verify(result.run_dir).epsilon == math.inf


def test_secure_runs_differ_and_leave_no_seed(config: RunConfig, tmp_path: Path) -> None:
    one, other = (_run(config, tmp_path / name, randomness="secure")[0] for name in "ab")
    assert not _equal(one, other)
    state = next((one.run_dir / "checkpoints").glob("*/state.json"))
    assert json.loads(state.read_text("utf-8"))["sampling"] is None


def test_a_run_that_diverges_says_what_to_do_and_is_told_as_failed(
    config: RunConfig, tmp_path: Path
) -> None:
    changes = {"training__learning_rate": 1e30, "training__evaluate_every": 1}
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        _run(config, tmp_path / "run", **changes)
    summary = training.read_run(tmp_path / "run").summary
    assert summary["state"] == "failed"
    assert "lower the learning rate" in summary["error"]


def test_the_perplexity_of_a_huge_loss_is_infinite() -> None:
    assert perplexity(1e4) == math.inf
    assert math.isnan(perplexity(math.nan))
    assert perplexity(1.0) == math.e


def test_frequent_evaluations_do_not_ask_the_accountant_more_often(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, guarantee = [], Terms.guarantee

    def counting(self: Terms, history: Any) -> Any:
        asked.append(history)
        return guarantee(self, history)

    monkeypatch.setattr(Terms, "guarantee", counting)
    _, reports = _run(
        config, tmp_path / "run", training__steps=50, training__evaluate_every=1,
        privacy__accountant="rdp",
    )  # fmt: skip
    assert len(asked) <= 24
    assert reports[-1].epsilon_exact


def test_bf16_forward_passes_train_float32_weights(config: RunConfig, tmp_path: Path) -> None:
    result, reports = _run(config, tmp_path / "run", runtime__precision="bf16")
    assert all(np.isfinite(r.gradient_norms).all() for r in reports)
    assert {w.dtype for w in _weights(result).values()} == {torch.float32}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"training__expected_batch_size": 10**6}, "training.expected_batch_size is 1000000"),
        ({"privacy__sampling": "shuffle"}, "privacy.sampling is 'shuffle'"),
        ({"privacy__neighbouring_relation": "replace_one"}, "replacing one moves the sum"),
        ({"privacy__noise_multiplier": 0.005}, "noise_multiplier is 0.005 but accounting starts"),
        (
            {"schedule__noise": {"kind": "exponential", "end_factor": 0.001}},
            "but accounting starts at 0.01",
        ),
        ({"corpus__source": "/gone.txt"}, "Cannot read corpus.source /gone.txt"),
        ({"model__source": "/gone"}, "model.source"),
        ({"corpus__long_records": "refuse"}, "longer than corpus.record_tokens"),
        ({"runtime__engine": "ghost"}, "it is tied"),
        ({"training__steps": None, "training__epochs": 1e20}, "training.epochs is 1e"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_written(
    config: RunConfig, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError, match=says) as refusal:
        _run(config, tmp_path / "run", **changes)
    assert "\n" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_of_another_model_is_refused_before_anything_is_written(
    config: RunConfig, tmp_path: Path
) -> None:
    prepared, folder = prepare.prepare(config), tmp_path / "model"
    prepared.tokenizer.save_pretrained(folder)
    prepared.model.resize_token_embeddings(200, mean_resizing=False)
    prepared.model.save_pretrained(folder)
    with pytest.raises(
        InputError, match=r"gives token \d+ but the model beside it has 200"
    ) as said:
        _run(config, tmp_path / "run", model__source=str(folder))
    assert "\n" not in str(said.value)
    assert list(tmp_path.iterdir()) == [folder]
    prepared.model.resize_token_embeddings(len(prepared.tokenizer), mean_resizing=False)
    prepared.model.save_pretrained(folder)
    assert _run(config, tmp_path / "run", model__source=str(folder))[0].state == "done"


def test_a_run_that_goes_on_is_refused_before_anything_is_written(
    config: RunConfig, tmp_path: Path
) -> None:
    stop, run = threading.Event(), tmp_path / "run"
    stop.set()
    training.train(config, run_dir=run, stop=stop)
    (run / "config.yaml").write_text(
        config.with_changes({"runtime.engine": "ghost"}).to_yaml(), "utf-8"
    )
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="it is tied"):
        training.resume(run)
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.parametrize("source", ["tiny-llama", "tiny-gpt2"])
def test_trying_the_engine_out_moves_no_bit(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    tried, _ = _run(config, tmp_path / "a", model__source=source)
    monkeypatch.setattr(step.Stepper, "try_out", lambda self: None)
    untried, _ = _run(config, tmp_path / "b", model__source=source)
    assert _equal(tried, untried)


def test_a_run_outlives_a_change_of_the_working_directory(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    result = training.train(
        config, run_dir="run", on_step=lambda report: monkeypatch.chdir(elsewhere)
    )
    assert result.run_dir == tmp_path / "run"
    assert training.read_run(tmp_path / "run").summary["state"] == "done"


def test_a_pause_is_no_training(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever follows holds the run for an hour after step 2, by a clock of our own."""
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 0.001
        return now

    def hold(report: StepReport) -> None:
        nonlocal now
        now += 3600 * (report.step == 2)

    monkeypatch.setattr(session.time, "perf_counter", clock)
    limited = config.with_changes({"training.max_minutes": 1})
    result = training.train(limited, run_dir=tmp_path / "run", on_step=hold)
    assert (result.reason, result.steps) == ("all steps", 4)
    assert result.minutes < 1


def test_a_run_whose_accounting_fails_says_so(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("no answer")

    monkeypatch.setattr(Terms, "guarantee", fails)
    with pytest.raises(RuntimeError, match="no answer"):
        training.train(config, run_dir=tmp_path / "run")
    summary = training.read_run(tmp_path / "run").summary
    assert (summary["state"], summary["guarantee"]) == ("failed", None)


@pytest.mark.parametrize(("precision", "forward"), [("float32", "ieee"), ("tf32", "tf32")])
def test_what_the_process_has_set_reaches_no_sum(
    config: RunConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    forward: str,
) -> None:
    """TF32 keeps ten bits; norms and sums in it would disagree. Read on any machine."""
    matmul, seen = torch.backends.cuda.matmul, list[tuple[str, Any]]()
    losses, summed = models.record_losses, step.clipped_gradient_sum

    def noted(name: str, real: Any) -> Any:
        return lambda *a, **k: seen.append((name, matmul.fp32_precision)) or real(*a, **k)

    monkeypatch.setattr(models, "record_losses", noted("forward", losses))
    monkeypatch.setattr(step, "clipped_gradient_sum", noted("sum", summed))
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32"
    try:
        _run(config, tmp_path / "run", runtime__precision=precision)
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = before
    assert set(seen) == {("forward", forward), ("sum", "ieee")}


def test_apples_gpu_is_taken_only_where_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was measured on one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert prepare._device("auto").type == "cpu"
    assert prepare._device("mps").type == "mps"


def test_a_folder_that_holds_something_is_never_written_over(
    config: RunConfig, tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="exists and is not empty"):
        _run(config, tmp_path)
    blocked = tmp_path / "file"
    blocked.write_text("a file, not a folder")
    with pytest.raises(InputError, match="Cannot write the run folder"):
        _run(config, blocked / "run")
