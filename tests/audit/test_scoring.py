"""One batched pass says of every token what a plain loop, record by record, says."""

import zlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from workbench import audit, corpora
from workbench.audit import forward, neighbours, scoring
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
    assert set(expected) == set(scoring.FROM_ONE_PASS)
    for signal in scoring.FROM_ONE_PASS:
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
    monkeypatch.setattr(forward, "_LOGITS_AT_ONCE", 3 * 20 * 280)
    parts = scoring.token_scores(model, tokenizer, TEXTS, on_progress=done.append)
    np.testing.assert_allclose(parts.log_likelihoods() / parts.counts, whole, rtol=1e-5)
    assert len(done) > 5
    assert [told.done for told in done] == sorted(told.done for told in done)
    assert (done[-1].done, done[-1].eta_seconds) == (len(TEXTS), 0)


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


def test_the_gradient_norm_is_that_of_each_record_alone(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
):
    expected = []
    for text in TEXTS[:6]:
        ids = torch.tensor(tokenizer(text)["input_ids"])
        model.zero_grad()
        cross_entropy(model(input_ids=ids[None, :-1]).logits[0], ids[1:]).backward()
        parts = [p.grad.square().sum() for p in model.parameters() if p.grad is not None]
        expected.append(-float(torch.stack(parts).sum().sqrt()))
    model.zero_grad(set_to_none=True)
    told = audit.scores(model, tokenizer, TEXTS[:6], signal="gradient_norm")
    np.testing.assert_allclose(told, expected, rtol=1e-4)
    assert all(p.grad is None for p in model.parameters())


def test_neighbours_differ_in_their_share_of_tokens_and_do_not_depend_on_batches(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
):
    rows = scoring.encoded(model, tokenizer, TEXTS)
    drawn = neighbours._drawn(model, rows[:3], 4, 0.15, None, 0)
    for row, near in zip(np.repeat(np.arange(3), 4), drawn, strict=True):
        assert len(near) == len(rows[row])
        changed = np.array(near) != np.array(rows[row])
        assert changed.sum() == max(1, round(0.15 * (len(near) - 1)))
        assert not changed[0]
    assert neighbours._drawn(model, rows[2:3], 4, 0.15, None, 0) == drawn[8:12]
    told = scoring.token_scores(model, tokenizer, TEXTS)
    around = forward.score_rows(model, drawn).mean_log_p().reshape(3, 4).mean(axis=1)
    found = neighbours.neighbourhood(model, rows, told, neighbours=4)
    np.testing.assert_allclose(found[:3], told.mean_log_p()[:3] - around, atol=1e-5)


def test_neighbours_follow_given_frequencies(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
):
    rows = scoring.encoded(model, tokenizer, TEXTS[:4])
    only = np.zeros(280)
    only[270] = 1.0
    drawn = neighbours._drawn(model, rows, 3, 0.2, only, 0)
    for row, near in zip([r for r in rows for _ in range(3)], drawn, strict=True):
        assert {b for a, b in zip(row, near, strict=True) if a != b} == {270}


def test_no_module_hides_a_public_function():
    """Importing a `workbench.audit.roc` would put a module in the place of the function."""
    import pkgutil

    modules = {module.name for module in pkgutil.iter_modules(audit.__path__)}
    assert modules & set(audit.__all__) == set()
