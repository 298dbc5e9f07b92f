"""One batched pass says of every token what a plain loop, record by record, says."""

import zlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from workbench import audit, corpora
from workbench.audit import scoring
from workbench.errors import InputError

TEXTS = [f"line {i} counts {i * i} and {'more ' * (i % 7)}words" for i in range(23)]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return corpora.train_tokenizer(TEXTS, 280)


@pytest.fixture
def model(
    tokenizer: PreTrainedTokenizerBase, tiny: Callable[..., PreTrainedModel]
) -> PreTrainedModel:
    from workbench.config import ModelConfig
    from workbench.training import models

    shape = ModelConfig(width=8, layers=1, heads=2, vocabulary=280)
    generator = torch.Generator().manual_seed(0)
    made = models.tiny(shape, vocabulary=len(tokenizer), context=64, generator=generator)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return made.train()


@torch.no_grad()
def logits_of(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str
) -> tuple[np.ndarray, np.ndarray]:
    """The model's logits of one text alone, and the tokens that they predict."""
    ids = torch.tensor(tokenizer(text)["input_ids"])
    logits = model.eval()(input_ids=ids[None, :-1]).logits[0]
    model.train()
    return logits.double().numpy(), ids[1:].numpy()


def test_every_signal_is_that_of_a_plain_loop(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
):
    alone = [logits_of(model, tokenizer, text) for text in TEXTS]
    losses = [-float(cross_entropy(torch.tensor(z), torch.tensor(t))) for z, t in alone]
    expected = {
        "loss": losses,
        "zlib": [
            loss * len(t) / len(zlib.compress(text.encode()))
            for loss, (_, t), text in zip(losses, alone, TEXTS, strict=True)
        ],
        "min_k": [audit.min_k(z, t, k=0.2) for z, t in alone],
        "min_k_plus_plus": [audit.min_k_plus_plus(z, t, k=0.2) for z, t in alone],
    }
    assert set(expected) == set(scoring.SIGNALS)
    for signal in scoring.SIGNALS:
        told = audit.scores(model, tokenizer, TEXTS, signal=signal)
        np.testing.assert_allclose(told, expected[signal], rtol=2e-5, err_msg=signal)


def test_first_guesses_and_moments(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase):
    told = scoring.token_scores(model, tokenizer, TEXTS)
    for i, (ids, hit, mean) in enumerate(
        zip(told.of(told.ids), told.of(told.first_guess), told.of(told.mean), strict=True)
    ):
        logits, tokens = logits_of(model, tokenizer, TEXTS[i])
        assert ids.tolist() == tokens.tolist()
        assert hit.tolist() == (logits.argmax(1) == tokens).tolist()
        p = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
        np.testing.assert_allclose(mean, (p * np.log(p)).sum(1), rtol=1e-5)


def test_batches_only_divide_the_work(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    monkeypatch: pytest.MonkeyPatch,
):
    whole, done = audit.scores(model, tokenizer, TEXTS, signal="loss"), []
    monkeypatch.setattr(scoring, "_LOGITS_AT_ONCE", 3 * 20 * 280)
    parts = scoring.token_scores(model, tokenizer, TEXTS, on_progress=done.append)
    np.testing.assert_allclose(parts.log_likelihoods() / parts.counts, whole, rtol=1e-5)
    assert len(done) > 5
    assert done[-1] == len(TEXTS)


def test_the_model_is_left_as_it_was(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase):
    audit.scores(model, tokenizer, TEXTS[:2], signal="loss")
    assert model.training


def test_long_texts_are_cut_at_the_context(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
):
    told = scoring.token_scores(model, tokenizer, ["words " * 200])
    assert told.counts.tolist() == [63]
    assert scoring.token_scores(model, tokenizer, TEXTS, most_tokens=5).counts.max() == 4


@pytest.mark.parametrize(
    ("texts", "words"), [([], "no texts"), (["a line", ""], "Text 1 has no token to predict")]
)
def test_nothing_to_score_is_refused(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str], words: str
):
    with pytest.raises(InputError, match=words):
        audit.scores(model, tokenizer, texts, signal="loss")


def test_another_models_tokenizer_is_refused(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
):
    model.resize_token_embeddings(100)
    with pytest.raises(InputError, match="use the model's own tokenizer"):
        audit.scores(model, tokenizer, TEXTS, signal="loss")


def test_an_unknown_signal_is_refused(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase):
    with pytest.raises(InputError, match="must be one of loss, zlib"):
        audit.scores(model, tokenizer, TEXTS, signal="perplexity")  # type: ignore[arg-type]
