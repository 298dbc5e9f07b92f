"""Canaries: records planted so that an audit can tell what a run gives away.

Each is in the training set or not by a fair coin of its own (Steinke et al. 2023, arXiv
2305.08846). They are made of public records, so that adding or removing a private record changes
nothing here.

* ``in_distribution``: a record as it is;
* ``surprising_suffix``: the first half of one, then tokens drawn at random (after Meeus et al.
  2025, arXiv 2502.14921);
* ``new_token``: the first half of one, then a token that no other record has, with loss on it alone
  (after Panda et al. 2025, arXiv 2503.06808). The vocabulary grows by one token a canary, so the
  audited model is larger by as many rows of its embedding.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from workbench import corpora
from workbench.config import RunConfig
from workbench.corpora.tokens import IGNORED, Encoded
from workbench.errors import InputError
from workbench.runs.planted import Planted
from workbench.training import models, randomness

_LEAST_TOKENS = 4  # of a record that a canary is made of


def plant(
    config: RunConfig,
    public: tuple[str, ...],
    training: Encoded,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    generator: torch.Generator,
    *,
    coins: np.ndarray | None = None,
) -> Planted | None:
    """The canaries of ``config``, after each was seen to be learnable; None if it asks for none.

    Args:
        config: the run.
        public: the records they are made of.
        training: the records of the corpus that they are planted among.
        model: gets new tokens where the canaries need some.
        tokenizer: the same.
        generator: draws the new rows of the embedding.
        coins: which are in, (count,); drawn anew if not given.

    Raises `InputError` if there are too few public records, one of the canaries stands among the
    training records, nothing could be learnt of one, or the coins are of other canaries.
    """
    asked = config.canaries
    if asked.count == 0:
        return None
    included = randomness.coins(config) if coins is None else coins
    if len(included) != asked.count:
        raise InputError(
            f"canaries.count is {asked.count} but the run was begun with {len(included)}; put it "
            "back, or start a new run."
        )
    made = _made(config, public, training, model, tokenizer, generator)
    scored_from = np.array([start for _, start in made])
    planted = Planted(
        kind=asked.kind,
        repeats=asked.repeats,
        rows=tuple(row for row, _ in made),
        learnt_from=scored_from if asked.kind == "new_token" else np.zeros_like(scored_from),
        scored_from=scored_from,
        before=np.zeros(asked.count),
        included=included,
    )
    _refuse_unlearnable(planted, config, model)
    return replace(planted, before=canary_log_likelihoods(model, planted))


def _made(
    config: RunConfig,
    public: tuple[str, ...],
    training: Encoded,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    generator: torch.Generator,
) -> list[tuple[tuple[int, ...], int]]:
    """The tokens of each canary, and which of them is the first to be scored."""
    asked, chance = config.canaries, randomness.canary_choice(config)
    ordinary = np.setdiff1d(np.arange(len(tokenizer)), tokenizer.all_special_ids)
    reserved = _reserve(model, tokenizer, asked.new_tokens, generator)
    taken = {row[labels != IGNORED].tobytes() for row, labels in _rows(training)}
    made: list[tuple[tuple[int, ...], int]] = []
    for record in _candidates(config, public, tokenizer, chance):
        half = len(record) // 2
        row, start = record, 1
        if asked.kind == "surprising_suffix":
            start = half
            row = np.concatenate([record[:half], chance.choice(ordinary, len(record) - half)])
        elif asked.kind == "new_token":
            start, row = half, np.append(record[:half], reserved[len(made)])
        if row.tobytes() in taken:  # cut where records end, two may be the same
            continue
        taken.add(row.tobytes())
        made.append((tuple(row.tolist()), start))
        if len(made) == asked.count:
            return made
    raise InputError(
        f"canaries.count is {asked.count} but only {len(made)} of {len(public)} public records can "
        "become one (distinct, long enough, not among those to train on); raise "
        "corpus.public_fraction or lower canaries.count."
    )


def with_canaries(training: Encoded, planted: Planted | None) -> Encoded:
    """``training`` and, behind it, the canaries that are in, each as often as it repeats."""
    if planted is None:
        return training
    tokens, labels = _arrays(planted, training.tokens.shape[1], planted.learnt_from)
    copies = np.repeat(np.flatnonzero(planted.included), planted.repeats)
    return Encoded(
        np.concatenate([training.tokens, tokens[copies]]),
        np.concatenate([training.labels, labels[copies]]),
        training.truncated,
        training.nothing_to_predict,
    )


def canary_log_likelihoods(model: PreTrainedModel, planted: Planted) -> np.ndarray:
    """What ``model`` says of the scored tokens of each canary, (canaries,) in nats."""
    longest = max(map(len, planted.rows))
    arrays = _arrays(planted, longest, planted.scored_from)
    tokens, labels = (torch.from_numpy(of).to(model.device) for of in arrays)
    return models.log_likelihoods(model, tokens, labels).numpy()


def _arrays(planted: Planted, width: int, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and labels of all canaries, (canaries, width), with labels from ``start`` on."""
    tokens = np.zeros((len(planted), width), dtype=np.int64)
    labels = np.full_like(tokens, IGNORED)
    for index, row in enumerate(planted.rows):
        tokens[index, : len(row)] = row
        labels[index, start[index] : len(row)] = row[start[index] :]
    return tokens, labels


def _candidates(
    config: RunConfig,
    public: tuple[str, ...],
    tokenizer: PreTrainedTokenizerBase,
    chance: np.random.Generator,
) -> Iterator[np.ndarray]:
    """Public records as tokens, in random order, a few at a time because encoding takes time."""
    order = chance.permutation(len(public))
    size = 2 * config.canaries.count
    for start in range(0, len(order), size):
        texts = [public[int(i)] for i in order[start : start + size]]
        encoded = corpora.encode(tokenizer, texts, record_tokens=config.corpus.record_tokens)
        for tokens, labels in _rows(encoded):
            record = tokens[labels != IGNORED]
            if len(record) >= _LEAST_TOKENS:
                yield record


def _rows(encoded: Encoded) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    return zip(encoded.tokens, encoded.labels, strict=True)


def _reserve(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    count: int,
    generator: torch.Generator,
) -> list[int]:
    """The numbers of ``count`` tokens that no text has, and rows of the embedding for them."""
    if not count:
        return []
    names = [f"<|canary {number}|>" for number in range(count)]
    if tokenizer.add_tokens(list(names)) < count:
        raise InputError(
            "The tokenizer of model.source has tokens of canaries already, of an earlier audit; "
            "start from the model as it was before it."
        )
    numbers = [int(tokenizer.convert_tokens_to_ids(name)) for name in names]  # type: ignore[arg-type]
    models.grow_vocabulary(model, max(numbers) + 1, generator=generator)
    return numbers


def _refuse_unlearnable(planted: Planted, config: RunConfig, model: PreTrainedModel) -> None:
    """Raise `InputError` if a canary would leave no trace however the run goes.

    What counts is the loss after the record was cut and padded, and that weights can follow it.
    """
    _, labels = _arrays(planted, config.corpus.record_tokens, planted.learnt_from)
    lost = int((labels[:, 1:] == IGNORED).all(axis=1).sum())
    if lost:
        raise InputError(
            f"{lost} of {len(planted)} canaries have no token with a loss within "
            f"corpus.record_tokens = {config.corpus.record_tokens}; raise it."
        )
    heads = (model.get_input_embeddings(), model.get_output_embeddings())
    frozen = not any(p.requires_grad for head in heads if head for p in head.parameters())
    if planted.kind == "new_token" and frozen:
        raise InputError(
            "canaries.kind is 'new_token' but the model's embeddings are frozen, so that no new "
            "token can be learnt; choose 'in_distribution' or unfreeze them."
        )
