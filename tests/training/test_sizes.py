"""What a run tells of its size: counted by hand, and bits a byte from the text itself."""

import math
from pathlib import Path

import pytest
import torch

from workbench import corpora, training
from workbench.config import CorpusConfig, ModelConfig, RunConfig
from workbench.training import models
from workbench.training.sizes import (
    bits_per_byte,
    flops_per_token,
    non_embedding_parameters,
    predicted_bytes,
)


@pytest.mark.parametrize("source", ["tiny-llama", "tiny-gpt2"])
def test_embeddings_positions_and_a_tied_head_do_not_count(source: str) -> None:
    config = ModelConfig(source=source, width=24, layers=2, heads=4)
    model = models.tiny(config, vocabulary=512, context=64, generator=torch.Generator())
    llama = 2 * (13 * 24**2 + 2 * 24) + 24  # four of attention, nine of the MLP, and norms
    gpt2 = 2 * (12 * 24**2 + 13 * 24) + 2 * 24  # with biases, as Hugging Face counts it
    assert non_embedding_parameters(model) == (llama if source == "tiny-llama" else gpt2)
    expected = 6 * (non_embedding_parameters(model) + 512 * 24) + 12 * 2 * 24 * 64
    assert flops_per_token(model, record_tokens=64) == expected


def test_bytes_are_those_of_the_text_that_is_predicted() -> None:
    texts = ("plain words", "naïve café €5", "x" * 40)
    tokenizer = corpora.train_tokenizer(["plain words and more"], 280)
    encoded = corpora.encode(tokenizer, texts, record_tokens=21)
    # The start token has no text. The last text is cut at twenty tokens of one letter.
    assert predicted_bytes(tokenizer, encoded.labels) == 11 + len(texts[1].encode()) + 20


def test_bits_a_byte_of_a_uniform_guess_over_bytes_is_eight() -> None:
    assert bits_per_byte(math.log(256), tokens=70, n_bytes=70) == pytest.approx(8)
    assert bits_per_byte(math.log(256), tokens=35, n_bytes=70) == pytest.approx(4)


def test_a_run_tells_all_of_it(config: RunConfig, tmp_path: Path) -> None:
    training.train(config, run_dir=tmp_path / "run")
    summary = training.read_run(tmp_path / "run").summary
    texts = corpora.load(CorpusConfig.model_validate(config.corpus.model_dump())).heldout
    tokenizer = corpora.train_tokenizer(corpora.load(config.corpus).public, 270)
    labels = corpora.encode(tokenizer, texts, record_tokens=12).labels
    assert summary["heldout_tokens"] == int((labels[:, 1:] >= 0).sum())
    assert summary["heldout_bytes"] == predicted_bytes(tokenizer, labels)
    bits = summary["heldout_loss"] * summary["heldout_tokens"] / summary["heldout_bytes"]
    assert summary["heldout_bits_per_byte"] == pytest.approx(bits / math.log(2))
    assert 0 < summary["n_params_non_embedding"] < summary["n_params"]
