"""One forward pass of a model over texts, and every signal that follows from it.

A pass keeps, of every token that is predicted, its log-probability, mean and deviation of the
log-probabilities over the vocabulary at its position, and whether it was the model's first guess.
The signals are arithmetic on these (`workbench.audit.signals`). Log-probabilities are float32 at
least, whatever the weights are, and padding on the right changes nothing before it.
"""

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch

from workbench.audit import signals
from workbench.errors import InputError
from workbench.training import models

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Signal = Literal["loss", "zlib", "min_k", "min_k_plus_plus"]
SIGNALS: tuple[Signal, ...] = get_args(Signal)

K = 0.2  # of the tokens, what Min-K % and Min-K %++ average, as their papers mostly do
_LOGITS_AT_ONCE = 2**25  # numbers; 128 MB in float32


@dataclass(frozen=True, eq=False)
class TokenScores:
    """What a model says of each predicted token of each text.

    Record i holds the places ``offsets[i]`` to ``offsets[i + 1]`` of the other arrays.

    Attributes:
        offsets: (records + 1,).
        ids: the tokens.
        log_p: their log-probabilities, nats.
        mean: Σ p log p over the vocabulary at each position; minus the entropy.
        deviation: the standard deviation of log p under p at each position.
        first_guess: whether no other token was likelier.
    """

    offsets: np.ndarray
    ids: np.ndarray
    log_p: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray
    first_guess: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def of(self, values: np.ndarray) -> Iterator[np.ndarray]:
        """One of the arrays, record by record."""
        return (values[a:b] for a, b in zip(self.offsets[:-1], self.offsets[1:], strict=True))

    @property
    def counts(self) -> np.ndarray:
        """How many tokens of each record are predicted, (records,)."""
        return np.diff(self.offsets)

    def log_likelihoods(self) -> np.ndarray:
        """The sum of each record's log-probabilities, (records,)."""
        return np.add.reduceat(self.log_p, self.offsets[:-1])


def scores(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[str],
    *,
    signal: Signal,
) -> np.ndarray:
    """One membership score a text, higher meaning "member".

    Args:
        model: a causal language model.
        tokenizer: its own.
        texts: (records,), each with at least one token behind the first.
        signal: ``loss`` (mean log-probability a token), ``zlib``, ``min_k`` or ``min_k_plus_plus``,
            the last two of a fifth of the tokens.

    Returns (records,) float64. Raises `InputError` for an unknown signal, and as `token_scores`.
    """
    if signal not in SIGNALS:
        raise InputError(
            f"signal is {signal!r} but must be one of {', '.join(SIGNALS)}; choose one."
        )
    return signal_of(token_scores(model, tokenizer, texts), texts, signal)


def signal_of(told: TokenScores, texts: Sequence[str], signal: Signal) -> np.ndarray:
    """A signal of each text from one pass over them, (records,)."""
    match signal:
        case "loss":
            return told.log_likelihoods() / told.counts
        case "zlib":
            sizes = [len(zlib.compress(text.encode())) for text in texts]
            return told.log_likelihoods() / np.array(sizes)
        case "min_k":
            return np.array([signals.lowest_mean(log_p, k=K) for log_p in told.of(told.log_p)])
        case _:
            values = signals.standardised(told.log_p, told.mean, told.deviation)
            return np.array([signals.lowest_mean(of_one, k=K) for of_one in told.of(values)])


@torch.no_grad()
def token_scores(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[str],
    *,
    most_tokens: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> TokenScores:
    """One forward pass over every text, in batches of like length.

    Args:
        model: a causal language model; it is put in evaluation mode and back.
        tokenizer: its own; special tokens are added as it does.
        texts: (records,).
        most_tokens: where longer texts are cut; the model's own context if not given.
        on_progress: called with the number of records done after each batch.

    Raises `InputError` for no texts, a text without a token to predict, or a tokenizer with tokens
    that the model does not know.
    """
    rows = _encoded(model, tokenizer, texts, most_tokens)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    found: list[tuple[np.ndarray, ...]] = [()] * len(rows)
    was_training = model.training
    model.eval()
    try:
        done = 0
        for batch in _batches(order, rows, models.vocabulary(model)):
            for index, parts in zip(batch, _of_batch(model, [rows[i] for i in batch]), strict=True):
                found[index] = parts
            done += len(batch)
            if on_progress is not None:
                on_progress(done)
    finally:
        model.train(was_training)
    offsets = np.concatenate([[0], np.cumsum([len(row) - 1 for row in rows])])
    return TokenScores(offsets, *(np.concatenate(column) for column in zip(*found, strict=True)))


def _encoded(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[str],
    most_tokens: int | None,
) -> list[list[int]]:
    if not len(texts):
        raise InputError("There are no texts to score; give at least one.")
    context = getattr(model.config, "max_position_embeddings", None)
    most = min(most_tokens or math.inf, context or math.inf)
    rows = [
        row if len(row) <= most else row[: int(most)]
        for row in tokenizer(list(texts), verbose=False)["input_ids"]
    ]
    for index, row in enumerate(rows):
        if len(row) < 2:
            raise InputError(
                f"Text {index} has no token to predict ({texts[index][:40]!r}); leave it out."
            )
    largest, known = max(map(max, rows)), models.vocabulary(model)
    if largest >= known:
        raise InputError(
            f"The tokenizer gives token {largest} but the model knows {known}, counted from 0; use "
            "the model's own tokenizer."
        )
    return rows


def _batches(order: list[int], rows: list[list[int]], vocabulary: int) -> Iterator[list[int]]:
    """Neighbours in length, as many as their logits may take."""
    batch: list[int] = []
    for index in order:
        if batch and (len(batch) + 1) * len(rows[index]) * vocabulary > _LOGITS_AT_ONCE:
            yield batch
            batch = []
        batch.append(index)
    yield batch


def _of_batch(model: "PreTrainedModel", rows: list[list[int]]) -> Iterator[tuple[np.ndarray, ...]]:
    """ids, log p, mean, deviation and first guess of every row's predicted tokens."""
    longest = max(map(len, rows))
    tokens = torch.zeros(len(rows), longest, dtype=torch.long)
    for place, row in enumerate(rows):
        tokens[place, : len(row)] = torch.tensor(row)
    tokens = tokens.to(model.device)
    positions = torch.arange(longest - 1, device=model.device).expand(len(rows), -1)
    logits = model(input_ids=tokens[:, :-1], position_ids=positions, use_cache=False).logits
    columns = [column.cpu().numpy() for column in _told(logits, tokens[:, 1:])]
    for place, row in enumerate(rows):
        own = (column[place, : len(row) - 1] for column in columns)
        yield (np.array(row[1:]), *own)


def _told(logits: "Tensor", targets: "Tensor") -> tuple["Tensor", ...]:
    """Log p, mean and deviation of log p, and whether the target is likeliest, (batch, tokens)."""
    log_p = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    of_targets = log_p.gather(-1, targets[..., None])[..., 0]
    first_guess = of_targets >= log_p.amax(-1)
    p = log_p.exp()
    log_p = log_p.masked_fill_(p == 0, 0.0)  # 0 · log 0 = 0
    mean = (p * log_p).sum(-1)
    deviation = (p * (log_p - mean[..., None]).square_()).sum(-1).sqrt_()
    return of_targets.double(), mean.double(), deviation.double(), first_guess
