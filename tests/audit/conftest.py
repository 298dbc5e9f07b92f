"""A model that has learnt sixty texts by heart, and as many others that it never saw."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from workbench import corpora
from workbench.config import ModelConfig
from workbench.training import models


@dataclass(frozen=True)
class Learnt:
    folder: Path
    fresh: Path
    members: list[str]
    others: list[str]
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def sentences(count: int, seed: int) -> list[str]:
    """Texts of one kind: only by having seen one can a model tell it from another."""
    rng = np.random.default_rng(seed)
    return [" ".join(f"w{word}" for word in rng.integers(0, 40, 6)) for _ in range(count)]


@pytest.fixture(scope="session")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Learnt:
    folder = tmp_path_factory.mktemp("learnt")
    members, others = sentences(60, 0), sentences(66, 1)
    tokenizer = corpora.train_tokenizer(sentences(200, 2), 300)
    shape = ModelConfig(width=64, layers=1, heads=2, vocabulary=300)
    generator = torch.Generator().manual_seed(0)
    model = models.tiny(shape, vocabulary=len(tokenizer), context=64, generator=generator)
    with models.no_progress_bars():
        model.save_pretrained(folder / "fresh")
        tokenizer.save_pretrained(folder / "fresh")
    rows = corpora.encode(tokenizer, members, record_tokens=24)
    tokens, labels = torch.tensor(rows.tokens), torch.tensor(rows.labels)
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(140):
        adam.zero_grad()
        models.record_losses(model, tokens, labels).mean().backward()
        adam.step()
    model.zero_grad(set_to_none=True)
    with models.no_progress_bars():
        model.save_pretrained(folder / "learnt")
        tokenizer.save_pretrained(folder / "learnt")
    return Learnt(folder / "learnt", folder / "fresh", members, others, model, tokenizer)
