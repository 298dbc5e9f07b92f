"""The tail average is the mean of the weights that it says, and costs the run nothing."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from workbench import training
from workbench.config import RunConfig
from workbench.training import models
from workbench.training.prepare import prepare
from workbench.training.tail import TailAverage


def _walk(model: nn.Linear, steps: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(model.weight.shape, generator=generator) for _ in range(steps)]


def _set(model: nn.Linear, weight: torch.Tensor) -> None:
    with torch.no_grad():
        model.weight.copy_(weight)


@settings(derandomize=True, max_examples=40)
@given(st.integers(1, 40), st.integers(1, 9), st.floats(0.05, 0.95))
def test_it_is_the_mean_over_the_shortest_tail_that_is_long_enough(
    steps: int, every: int, fraction: float
) -> None:
    model, tail = nn.Linear(3, 2, bias=False), TailAverage(fraction)
    weights = _walk(model, steps)
    for step, weight in enumerate(weights, start=1):
        _set(model, weight)
        tail.add(model)
        if step % every == 0 or step == steps:
            tail.evaluated()
            starts = [s for s in range(0, step, every) if step - s >= fraction * step]
            expected = torch.stack(weights[max(starts) : step]).double().mean(dim=0)
            assert tail.steps == step - max(starts)
            assert tail.complete
            found = tail.mean()["weight"]
            # A mean of n float32 numbers, added one by one.
            torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


def test_the_model_has_its_own_weights_again_to_the_last_bit() -> None:
    model, tail = nn.Linear(3, 2, bias=False), TailAverage(0.5)
    for weight in _walk(model, 4):
        _set(model, weight)
        tail.add(model)
    tail.evaluated()
    own = model.weight.detach().clone()
    with tail.in_place(model):
        assert not model.weight.equal(own)
    assert model.weight.equal(own)
    with pytest.raises(ValueError, match="invalid literal"), tail.in_place(model):
        int("no number")
    assert model.weight.equal(own)


def test_it_goes_on_from_its_state() -> None:
    model, one, other = nn.Linear(3, 2, bias=False), TailAverage(0.3), TailAverage(0.3)
    for step, weight in enumerate(_walk(model, 20), start=1):
        _set(model, weight)
        one.add(model)
        if step % 5 == 0:
            one.evaluated()
        if step == 12:
            other.restore(one.state(), taken=12)
        elif step > 12:
            other.add(model)
            if step % 5 == 0:
                other.evaluated()
    assert one.steps == other.steps
    assert one.mean()["weight"].equal(other.mean()["weight"])


def test_without_a_state_it_waits_until_it_has_seen_enough() -> None:
    model, tail = nn.Linear(3, 2, bias=False), TailAverage(0.5)
    tail.restore({}, taken=10)
    tail.add(model)
    tail.evaluated()
    assert not tail.complete
    for _ in range(10):
        tail.add(model)
    tail.evaluated()
    assert tail.complete


@pytest.fixture
def averaged(config: RunConfig) -> RunConfig:
    return config.with_changes(
        {"training.steps": 7, "training.evaluate_every": 3, "training.tail_fraction": 0.4}
    )


def test_a_run_tells_the_loss_of_the_mean_of_its_weights(
    averaged: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    add = TailAverage.add

    def watched(self: TailAverage, model: nn.Module) -> None:
        seen.append({name: w.detach().clone() for name, w in model.named_parameters()})
        add(self, model)

    monkeypatch.setattr(TailAverage, "add", watched)
    training.train(averaged, run_dir=tmp_path / "run")
    record = training.read_run(tmp_path / "run")
    prepared = prepare(averaged)
    told = record.metrics["heldout_loss_tail"].to_numpy()  # a row a step, from step 0
    assert [step for step in range(8) if np.isfinite(told[step])] == [3, 6, 7]
    for step, since in ((3, 0), (6, 3), (7, 3)):
        mean = {
            name: torch.stack([weights[name] for weights in seen[since:step]]).mean(dim=0)
            for name in seen[0]
        }
        prepared.model.load_state_dict(mean, strict=False)
        heldout = prepared.heldout
        expected = models.mean_loss(prepared.model, heldout.tokens, heldout.labels)
        assert told[step] == pytest.approx(expected, rel=1e-5)
    assert record.summary["heldout_loss_tail"] == told[7]


def test_a_resumed_run_has_the_same_tail(averaged: RunConfig, tmp_path: Path) -> None:
    training.train(averaged, run_dir=tmp_path / "whole")
    stop = threading.Event()

    def stop_after_five(report: Any) -> None:
        if report.step == 5:
            stop.set()

    training.train(averaged, run_dir=tmp_path / "parts", stop=stop, on_step=stop_after_five)
    training.resume(tmp_path / "parts")
    whole, parts = (
        training.read_run(tmp_path / name).metrics["heldout_loss_tail"].to_numpy()
        for name in ("whole", "parts")
    )
    assert np.array_equal(whole, parts, equal_nan=True)
    assert np.isfinite(whole).sum() == 3


def test_runs_without_it_tell_none(config: RunConfig, tmp_path: Path) -> None:
    training.train(config, run_dir=tmp_path / "run")
    record = training.read_run(tmp_path / "run")
    assert np.isnan(record.metrics["heldout_loss_tail"].to_numpy()).all()
    assert record.summary["heldout_loss_tail"] is None
