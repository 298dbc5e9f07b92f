"""What a pass keeps on disk is what it would say again, whatever ends it in between."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from workbench.audit import forward
from workbench.audit.cache import ScoreCache, row_digest
from workbench.audit.forward import CancelledError, model_digest, score_rows
from workbench.errors import InputError

ROWS = [[i % 40, *(j * j % 37 for j in range(2 + i % 7))] for i in range(31)]


@pytest.fixture
def model(tiny: Callable[..., PreTrainedModel]) -> PreTrainedModel:
    return tiny("tiny-gpt2")


@pytest.fixture
def passes(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every row that goes through the model from now on counts."""
    counted: list[int] = []
    original = forward._of_batch

    def counting(model: PreTrainedModel, rows: list, *, hidden: bool):
        counted.append(len(rows))
        return original(model, rows, hidden=hidden)

    monkeypatch.setattr(forward, "_of_batch", counting)
    monkeypatch.setattr(forward, "_LOGITS_AT_ONCE", 5 * 8 * 40)
    return counted


def cache_of(model: PreTrainedModel, folder: Path) -> ScoreCache:
    return ScoreCache(folder, model=model_digest(model))


def same(one: forward.TokenScores, other: forward.TokenScores) -> None:
    for name in ("offsets", "ids", "log_p", "mean", "deviation", "first_guess", "pooled"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


def test_a_second_audit_is_arithmetic(model: PreTrainedModel, passes: list[int], tmp_path: Path):
    first = score_rows(model, ROWS, hidden=True, cache=cache_of(model, tmp_path))
    assert sum(passes) == len({tuple(row) for row in ROWS})
    passes.clear()
    # Other records, in another order, find what the first audit left.
    again = score_rows(model, ROWS[::-1], hidden=True, cache=cache_of(model, tmp_path))
    assert passes == []
    same(score_rows(model, ROWS, hidden=True, cache=cache_of(model, tmp_path)), first)
    np.testing.assert_array_equal(again.log_likelihoods()[::-1], first.log_likelihoods())


def test_what_was_scored_before_a_stop_is_not_scored_again(
    model: PreTrainedModel, passes: list[int], tmp_path: Path
):
    stop, done = threading.Event(), []

    def tell(progress: forward.Progress) -> None:
        done.append(progress.done)
        if progress.done >= 10:
            stop.set()

    with pytest.raises(CancelledError):
        score_rows(model, ROWS, cache=cache_of(model, tmp_path), on_progress=tell, stop=stop)
    before = sum(passes)
    assert 10 <= before < len({tuple(row) for row in ROWS})
    passes.clear()
    whole = score_rows(model, ROWS, cache=cache_of(model, tmp_path))
    assert before + sum(passes) == len({tuple(row) for row in ROWS})
    same(whole, score_rows(model, ROWS))
    assert model.training


def test_a_torn_part_is_scored_again(model: PreTrainedModel, passes: list[int], tmp_path: Path):
    """A kill between two parts leaves whole ones; a damaged disk may leave anything."""
    cache = cache_of(model, tmp_path)
    first = score_rows(model, ROWS, hidden=True, cache=cache)
    (part,) = cache.path.glob("part-*.parquet")
    part.write_bytes(part.read_bytes()[:100])
    passes.clear()
    same(score_rows(model, ROWS, hidden=True, cache=cache), first)
    assert sum(passes) > 0


def test_without_its_hidden_states_a_part_still_tells_of_tokens(
    model: PreTrainedModel, passes: list[int], tmp_path: Path
):
    cache = cache_of(model, tmp_path)
    score_rows(model, ROWS, cache=cache)
    passes.clear()
    score_rows(model, ROWS, cache=cache)
    assert passes == []
    pooled = score_rows(model, ROWS, hidden=True, cache=cache).pooled
    assert passes
    assert pooled is not None


def test_pooled_states_are_the_mean_over_a_rows_own_positions(model: PreTrainedModel):
    pooled = score_rows(model, ROWS, hidden=True).pooled
    assert pooled is not None
    model.eval()
    for row, told in zip(ROWS[:9], pooled, strict=False):
        with torch.no_grad():
            out = model(input_ids=torch.tensor([row[:-1]]), output_hidden_states=True)
        expected = torch.stack([state[0].mean(0) for state in out.hidden_states])
        np.testing.assert_allclose(told, expected, rtol=1e-4, atol=1e-5)
    model.train()


def test_scores_of_another_model_are_never_read(
    model: PreTrainedModel, tiny: Callable[..., PreTrainedModel], tmp_path: Path
):
    score_rows(model, ROWS, cache=cache_of(model, tmp_path))
    other = tiny("tiny-gpt2", seed=1)
    told = score_rows(other, ROWS, cache=cache_of(other, tmp_path))
    same(told, score_rows(other, ROWS))
    mine, theirs = cache_of(model, tmp_path).path, cache_of(other, tmp_path).path
    (mine / "key.json").replace(theirs / "key.json")
    with pytest.raises(InputError, match="holds scores of another model"):
        cache_of(other, tmp_path)


def test_a_digest_is_of_the_weights(model: PreTrainedModel, tiny: Callable[..., PreTrainedModel]):
    before = model_digest(model)
    assert before == model_digest(tiny("tiny-gpt2"))
    with torch.no_grad():
        next(model.parameters())[0, 0] += 1e-4
    assert model_digest(model) != before
    assert row_digest([1, 2]) != row_digest([1, 2, 0])


def test_a_model_that_diverged_is_refused(model: PreTrainedModel):
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(InputError, match="gives NaN"):
        score_rows(model, ROWS)


def test_an_impossible_token_has_finite_moments():
    logits = torch.tensor([[[0.0, 0.0, -torch.inf]]])
    log_p, mean, deviation, first = forward._told(logits, torch.tensor([[0]]))
    assert log_p.item() == pytest.approx(np.log(0.5))
    assert mean.item() == pytest.approx(np.log(0.5))
    assert deviation.item() == pytest.approx(0, abs=1e-6)
    assert first.item()
