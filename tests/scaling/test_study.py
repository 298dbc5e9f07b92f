"""The study: every run once, whatever ends it, and rows that say what was measured."""

import json
import math
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from distributed import Client

from workbench import training
from workbench.cli import main
from workbench.config import RunConfig
from workbench.errors import InputError
from workbench.scaling import fit
from workbench.scaling.study import Progress, due, estimate, run_study
from workbench.scaling.study_blocks import BASE, BLOCKS, StudyRun
from workbench.scaling.study_plans import register
from workbench.scaling.study_rates import Rates
from workbench.scaling.study_rows import COLUMNS, StudyData

TEXT = "\n\n".join(f"paragraph {i} tells {'more ' * (i % 9)}of {i * i}" for i in range(90))


def tiny_runs(_: Rates) -> Iterator[StudyRun]:
    """One of each arm, in ten steps at most."""
    run = StudyRun("D", "private", 8, 20, 0.01, 0, 4, 2)
    yield StudyRun(**{**vars(run), "noise_batch_ratio": 2.0**-6})
    yield StudyRun(**{**vars(run), "target_epsilon": 8.0, "steps": None, "subset": 0.6})
    yield StudyRun(**{**vars(run), "arm": "clipped", "noise_batch_ratio": 0.0})
    yield StudyRun(**{**vars(run), "arm": "twin"})


@pytest.fixture(autouse=True)
def blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BLOCKS, "D", tiny_runs)


@pytest.fixture
def base(tmp_path: Path) -> RunConfig:
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    return BASE.with_changes(
        {
            "corpus.source": str(tmp_path / "text.txt"),
            "corpus.min_words": 1,
            "corpus.record_tokens": 16,
            "corpus.heldout_fraction": 0.2,
            "corpus.public_fraction": 0.2,
            "model.layers": 1,
            "model.heads": 2,
            "model.vocabulary": 280,
        }
    )


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the sweep's cells in the order in which they were trained."""
    seen: list[str] = []
    train = training.train

    def watched(config: RunConfig, **options: object) -> object:
        seen.append(str(options["run_dir"]))
        return train(config, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "train", watched)
    return seen


def measure(
    base: RunConfig, folder: Path, client: Client, out: str = "runs", **more: object
) -> dict[str, int]:
    return run_study(
        ["D"],
        data=folder / "rows",
        out=folder / out,
        scheduler=client,
        base=base,
        **more,  # type: ignore[arg-type]
    )


def rows(folder: Path, block: str = "D") -> pd.DataFrame:
    return StudyData(folder / "rows").rows(block)


def test_rows_say_what_was_measured(base: RunConfig, tmp_path: Path, client: Client) -> None:
    told: list[Progress] = []
    assert measure(base, tmp_path, client, on_progress=told.append) == {"D": 0}
    assert told[0] == Progress("D", 0, 4)
    assert told[-1] == Progress("D", 4, 4)
    frame = rows(tmp_path)
    assert tuple(frame.columns) == COLUMNS
    runs = {run.id: run for run in tiny_runs(Rates({}, {}))}
    assert set(frame["run"]) == set(runs)
    last = frame.groupby("run").tail(1).set_index("run")
    for name, run in runs.items():
        row, config = last.loc[name], base.with_changes(run.changes())
        folder = next(p for p in (tmp_path / "runs/D/cells").glob("*/run") if _is_of(p, config))
        record = training.read_run(folder)
        assert row["step"] == row["steps"] == record.summary["steps"]
        assert row["loss"] == pytest.approx(record.summary["heldout_loss"], abs=1e-6)
        assert row["loss_tail"] == pytest.approx(record.summary["heldout_loss_tail"], abs=1e-6)
        assert row["bits_per_byte"] == pytest.approx(
            record.summary["heldout_bits_per_byte"], abs=1e-6
        )
        per_record = record.summary["training_tokens"] / row["records"]
        assert row["tokens"] == round(row["step"] * 20 * per_record)
        assert row["compute"] == pytest.approx(row["tokens"] * row["flops_per_token"], rel=1e-5)
        assert row["privacy_unit"] == "chunk"
        # ε only where one was certified: what has no noise has none.
        if run.arm == "private":
            epsilon = training.verify(folder).epsilon
            assert row["epsilon"] == pytest.approx(epsilon, rel=1e-5)
            assert row["noise_batch_ratio"] == pytest.approx(row["noise_multiplier"] / 20)
        else:
            assert math.isnan(row["epsilon"])
            assert row["noise_batch_ratio"] == 0
    (note,) = json.loads((tmp_path / "rows/D.json").read_text(encoding="utf-8"))
    assert set(note["runs"]) == set(runs)
    assert note["torch"]
    corpus = json.loads((tmp_path / "rows/corpus.json").read_text(encoding="utf-8"))
    assert corpus["unique_tokens"] == frame["unique_tokens"].max()
    # Frequencies alone predict worse than a guess only where they mislead.
    assert 0 < corpus["unigram_loss"] < math.log(corpus["vocabulary"])
    # A law takes them as they are.
    with pytest.raises(InputError, match="different points"):
        fit(frame, law="chinchilla")


def _is_of(folder: Path, config: RunConfig) -> bool:
    return RunConfig.load(folder / "config.yaml") == config


def test_a_run_with_rows_is_not_trained_again(
    base: RunConfig, tmp_path: Path, client: Client, trained: list[str]
) -> None:
    measure(base, tmp_path, client)
    assert len(trained) == len(set(trained)) == 4
    before = (tmp_path / "rows/D.csv").read_bytes()
    measure(base, tmp_path, client)
    measure(base, tmp_path, client, out="elsewhere")  # as from a clean clone
    assert len(trained) == 4
    assert (tmp_path / "rows/D.csv").read_bytes() == before


def test_it_goes_on_from_a_part_of_the_rows(
    base: RunConfig, tmp_path: Path, client: Client, trained: list[str]
) -> None:
    measure(base, tmp_path, client)
    whole = sorted(map(tuple, rows(tmp_path)[["run", "step"]].to_numpy()))
    lines = (tmp_path / "rows/D.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    first = lines[1].split(",")[0]
    kept = [lines[0], *(line for line in lines[1:] if line.startswith(first))]
    (tmp_path / "rows/D.csv").write_text("".join(kept), encoding="utf-8")
    assert len(due("D", StudyData(tmp_path / "rows"))) == 3
    measure(base, tmp_path, client, out="elsewhere")
    assert len(trained) == 4 + 3
    again = rows(tmp_path)
    assert (tmp_path / "rows/D.csv").read_text(encoding="utf-8").startswith("".join(kept))
    evaluations = ["run", "step"]
    assert sorted(map(tuple, again[evaluations].to_numpy())) == whole


def test_stopped_it_keeps_what_is_done_and_goes_on(
    base: RunConfig, tmp_path: Path, client: Client, trained: list[str]
) -> None:
    stop = threading.Event()

    def stop_after_two(progress: Progress) -> None:
        if progress.measured == 2:
            stop.set()

    left = measure(base, tmp_path, client, stop=stop, on_progress=stop_after_two)
    assert 0 < left["D"] <= 2
    assert len(set(rows(tmp_path)["run"])) == 4 - left["D"]
    assert measure(base, tmp_path, client) == {"D": 0}
    assert len(set(rows(tmp_path)["run"])) == 4
    assert len(trained) == len(set(trained)) == 4


def test_killed_between_a_run_s_end_and_its_rows_it_trains_nothing_twice(
    base: RunConfig,
    tmp_path: Path,
    client: Client,
    trained: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as dying:
        dying.setattr(StudyData, "add", _killed)
        with pytest.raises(KeyboardInterrupt):
            measure(base, tmp_path, client)
    assert rows(tmp_path).empty
    assert measure(base, tmp_path, client) == {"D": 0}
    assert len(set(rows(tmp_path)["run"])) == 4
    assert len(trained) == len(set(trained)) == 4


def test_rows_appear_whole_or_not_at_all(
    base: RunConfig, tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(base, tmp_path, client)
    data, frame = StudyData(tmp_path / "rows"), rows(tmp_path)
    before = (tmp_path / "rows/D.csv").read_bytes()
    monkeypatch.setattr(os, "fsync", _killed)
    with pytest.raises(KeyboardInterrupt):
        data.add("D", frame.assign(run="D-another"), {})
    assert (tmp_path / "rows/D.csv").read_bytes() == before


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_diverged_run_is_measured_too(
    base: RunConfig, tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverging(_: Rates) -> Iterator[StudyRun]:
        yield StudyRun("D", "twin", 8, 20, 1e20, 0, 4, 2)

    monkeypatch.setitem(BLOCKS, "D", diverging)
    assert measure(base, tmp_path, client) == {"D": 0}
    (row,) = rows(tmp_path).to_dict(orient="records")
    assert row["state"] == "diverged"
    assert math.isnan(row["loss"])
    assert row["n_params"] > 0


def test_a_failure_is_told_and_tried_again(
    base: RunConfig, tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as failing:
        failing.setattr(training, "train", lambda *_, **__: 1 / 0)
        with pytest.raises(InputError, match=r"4 runs of block D have failed \(.*again"):
            measure(base, tmp_path, client)
    assert rows(tmp_path).empty
    assert measure(base, tmp_path, client) == {"D": 0}


def test_rates_wait_until_the_whole_pilot_is_measured(
    base: RunConfig, tmp_path: Path, client: Client
) -> None:
    measure(base, tmp_path, client)
    data = StudyData(tmp_path / "rows")
    found = data.rates()
    assert len(found.pilot) == 3  # no noise, and two ratios
    frame = rows(tmp_path)
    frame[frame["run"] != frame["run"].iloc[-1]].to_csv(tmp_path / "rows/D.csv", index=False)
    assert not data.rates().pilot


def test_the_surface_waits_until_all_of_its_runs_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of the grid would answer for what nobody has measured."""
    runs = list(tiny_runs(Rates({}, {})))
    monkeypatch.setitem(BLOCKS, "A", tiny_runs)
    data = StudyData(tmp_path)

    def kept(block: str, count: int) -> None:
        told = [
            dict.fromkeys(COLUMNS, 1.0)
            | {"run": run.id, "arm": run.arm, "state": state, "step": step, "steps": 4}
            | {"noise_batch_ratio": run.noise_batch_ratio or 0.0, "loss_tail": 3.0}
            for run, state in zip(runs[:count], ["done", "done", "done", "diverged"], strict=False)
            for step in (2, 4)
        ]
        pd.DataFrame(told)[list(COLUMNS)].to_csv(tmp_path / f"{block}.csv", index=False)

    kept("A", 4)
    assert data.surface().empty  # its rates stem from block D
    kept("D", 4)
    assert len(set(data.surface()["run"])) == 3  # without the one that diverged
    assert data.surface()["steps"].tolist() == [2, 4] * 3
    kept("A", 3)
    assert data.surface().empty


def test_planned_runs_are_block_g(base: RunConfig, tmp_path: Path, client: Client) -> None:
    run = next(tiny_runs(Rates({}, {})))
    predicted = {"predicted_loss": 5.0, "low": 4.0, "high": 6.0}
    register(tmp_path / "rows", [(run, predicted)], predicted_from="a test")
    left = run_study(
        ["G"], data=tmp_path / "rows", out=tmp_path / "runs", scheduler=client, base=base
    )
    assert left == {"G": 0}
    assert set(rows(tmp_path, "G")["block"]) == {"G"}


def test_times_are_of_what_is_due(base: RunConfig, tmp_path: Path) -> None:
    times = estimate(["D", "A"], tmp_path / "rows", base)
    assert set(times) == {"D"}  # A has no rates yet
    assert 0 < times["D"] < 3600


def test_a_folder_of_something_else_is_refused(base: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows/D.csv").write_text("run,loss\n1,2\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"D\.csv has no column block, arm"):
        run_study(["D"], data=tmp_path / "rows", out=tmp_path / "runs", base=base)


def test_the_command_names_unknown_blocks() -> None:
    result = CliRunner().invoke(main, ["study", "--block", "Q"])
    assert result.exit_code == 2
    assert "There is no block 'Q'; choose one of D, A, F" in result.output
