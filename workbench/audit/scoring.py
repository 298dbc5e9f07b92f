"""Texts to scores: tokens, one pass over them, and the signals that need nothing else.

A pass keeps, of every token that is predicted, its log-probability, mean and deviation of the
log-probabilities over the vocabulary at its position, and whether it was the model's first guess.
Most signals are arithmetic on these (`workbench.audit.signals`).
"""

import math
import threading
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from workbench.audit import signals
from workbench.audit.cache import ScoreCache
from workbench.audit.forward import OnProgress, score_rows
from workbench.audit.per_token import TokenScores
from workbench.errors import InputError, shown
from workbench.training import models

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Signal = Literal["loss", "zlib", "min_k", "min_k_plus_plus", "neighbourhood", "gradient_norm"]
SIGNALS: tuple[Signal, ...] = get_args(Signal)
FROM_ONE_PASS: tuple[Signal, ...] = ("loss", "zlib", "min_k", "min_k_plus_plus")

K = 0.2  # of the tokens, what Min-K % and Min-K %++ average, as their papers mostly do


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
        signal: ``loss`` (mean log-probability a token), ``zlib``, ``min_k`` or ``min_k_plus_plus``
            (of a fifth of the tokens), ``neighbourhood`` (against texts with some tokens replaced
            by the model's own proposals) or ``gradient_norm`` (its negative).

    Returns (records,) float64. Raises `InputError` for an unknown signal, and as `token_scores`.
    """
    if signal not in SIGNALS:
        raise InputError(
            f"signal is {signal!r} but must be one of {', '.join(SIGNALS)}; choose one."
        )
    rows = encoded(model, tokenizer, texts)
    if signal == "gradient_norm":
        from workbench.audit.gradients import gradient_norms

        return -gradient_norms(model, rows)
    told = score_rows(model, rows)
    if signal == "neighbourhood":
        from workbench.audit.neighbours import neighbourhood

        return neighbourhood(model, rows, told)
    return signal_of(told, texts, signal)


def signal_of(told: TokenScores, texts: Sequence[str], signal: Signal) -> np.ndarray:
    """A signal of each text from one pass over them, (records,)."""
    match signal:
        case "loss":
            return told.mean_log_p()
        case "zlib":
            sizes = [len(zlib.compress(text.encode())) for text in texts]
            return told.log_likelihoods() / np.array(sizes)
        case "min_k":
            return np.array([signals.lowest_mean(log_p, k=K) for log_p in told.of(told.log_p)])
        case _:
            values = signals.standardised(told.log_p, told.mean, told.deviation)
            return np.array([signals.lowest_mean(of_one, k=K) for of_one in told.of(values)])


def token_scores(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[str],
    *,
    most_tokens: int | None = None,
    hidden: bool = False,
    cache: ScoreCache | None = None,
    on_progress: OnProgress | None = None,
    stop: threading.Event | None = None,
) -> TokenScores:
    """One forward pass over every text, in batches of like length.

    Args:
        model: a causal language model; it is put in evaluation mode and back.
        tokenizer: its own; special tokens are added as it does.
        texts: (records,).
        most_tokens: where longer texts are cut; the model's own context if not given.
        hidden: whether hidden states are pooled, too.
        cache: of this model, if what is scored is to be kept.
        on_progress: called after each batch.
        stop: an event that ends the pass after the batch in hand.

    Raises `InputError` for no texts, a text without a token to predict, or a tokenizer with tokens
    that the model does not know; `workbench.audit.forward.CancelledError` if stopped.
    """
    rows = encoded(model, tokenizer, texts, most_tokens)
    return score_rows(model, rows, hidden=hidden, cache=cache, on_progress=on_progress, stop=stop)


def encoded(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[str],
    most_tokens: int | None = None,
) -> list[list[int]]:
    """The tokens of each text, cut at what the model takes; `InputError` as `token_scores`."""
    if not len(texts):
        raise InputError("There are no texts to score; give at least one.")
    most = min(most_tokens or math.inf, models.context_length(model))
    rows = [
        row if len(row) <= most else row[: int(most)]
        for row in tokenizer(list(texts), verbose=False, return_attention_mask=False)["input_ids"]
    ]
    for index, row in enumerate(rows):
        if len(row) < 2:
            raise InputError(
                f"Text {index} has no token to predict ({shown(texts[index][:40])}); leave it out."
            )
    largest, known = max(map(max, rows)), models.vocabulary(model)
    if largest >= known:
        raise InputError(
            f"The tokenizer gives token {largest} but the model knows {known}, counted from 0; use "
            "the model's own tokenizer."
        )
    return rows
