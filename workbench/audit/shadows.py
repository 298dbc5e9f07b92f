"""LiRA from the runs of a sweep: each record's score under models that had it, and that had not.

Runs of a sweep that differ in their seed have split the same corpus otherwise; which records each
was trained on follows from its configuration, so that nothing more needs to be kept with it.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from workbench.audit import signals
from workbench.audit.cache import ScoreCache
from workbench.audit.forward import OnProgress, model_digest, score_rows
from workbench.audit.scoring import encoded
from workbench.config import CorpusConfig
from workbench.errors import InputError, usable_path
from workbench.runs.folder import RunRecord, read_run
from workbench.training import models
from workbench.training.prepare import load_records

_LEAST = 2  # models a side


@dataclass(frozen=True, eq=False)
class Shadows:
    """Scores of records under shadow models.

    Attributes:
        phi: (models, records) mean log p a token.
        inside: (models, records) whether the model was trained on the record.
    """

    phi: np.ndarray
    inside: np.ndarray

    def lira_online(self, phi: np.ndarray) -> np.ndarray:
        """Of each record, its score ``phi`` under the target: the log ratio, (records,).

        NaN where fewer than two models had the record, or had it not.
        """
        return self._each(phi, online=True)

    def lira_offline(self, phi: np.ndarray) -> np.ndarray:
        """As `lira_online`, from the models alone that had not the record."""
        return self._each(phi, online=False)

    def _each(self, phi: np.ndarray, *, online: bool) -> np.ndarray:
        found = np.full(phi.shape, np.nan)
        for i, value in enumerate(phi):
            had, without = self.phi[self.inside[:, i], i], self.phi[~self.inside[:, i], i]
            if len(without) < _LEAST or (online and len(had) < _LEAST):
                continue
            told = (
                signals.lira_online(value, had, without)
                if online
                else signals.lira_offline(value, without)
            )
            found[i] = float(told)
        return found


def shadow_runs(sweep: str | Path, target: RunRecord | None = None) -> list[RunRecord]:
    """The done runs of a sweep's folder that can stand as shadows of ``target``.

    Left out is the target itself, also under another path, and any run of another corpus. Raises
    `InputError` if fewer than two are left.
    """
    folder = usable_path("The sweep folder", sweep)
    found = []
    for path in sorted((folder / "cells").glob("*/run")):
        record = read_run(path)
        if record.summary.get("state") != "done" or record.checkpoint is None:
            continue
        if target is not None:
            same = record.path == target.path or record.ledger.head == target.ledger.head
            other = _whence(record.config.corpus) != _whence(target.config.corpus)
            if same or other or record.config.corpus_seed == target.config.corpus_seed:
                continue
        found.append(record)
    if len(found) < _LEAST:
        raise InputError(
            f"{sweep} holds {len(found)} runs that are done and have another seed on the same "
            "corpus, but shadow models need at least 2; run a sweep over seed."
        )
    return found


def shadow_scores(
    runs: Sequence[RunRecord],
    texts: Sequence[str],
    *,
    cache: Path | None = None,
    on_progress: OnProgress | None = None,
    stop: threading.Event | None = None,
) -> Shadows:
    """Score ``texts`` under every run, and look up which of them it was trained on."""
    phi, inside = [], []
    for number, record in enumerate(runs, start=1):
        assert record.checkpoint is not None
        model, tokenizer = models.from_directory(record.checkpoint)
        kept = None if cache is None else ScoreCache(cache, model=model_digest(model))
        rows = encoded(model, tokenizer, texts, record.config.corpus.record_tokens)
        told = score_rows(
            model,
            rows,
            cache=kept,
            what=f"shadow {number} of {len(runs)}",
            on_progress=on_progress,
            stop=stop,
        )
        had = set(load_records(record.config).training)
        phi.append(told.mean_log_p())
        inside.append([text in had for text in texts])
    return Shadows(np.array(phi), np.array(inside, dtype=bool))


def _whence(corpus: CorpusConfig) -> tuple[object, ...]:
    return corpus.source, corpus.record, corpus.text_field, corpus.min_words
