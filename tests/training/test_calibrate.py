"""A clipping norm from quantiles: free of public records, accounted of private, or warned of."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from workbench import corpora, privacy, training
from workbench.clipping.gradient_sum import clipped_gradient_sum
from workbench.config import RunConfig
from workbench.errors import InputError
from workbench.training import calibrate
from workbench.training.models import record_losses
from workbench.training.prepare import prepare
from workbench.training.quantile import noisy_share_below
from workbench.training.sampling import poisson_batch


def _initial_norms(config: RunConfig) -> np.ndarray:
    """One record at a time, at the initial weights."""
    prepared = prepare(config)
    model, tokens, labels = prepared.model, prepared.training.tokens, prepared.training.labels
    clipped = clipped_gradient_sum(
        model, lambda: record_losses(model, tokens, labels), max_grad_norm=1.0, engine="reference"
    )
    return clipped.norms.numpy()


@pytest.mark.parametrize("start", [0.01, 30.0])
def test_noisy_counts_find_the_quantile_and_say_what_they_spent(
    config: RunConfig, start: float
) -> None:
    """Batches of 30 with a noise of 1.5 on the count: the share wavers by a tenth, C by more."""
    config = config.with_changes({"privacy.max_grad_norm": start})
    found = training.calibrated_norm(config, quantile=0.5, source="noisy_counts")
    norms = _initial_norms(config)
    assert found.max_grad_norm == pytest.approx(np.median(norms), rel=0.25)
    n = len(norms)
    assert found.spent == [(2 * 30 / 20, 30 / n, 40)]
    assert privacy.compose(found.spent, 1e-5) > 0
    assert not found.warning


def test_two_quantiles_ask_other_batches(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same batches and noise, the difference of two counts would hold no noise."""
    drawn: list[list[int]] = []

    def recorded(*args: Any, **options: Any) -> np.ndarray:
        drawn.append(poisson_batch(*args, **options).tolist())
        return np.array(drawn[-1])

    monkeypatch.setattr(calibrate, "poisson_batch", recorded)
    for quantile in (0.5, 0.75):
        training.calibrated_norm(config, quantile=quantile, source="noisy_counts")
    half = len(drawn) // 2
    assert drawn[:half] != drawn[half:]


def test_public_norms_are_free_and_private_records_do_not_move_them(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = training.calibrated_norm(config)
    assert (found.spent, found.warning) == ([], "")
    load = corpora.load

    def with_other_private_records(*args: object, **kwargs: object) -> corpora.Records:
        real = load(*args, **kwargs)  # type: ignore[arg-type]
        return corpora.Records(real.public, real.heldout, real.training[::2] + ("else",) * 9)

    monkeypatch.setattr(corpora, "load", with_other_private_records)
    smaller = config.with_changes({"training.expected_batch_size": 9})
    assert training.calibrated_norm(smaller).max_grad_norm != 0
    monkeypatch.setattr(corpora, "load", load)
    expected = training.calibrated_norm(smaller).max_grad_norm
    monkeypatch.setattr(corpora, "load", with_other_private_records)
    assert training.calibrated_norm(smaller).max_grad_norm == expected


def test_the_articles_warm_up_is_offered_with_a_warning(config: RunConfig) -> None:
    found = []
    for quantile in (0.5, 0.75):
        with pytest.warns(UserWarning, match="no ε covers it") as heard:
            found.append(
                training.calibrated_norm(config, quantile=quantile, source="article_warm_up")
            )
        assert heard[0].filename == __file__  # that of whoever asked
        assert found[-1].warning == str(heard[0].message)
    assert found[0].max_grad_norm < found[1].max_grad_norm


def test_what_noisy_counts_spent_is_composed_with_the_ledger(
    config: RunConfig, tmp_path: Path
) -> None:
    """As the docstring says; no run knows of it by itself."""
    found = training.calibrated_norm(config, source="noisy_counts")
    chosen = config.with_changes({"privacy.max_grad_norm": found.max_grad_norm})
    alone = training.train(chosen, run_dir=tmp_path / "run").guarantee.epsilon
    history = training.read_run(tmp_path / "run").ledger.history
    assert privacy.compose(found.spent + history, 1e-5) > alone


def test_calibration_leaves_the_run_as_it_would_have_been(config: RunConfig) -> None:
    before = [p.clone() for p in prepare(config).model.parameters()]
    training.calibrated_norm(config)
    after = list(prepare(config).model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_calibration_draws_other_batches_and_noise_than_the_run(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their costs add up only if they are independent of each other."""
    draw, count, drawn, states = poisson_batch, noisy_share_below, [], []

    def drawing(*args: Any, **kwargs: Any) -> np.ndarray:
        drawn.append(tuple(draw(*args, **kwargs)))
        return np.array(drawn[-1])

    def counting(*args: Any, generator: torch.Generator, **kwargs: Any) -> float:
        states.append(generator.initial_seed())
        return count(*args, generator=generator, **kwargs)

    monkeypatch.setattr(calibrate, "poisson_batch", drawing)
    monkeypatch.setattr(calibrate, "noisy_share_below", counting)
    training.calibrated_norm(config, source="noisy_counts")
    prepared = prepare(config)
    rate, chance = prepared.plan.at(0).sample_rate, prepared.randomness
    n = len(prepared.training)
    of_run = {tuple(draw(n, sample_rate=rate, generator=chance.sampling)) for _ in drawn}
    assert not of_run & set(drawn)
    assert chance.noise.initial_seed() not in states


def test_what_cannot_be_is_refused(config: RunConfig) -> None:
    with pytest.raises(InputError, match=r"quantile is 1\.5"):
        training.calibrated_norm(config, quantile=1.5)
    with pytest.raises(InputError, match="source is 'elsewhere'"):
        training.calibrated_norm(config, source="elsewhere")  # type: ignore[arg-type]
