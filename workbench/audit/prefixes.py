"""ReCaLL: how much less likely a record becomes behind texts that the model has not seen.

Source: Xie et al. 2024 (arXiv 2406.15968). The prefix takes a quarter of the model's context; where
a record does not fit behind it, both log-likelihoods are of the record's beginning.
"""

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from workbench.audit import signals
from workbench.audit.cache import ScoreCache
from workbench.audit.forward import OnProgress, score_rows
from workbench.audit.per_token import TokenScores
from workbench.errors import InputError
from workbench.training import models

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SHARE = 4  # of the context, what the prefix may take
_LONGEST = 512  # tokens of a prefix


def recall(
    model: "PreTrainedModel",
    rows: Sequence[Sequence[int]],
    told: TokenScores,
    prefix: Sequence[Sequence[int]],
    *,
    start: int | None = None,
    cache: ScoreCache | None = None,
    on_progress: OnProgress | None = None,
    stop: threading.Event | None = None,
) -> np.ndarray:
    """LL(record | prefix)/LL(record) of each row, (rows,); NaN where nothing is left to predict.

    Args:
        model: the model under test.
        rows: tokens of each record.
        told: what the model says of them.
        prefix: tokens of non-members that are not among the records, put one behind the other.
        start: the token that the tokenizer puts before every text, if it does.
        cache: of the model.
        on_progress: as in `score_rows`.
        stop: as in `score_rows`.

    Raises `InputError` without a prefix.
    """
    if not prefix:
        raise InputError("recall needs a prefix of non-members; set some aside.")
    context = models.context_length(model)
    room = int(min(_LONGEST, max(2, context // _SHARE)))
    shots = _joined(prefix, start)[:room]
    most = int(min(context - len(shots), max(map(len, rows))))
    behind = [[*shots, *_without_start(row, start)][: len(shots) + most] for row in rows]
    scored = score_rows(
        model, behind, cache=cache, what="prefixed", on_progress=on_progress, stop=stop
    )
    found = np.full(len(rows), np.nan)
    for i, (alone, after) in enumerate(
        zip(told.of(told.log_p), scored.of(scored.log_p), strict=True)
    ):
        # The first tokens of `after` are the prefix's, and a record's own first is never predicted
        # alone unless the tokenizer puts a start before it.
        first = len(shots) - 1 + (0 if rows[i][0] == start else 1)
        conditional = after[first:]
        kept = alone[: len(conditional)]
        if len(kept) and kept.sum() < 0:
            found[i] = signals.recall_score(float(conditional.sum()), float(kept.sum()))
    return found


def _joined(prefix: Sequence[Sequence[int]], start: int | None) -> list[int]:
    rows = [token for row in prefix for token in _without_start(row, start)]
    return rows if start is None else [start, *rows]


def _without_start(row: Sequence[int], start: int | None) -> Sequence[int]:
    return row[1:] if start is not None and row[0] == start else row
