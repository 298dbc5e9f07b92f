"""A run's rows and its folder: what is kept of each step, and where a run may begin."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workbench import training
from workbench.config import RunConfig
from workbench.errors import InputError
from workbench.runs.folder import METRICS, checkpoints, metrics_row
from workbench.runs.report import StepReport, perplexity
from workbench.runs.stopping import Watch, reason_to_stop


def report(**changes: Any) -> StepReport:
    known: dict[str, Any] = {
        "step": 3,
        "steps": 9,
        "loss": math.log(4.0),
        "heldout_loss": None,
        "epsilon": 1.5,
        "epsilon_steps": 3,
        "gradient_norms": np.arange(11, dtype=np.float32),
        "clipped_fraction": 0.25,
        "batch_size": 11,
        "noise_multiplier": 0.8,
        "expected_batch_size": 10,
        "max_grad_norm": 1.0,
        "learning_rate": 0.01,
        "noise_to_signal": 2.0,
        "predicted_noise_to_signal": 2.1,
        "tokens_per_second": 100.0,
        "memory_mb": 300.0,
        "seconds": 1.0,
        "eta_seconds": 2.0,
    }
    return StepReport(**{**known, **changes})


def test_a_row_has_a_value_for_every_column_and_quantiles_of_the_norms() -> None:
    row = metrics_row(report())
    assert list(row) == METRICS
    assert (row["norm_p10"], row["norm_median"], row["norm_p90"]) == (1, 5, 9)
    assert row["perplexity"] == pytest.approx(4.0)
    assert (row["step"], row["epsilon"], row["batch_size"]) == (3, 1.5, 11)


def test_a_row_of_a_step_without_records_or_evaluation_has_gaps() -> None:
    row = metrics_row(report(gradient_norms=np.zeros(0, np.float32), loss=math.nan))
    gaps = {name for name, value in row.items() if math.isnan(value)}
    norms = {"norm_p10", "norm_median", "norm_p90"}
    assert gaps == {"loss", "perplexity", "heldout_loss", "heldout_loss_tail", *norms}
    assert metrics_row(report(heldout_loss=2.5))["heldout_loss"] == 2.5


def test_perplexity_is_infinite_only_beyond_what_a_float_holds() -> None:
    assert perplexity(0.0) == 1.0
    assert math.isfinite(perplexity(709.0))
    assert perplexity(710.0) == math.inf
    assert math.isnan(perplexity(math.nan))


def test_checkpoints_are_in_the_order_of_their_steps(tmp_path: Path) -> None:
    for name in ("step-10", "step-9", "step-000011", "step-1000000", ".step-5.partial", "step-"):
        (tmp_path / name).mkdir()
    names = [path.name for path in checkpoints(tmp_path)]
    assert names == ["step-9", "step-10", "step-000011", "step-1000000"]
    assert checkpoints(tmp_path / "nowhere") == []


def test_an_empty_folder_may_become_a_run_and_a_file_or_a_full_one_may_not(
    config: RunConfig, tmp_path: Path
) -> None:
    empty, full, file = tmp_path / "empty", tmp_path / "full", tmp_path / "file"
    empty.mkdir()
    full.mkdir()
    (full / "notes.txt").write_text("mine", "utf-8")
    file.write_text("mine", "utf-8")
    for taken in (full, file):
        with pytest.raises(InputError, match="not empty"):
            training.train(config, run_dir=taken)
    assert [path.name for path in full.iterdir()] == ["notes.txt"]
    assert file.read_text("utf-8") == "mine"
    short = config.with_changes({"training.steps": 1})
    assert training.train(short, run_dir=empty).run_dir == empty
    assert training.verify(empty).epsilon > 0


def test_rows_of_steps_that_are_taken_again_are_not_there_twice(
    config: RunConfig, tmp_path: Path
) -> None:
    """Saved after two of four steps, lost after three."""

    def losing(report: training.StepReport) -> None:
        if report.step == 3:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        training.train(config, run_dir=tmp_path / "run", on_step=losing)
    assert training.read_run(tmp_path / "run").metrics["step"].tolist() == [0, 1, 2, 3]
    training.resume(tmp_path / "run")
    assert training.read_run(tmp_path / "run").metrics["step"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("patience", "minutes", "since", "seconds", "reason"),
    [
        (None, None, 99, 1e9, None),
        (2, None, 1, 0.0, None),
        (2, None, 2, 0.0, "patience"),
        (None, 2.0, 0, 119.9, None),
        (None, 2.0, 0, 120.0, "time"),
        (1, 2.0, 1, 120.0, "patience"),
    ],
)
def test_a_run_ends_at_its_patience_and_its_time(
    config: RunConfig,
    patience: int | None,
    minutes: float | None,
    since: int,
    seconds: float,
    reason: str | None,
) -> None:
    asked = config.with_changes(
        {"training.patience": patience, "training.max_minutes": minutes}
    ).training
    assert reason_to_stop(asked, Watch(1.0, since), seconds) == reason


def test_patience_begins_anew_with_every_better_loss_and_only_then() -> None:
    watch = Watch()
    seen = []
    for loss in (3.0, 3.0, 2.0, 2.5, 2.0, 1.9):
        watch = watch.after(loss)
        seen.append((watch.best_loss, watch.evaluations_since))
    assert seen == [(3.0, 0), (3.0, 1), (2.0, 0), (2.0, 1), (2.0, 2), (1.9, 0)]
