"""Whole audits, from folders to the verdict and the command line."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result

from tests.audit.conftest import Learnt
from workbench import audit, training
from workbench.audit.attack import audit_model, audit_run
from workbench.audit.attacks import Passes
from workbench.audit.records import text_records
from workbench.audit.shadows import shadow_runs, shadow_scores
from workbench.cli import main
from workbench.config import RunConfig
from workbench.errors import InputError

FEW = ["loss", "zlib", "reference"]


def command(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["audit", *map(str, arguments)])


@pytest.fixture(scope="module")
def files(learnt: Learnt, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("files")
    paths = folder / "members.jsonl", folder / "others.csv"
    pd.DataFrame({"text": learnt.members}).to_json(paths[0], orient="records", lines=True)
    pd.DataFrame({"text": learnt.others}).to_csv(paths[1], index=False)
    return paths


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A private run and its twin, of two steps."""
    folder = tmp_path_factory.mktemp("runs")
    corpus = folder / "lines.txt"
    rng = np.random.default_rng(0)
    lines = [" ".join(f"w{w}" for w in rng.integers(0, 99, 6)) for _ in range(160)]
    corpus.write_text("\n".join(lines), encoding="utf-8")
    config = RunConfig.parse(
        {
            "corpus": {
                "source": str(corpus),
                "record": "line",
                "min_words": 1,
                "record_tokens": 24,
                "public_fraction": 0.2,
                "heldout_fraction": 0.4,
            },
            "model": {"width": 8, "layers": 1, "heads": 2, "vocabulary": 270},
            "training": {"expected_batch_size": 30, "steps": 2, "evaluate_every": 2},
            "runtime": {"device": "cpu", "threads": 1},
        }
    )
    training.train(config, run_dir=folder / "private")
    twin = config.with_changes({"privacy.private": False})
    training.train(twin, run_dir=folder / "twin")
    return folder / "private", folder / "twin"


def test_a_model_that_has_learnt_by_heart_is_caught(learnt: Learnt):
    records = text_records(learnt.members, learnt.others, fair_coins=True)
    told = audit_model(
        learnt.folder, records, signals=["loss", "reference"], reference=learnt.fresh
    )
    assert told.verdict.outcome == "leak found"
    assert told["loss"].curve.auc > 0.95
    best = told["loss"].best
    assert best.kind == "certificate"
    assert best.significance == pytest.approx(0.025)  # two signals share it
    assert best.value > 1.0
    assert told.target.told.pooled is not None
    assert len(told.scores) == 2 * len(records)
    assert "Verdict: loss tells members" in str(told) or "Verdict: reference" in str(told)


def test_without_fair_coins_nothing_is_a_certificate(learnt: Learnt):
    told = audit_model(
        learnt.folder, text_records(learnt.members, learnt.others), signals=["loss", "learned"]
    )
    assert {e.kind for result in told.results for e in result.epsilons} == {"estimate"}
    fair = text_records(learnt.members, learnt.others, fair_coins=True)
    looked = audit_model(learnt.folder, fair, signals=["loss", "learned"])
    assert looked["loss"].best.kind == "certificate"
    assert looked["learned"].best.kind == "estimate"
    assert "look at the membership" in looked["learned"].epsilons[0].premise


def test_a_run_with_its_twin(runs: tuple[Path, Path]):
    told = audit_run(runs[0], twin=runs[1], signals=FEW)
    assert told.records.fair_coins
    assert told.guarantee is not None
    assert told.heuristic is not None
    assert told.heuristic.kind == "heuristic"
    assert told.own_curve is not None
    assert not told.own_curve.rejected
    assert told.verdict.outcome == "attack too weak to conclude"
    assert [r.signal for r in told.positive] == FEW
    assert set(told.scores["model"]) == {"private", "twin"}
    assert (runs[0] / "audit" / "cache").is_dir()
    training.verify(runs[0])  # the audit's folder is nothing of the run's
    words = str(told)
    for part in ("accountant (upper bound)", "by the article's own rules", "blind baseline"):
        assert part in words


def test_twins_that_are_none(runs: tuple[Path, Path], tmp_path: Path):
    with pytest.raises(InputError, match="was trained with privacy"):
        audit_run(runs[0], twin=runs[0], signals=["loss"])
    other = training.read_run(runs[1]).config.with_changes({"seed": 5})
    training.train(other, run_dir=tmp_path / "other")
    with pytest.raises(InputError, match="was trained on other records"):
        audit_run(runs[0], twin=tmp_path / "other", signals=["loss"])


def test_shadow_models_know_what_they_were_trained_on(runs: tuple[Path, Path], tmp_path: Path):
    target = training.read_run(runs[0])
    for seed in (0, 1, 2):
        folder = tmp_path / "sweep" / "cells" / str(seed) / "run"
        folder.parent.mkdir(parents=True)
        training.train(target.config.with_changes({"seed": seed}), run_dir=folder)
    found = shadow_runs(tmp_path / "sweep", target)
    assert [record.config.seed for record in found] == [1, 2]  # seed 0 is the target's own split
    records = audit.run_records(target.config)
    shadows = shadow_scores(found, records.texts)
    assert shadows.phi.shape == shadows.inside.shape == (2, len(records))
    from workbench import corpora

    split = corpora.load(target.config.corpus, seed=1)
    assert shadows.inside[0].tolist() == [text in split.training for text in records.texts]
    told = audit_run(runs[0], signals=["loss", "lira_offline"], shadows=tmp_path / "sweep")
    assert told["lira_offline"].missing < len(records)
    with pytest.raises(InputError, match="shadow models need at least 2"):
        shadow_runs(tmp_path, target)


def test_a_stop_loses_nothing(learnt: Learnt, tmp_path: Path):
    import threading

    stop = threading.Event()
    stop.set()
    records = text_records(learnt.members, learnt.others)
    passes = Passes(cache=tmp_path, stop=stop)
    with pytest.raises(audit.CancelledError):
        audit_model(learnt.folder, records, signals=["loss"], passes=passes)
    assert list(tmp_path.glob("*/part-*.parquet"))


def test_the_command_on_files(learnt: Learnt, files: tuple[Path, Path], tmp_path: Path):
    given = ("--model", learnt.folder, "--members", files[0], "--nonmembers", files[1])
    chosen = ("--signal", "loss", "--signal", "zlib", "--out", tmp_path / "out")
    result = command(*given, *chosen)
    assert result.exit_code == 0, result.stderr
    assert "Verdict: " in result.stdout
    written = json.loads((tmp_path / "out" / "audit.json").read_text(encoding="utf-8"))
    assert [signal["signal"] for signal in written["signals"]] == ["loss", "zlib"]
    assert written["signals"][0]["epsilons"][0]["kind"] == "estimate"
    scores = pd.read_parquet(tmp_path / "out" / "scores.parquet")
    assert set(scores["signal"]) == {"loss", "zlib"}
    again = json.loads(command(*given, *chosen, "--json").stdout)
    assert again == written


def test_the_command_on_a_run(runs: tuple[Path, Path]):
    result = command(runs[0], "--signal", "loss", "--records", "60")
    assert result.exit_code == 0, result.stderr
    assert "accountant (upper bound): ε = " in result.stdout
    assert (runs[0] / "audit" / "audit.json").exists()


def test_the_command_answers_bad_input_in_one_line(
    learnt: Learnt, files: tuple[Path, Path], runs: tuple[Path, Path], tmp_path: Path
):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("", encoding="utf-8")
    model = ("--model", learnt.folder)
    both = ("--members", files[0], "--nonmembers", files[1])
    for arguments, words in (
        ((), "Give a RUN, or --model"),
        ((runs[0], *model, *both), "Give a RUN, or --model"),
        (model, "--model needs --members and --nonmembers"),
        ((runs[0], *both), "a RUN knows its own"),
        ((*model, *both, "--shadows", tmp_path), "--shadows is for a RUN"),
        ((tmp_path / "no run", "--signal", "loss"), "is no folder"),
        ((tmp_path,), "no config.json"),
        ((*model, "--members", empty, "--nonmembers", files[1]), "holds no text"),
        ((*model, "--members", files[0], "--nonmembers", files[0]), "texts are among both"),
        ((*model, *both, "--signal", "magic"), "signal magic is not one of"),
        ((*model, *both, "--text-field", "body"), "no field of that name"),
        ((*model, *both, "--significance", "2"), "significance is 2"),
        ((*model, *both, "--delta", "0"), "delta is 0"),
    ):
        result = command(*arguments)
        assert result.exit_code == 2, (arguments, result.output)
        assert words in result.stderr, result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
        assert result.stdout == ""
