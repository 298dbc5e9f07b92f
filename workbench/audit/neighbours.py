"""The neighbourhood attack: is a text likelier than texts that differ from it in a few tokens?

Source: Mattern et al. 2023 (arXiv 2305.18462), with neighbours from a causal model's own proposals
or from unigram frequencies in place of a masked model's.
"""

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from workbench.audit.cache import ScoreCache, row_digest
from workbench.audit.forward import OnProgress, padded, score_rows
from workbench.audit.per_token import TokenScores
from workbench.errors import probability, whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NEIGHBOURS = 8
REPLACED = 0.15  # of the tokens, at least one
_AT_ONCE = 16


def neighbourhood(
    model: "PreTrainedModel",
    rows: Sequence[Sequence[int]],
    told: TokenScores,
    *,
    neighbours: int = NEIGHBOURS,
    replaced: float = REPLACED,
    unigram: np.ndarray | None = None,
    seed: int = 0,
    cache: ScoreCache | None = None,
    on_progress: OnProgress | None = None,
    stop: threading.Event | None = None,
) -> np.ndarray:
    """Each row's mean log p a token, less the mean of its neighbours', (rows,).

    Args:
        model: the model under test.
        rows: tokens of each record.
        told: what the model says of them.
        neighbours: how many for each record.
        replaced: the share of predicted tokens that a neighbour has replaced, at least one.
        unigram: (vocabulary,) frequencies to draw replacements from; the model's own prediction at
            each place if not given. The token itself is never drawn.
        seed: of the places and the draws, each record's apart, so that no batch matters.
        cache: of the model, where scores of neighbours are kept.
        on_progress: as in `score_rows`.
        stop: as in `score_rows`.
    """
    whole("neighbours", neighbours, least=1, remedy="draw some")
    probability("replaced", replaced, one=True, remedy="replace some, such as 0.15")
    drawn = [
        neighbour
        for start in range(0, len(rows), _AT_ONCE)
        for neighbour in _drawn(
            model, rows[start : start + _AT_ONCE], neighbours, replaced, unigram, seed
        )
    ]
    scored = score_rows(
        model, drawn, cache=cache, what="neighbours", on_progress=on_progress, stop=stop
    )
    around = scored.mean_log_p().reshape(len(rows), neighbours).mean(axis=1)
    return told.mean_log_p() - around


@torch.no_grad()
def _drawn(
    model: "PreTrainedModel",
    rows: Sequence[Sequence[int]],
    neighbours: int,
    replaced: float,
    unigram: np.ndarray | None,
    seed: int,
) -> list[list[int]]:
    """All neighbours of a few rows, one row's behind the other's."""
    odds = None if unigram is not None else _proposals(model, rows)
    found = []
    for index, row in enumerate(rows):
        rng = np.random.default_rng([seed, int(row_digest(row)[:16], 16)])
        count = max(1, round(replaced * (len(row) - 1)))
        for _ in range(neighbours):
            places = rng.choice(np.arange(1, len(row)), size=count, replace=False)
            neighbour = list(row)
            for place, share in zip(places, rng.random(count), strict=True):
                p = np.array(unigram if odds is None else odds[index, place - 1], dtype=float)
                p[row[place]] = 0.0
                if not p.any():  # the model is certain of the token itself
                    p = np.ones(len(p))
                    p[row[place]] = 0.0
                below = np.cumsum(p)
                neighbour[place] = int(np.searchsorted(below, share * below[-1], side="right"))
            found.append(neighbour)
    return found


def _proposals(model: "PreTrainedModel", rows: Sequence[Sequence[int]]) -> np.ndarray:
    """What the model expects at each place behind the first, (rows, places, vocabulary)."""
    tokens, _ = padded(rows, model.device)
    was_training = model.training
    model.eval()
    try:
        positions = torch.arange(tokens.shape[1] - 1, device=model.device)
        logits = model(
            input_ids=tokens[:, :-1],
            position_ids=positions.expand(len(rows), -1),
            use_cache=False,
        ).logits
    finally:
        model.train(was_training)
    return logits.float().softmax(-1).cpu().numpy()
