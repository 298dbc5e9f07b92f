"""Presets of the promised size, models from disk, and nothing ever fetched."""

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BloomConfig,
    ElectraConfig,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    XLMConfig,
)

from workbench.config import ModelConfig, RunConfig
from workbench.corpora import train_tokenizer
from workbench.corpora.tokens import IGNORED
from workbench.errors import InputError
from workbench.training import models
from workbench.training.prepare import Examples
from workbench.training.step import batch_gradient_sum

SOURCES = ("tiny-llama", "tiny-gpt2")


def _tiny(source: str, seed: int = 0, **shape: int):
    generator = torch.Generator().manual_seed(seed)
    config = ModelConfig.model_validate({"source": source, **shape})
    return models.tiny(config, vocabulary=512, context=64, generator=generator).eval()


def test_weights_are_those_of_their_seed_in_any_thread() -> None:
    """A sweep's worker may train several cells at once."""

    def first_weight(seed: int) -> torch.Tensor:
        return next(_tiny("tiny-llama", seed).parameters())

    seeds = [*range(8)] * 2
    with ThreadPoolExecutor(8) as pool:
        at_once = list(pool.map(first_weight, seeds))
    assert all(
        torch.equal(weight, first_weight(seed)) for weight, seed in zip(at_once, seeds, strict=True)
    )


@pytest.mark.parametrize("source", SOURCES)
def test_presets_have_about_140_thousand_parameters(source: str) -> None:
    assert sum(p.numel() for p in _tiny(source).parameters()) == pytest.approx(140_000, rel=0.03)


@pytest.mark.parametrize("source", SOURCES)
def test_initial_weights_depend_on_the_generator_alone(source: str) -> None:
    before = torch.get_rng_state()
    one, same, other = _tiny(source), _tiny(source), _tiny(source, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    for a, b in zip(one.parameters(), same.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.get_input_embeddings().weight, other.get_input_embeddings().weight)  # type: ignore[arg-type]


@pytest.mark.parametrize("source", SOURCES)
def test_a_record_does_not_see_the_others_nor_its_padding(source: str) -> None:
    model = _tiny(source)
    tokens = torch.randint(512, (4, 20), generator=torch.Generator().manual_seed(0))
    labels = tokens.masked_fill(torch.arange(20) >= 12, IGNORED)
    together = models.record_losses(model, tokens, labels)
    for index in range(4):
        alone = models.record_losses(model, tokens[[index]], labels[[index]])
        torch.testing.assert_close(alone[0], together[index])
    repadded = tokens.masked_fill(labels == IGNORED, 7)
    torch.testing.assert_close(models.record_losses(model, repadded, labels), together)


def test_losses_are_nats_a_token() -> None:
    """An untrained model is near uniform: log of the vocabulary, for each and for the mean."""
    model = _tiny("tiny-llama")
    tokens = torch.randint(512, (70, 20), generator=torch.Generator().manual_seed(0))
    labels = tokens.masked_fill(torch.arange(20) >= torch.randint(2, 21, (70, 1)), IGNORED)
    losses = models.record_losses(model, tokens, labels)
    assert losses.shape == (70,)
    torch.testing.assert_close(losses, torch.full((70,), math.log(512)), rtol=0.1, atol=0)
    counts = (labels[:, 1:] != IGNORED).sum(1)
    expected = ((losses * counts).sum() / counts.sum()).item()
    assert models.mean_loss(model, tokens, labels) == pytest.approx(expected, rel=1e-5)


def test_a_record_of_padding_alone_has_no_loss() -> None:
    model = _tiny("tiny-llama")
    tokens = torch.zeros(1, 8, dtype=torch.int64)
    assert models.record_losses(model, tokens, torch.full_like(tokens, IGNORED)).item() == 0


def test_records_of_one_token_have_no_loss_and_no_gradient() -> None:
    """There is nothing to predict, also where all the records of a part are like that."""
    model, tokens = _tiny("tiny-llama").train(), torch.zeros(3, 8, dtype=torch.int64)
    labels = tokens.masked_fill(torch.arange(8) >= 1, IGNORED)
    records = Examples(tokens, labels)
    clipped, losses = batch_gradient_sum(
        model, records, RunConfig(), max_grad_norm=1.0, physical_batch_size=16
    )
    assert losses.tolist() == clipped.norms.tolist() == [0, 0, 0]
    assert not any(gradient.any() for gradient in clipped.gradients.values())


_ENCODER: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}
_XLM: dict[str, Any] = {"vocab_size": 300, "emb_dim": 16, "n_layers": 1, "n_heads": 2}


def _on_disk(folder: Path, shape: PretrainedConfig) -> Path:
    """A model never trained, beside a tokenizer of 300."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(shape).save_pretrained(folder)
    train_tokenizer(["some public text"] * 9, 300).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "shape",
    [ElectraConfig(embedding_size=16, **_ENCODER), BertConfig(**_ENCODER), XLMConfig(**_XLM)],
    ids=lambda shape: shape.model_type,
)
def test_a_model_that_looks_ahead_is_refused(shape: PretrainedConfig, tmp_path: Path) -> None:
    """`transformers` loads it for causal use all the same."""
    with pytest.raises(InputError, match=r"depends on those after it.*; give a decoder") as refusal:
        models.from_directory(_on_disk(tmp_path, shape))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "shape",
    [
        ElectraConfig(embedding_size=16, is_decoder=True, **_ENCODER),
        XLMConfig(causal=True, **_XLM),
        LlamaConfig(num_key_value_heads=2, **_ENCODER),
        BloomConfig(vocab_size=300, hidden_size=16, n_layer=1, n_head=2),
    ],
    ids=lambda shape: shape.model_type,
)
def test_a_model_that_does_not_is_taken_and_no_chance_is_used(
    shape: PretrainedConfig, tmp_path: Path
) -> None:
    folder, before = _on_disk(tmp_path, shape), torch.get_rng_state()
    model, _ = models.from_directory(folder)
    with torch.no_grad():  # as far from each other as trained weights are
        for parameter in model.parameters():
            parameter.mul_(10 if parameter.ndim > 1 else 1)
    assert not models.looks_ahead(model)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_dropout_is_switched_off() -> None:
    config = models.without_dropout(GPT2Config())
    assert (config.attn_pdrop, config.embd_pdrop) == (0, 0)
    assert (config.resid_pdrop, config.summary_first_dropout) == (0, 0)
    assert models.without_dropout(LlamaConfig(attention_dropout=0.5)).attention_dropout == 0


def test_what_is_no_model_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a directory"):
        models.from_directory(tmp_path / "none")
    with pytest.raises(InputError, match="not a causal language model"):
        models.from_directory(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(InputError, match="save_pretrained") as refusal:
        models.from_directory(tmp_path)
    assert "\n" not in str(refusal.value)
    with pytest.raises(InputError, match="neither a preset"):
        _tiny("tiny-lama")
    with pytest.raises(InputError, match=r"model\.width is 12"):
        _tiny("tiny-llama", width=12, heads=4)


def test_a_sample_depends_on_weights_and_seed_alone() -> None:
    model, tokenizer = _tiny("tiny-llama"), train_tokenizer(["some public text"] * 9, 300)
    one, same, other = (
        models.sample_text(model, tokenizer, tokens=80, seed=seed) for seed in (0, 0, 1)
    )
    assert one == same != other
    assert one
