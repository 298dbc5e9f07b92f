"""Runs as the ROC explorer shows them: each one's audit, canaries, layers and ceilings."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workbench import privacy
from workbench.analysis.point_metrics import Ceilings, ceilings
from workbench.analysis.ruler import Mark, canary_epsilons, marks
from workbench.analysis.thresholds import Ranking
from workbench.audit.canaries import CanaryAudit, canary_audit
from workbench.audit.controls import shuffled
from workbench.audit.curves import roc
from workbench.audit.embeddings import EmbeddingAttack, embedding_attack
from workbench.audit.measures import CONFIDENCE, RATES, SignalResult, rates_at
from workbench.config import RunConfig
from workbench.errors import InputError
from workbench.privacy.written import written_epsilon
from workbench.runs.folder import read_run

if TYPE_CHECKING:
    from workbench.audit.attack import Audit
    from workbench.audit.attacks import Passes

QUICK = ("loss", "zlib", "min_k", "min_k_plus_plus", "reference", "ez", "window")
CANARIES = "canaries"
_FEWEST_FOR_LAYERS = 20  # of each side


@dataclass(frozen=True, eq=False)
class AuditedRun:
    """One run and what was found of it.

    Attributes:
        path: its folder.
        label: what pictures call it; no two of one panel share it.
        config: as it was trained.
        audit: on training and held-out records.
        canaries: the audit by its canaries, if it has any.
        canary_texts: (canaries,) what they say.
        layers: the attack on its hidden states; None with too few records.
        ceilings: what its guarantee of one record allows a test; NaN for a run without privacy.
        mechanism: the same of its own (σ, q, T), at the same rates; None where that has no curve.
        tokens: text of each token, by its number.
    """

    path: Path
    label: str
    config: RunConfig
    audit: "Audit"
    canaries: CanaryAudit | None
    canary_texts: tuple[str, ...]
    layers: EmbeddingAttack | None
    ceilings: Ceilings
    mechanism: np.ndarray | None
    tokens: Mapping[int, str] = field(default_factory=dict)

    @property
    def private(self) -> bool:
        """Whether it was trained with privacy."""
        return self.config.privacy.private

    @property
    def signals(self) -> tuple[str, ...]:
        """The names of its signals; its canaries are the first, where it has some."""
        own = tuple(result.signal for result in self.audit.results)
        return own if self.canaries is None else (CANARIES, *own)

    def scores(self, signal: str) -> tuple[np.ndarray, np.ndarray, Sequence[str]]:
        """Scores, truth and texts, (records,) each; raises `InputError` for an unknown signal."""
        if signal == CANARIES and self.canaries is not None:
            return self.canaries.scores, self.canaries.planted.included, self.canary_texts
        if signal not in self.signals:
            raise InputError(
                f"{self.label} has no signal {signal!r}; choose from {', '.join(self.signals)}."
            )
        records = self.audit.records
        return self.audit.target.signals[signal], records.member, records.texts

    def ranking(self, signal: str) -> Ranking:
        """The scores of a signal, sorted once."""
        if signal not in self._rankings:
            scores, member, _ = self.scores(signal)
            self._rankings[signal] = Ranking(scores, member)
        return self._rankings[signal]

    def result(self, signal: str) -> SignalResult:
        """All numbers of a signal, or of the canaries."""
        if signal == CANARIES and self._canary_result is not None:
            return self._canary_result
        return self.audit[signal]

    def marks(self, signal: str) -> tuple[Mark, ...]:
        """The marks of its ruler."""
        return marks(
            self.result(signal),
            guarantee=self.audit.guarantee,
            heuristic=self.audit.heuristic,
            canaries=self.canaries if signal == CANARIES else None,
        )

    def allowed(self, signal: str) -> tuple[Ceilings, np.ndarray | None]:
        """What its guarantee allows a test of this signal: of the group, for repeated canaries."""
        found = self.canaries
        if signal != CANARIES or found is None or found.planted.repeats == 1:
            return self.ceilings, self.mechanism
        epsilon, delta = found.ceiling
        return ceilings(epsilon if delta < 1 else math.inf, min(delta, 0.5)), None

    def same_records(self, other: "AuditedRun", signal: str) -> bool:
        """Whether both runs were tested on the same records, so that scores can be compared."""
        if signal not in other.signals:
            return False
        (_, own, texts), (_, others, other_texts) = self.scores(signal), other.scores(signal)
        return tuple(texts) == tuple(other_texts) and np.array_equal(own, others)

    @cached_property
    def _rankings(self) -> dict[str, Ranking]:
        return {}

    @cached_property
    def _canary_result(self) -> SignalResult | None:
        found = self.canaries
        if found is None:
            return None
        included = found.planted.included
        curve = roc(found.scores[included], found.scores[~included])
        low, high = curve.auc_interval(CONFIDENCE)
        above = found.scores > np.median(found.scores)
        return SignalResult(
            signal=CANARIES,
            curve=curve,
            auc_low=low,
            auc_high=high,
            rates=rates_at(curve, RATES),
            balanced_accuracy=float((above[included].mean() + (~above)[~included].mean()) / 2),
            gap=float(found.scores[included].mean() - found.scores[~included].mean()),
            shuffled=shuffled(found.scores, included),
            epsilons=canary_epsilons(found),
        )


def twin_of(config: RunConfig, others: Mapping[Path, RunConfig]) -> Path | None:
    """The run among ``others`` of the same records without privacy: a positive control."""
    if not config.privacy.private:
        return None
    for path, other in others.items():
        if not other.privacy.private and (other.corpus, other.seed) == (config.corpus, config.seed):
            return path
    return None


def audited_run(
    path: str | Path,
    *,
    signals: Sequence[str] = QUICK,
    twin: Path | None = None,
    most: int = 4000,
    passes: "Passes | None" = None,
) -> AuditedRun:
    """Audit one run by records, by its canaries, and by its layers.

    Args:
        path: its folder.
        signals: names of `workbench.audit.attacks.ATTACKS`.
        twin: the run without privacy, as a positive control.
        most: records at most.
        passes: where scores are kept, who is told, and what stops it.

    Raises `InputError` for a run that cannot be audited, `audit.CancelledError` if stopped.
    """
    from workbench import audit
    from workbench.training import models

    found = audit.audit_run(path, signals=signals, twin=twin, most=most, passes=passes)
    record = read_run(path)
    assert record.checkpoint is not None
    _, tokenizer = models.from_directory(record.checkpoint)
    planted = canary_audit(path) if record.ledger.planted is not None else None
    guarantee = found.guarantee
    of_one = ceilings(guarantee.epsilon if guarantee else math.inf, found.delta)

    def decoded(token: int) -> str:
        known = len(tokenizer)
        new = f"⟨new token {token - known}⟩"
        return str(tokenizer.decode([token])) if token < known else new

    rows = planted.planted.rows if planted else ()
    return AuditedRun(
        path=record.path,
        label=_label(record.config, guarantee.epsilon if guarantee else math.inf),
        config=record.config,
        audit=found,
        canaries=planted,
        canary_texts=tuple("".join(map(decoded, row)) for row in rows),
        layers=_layers(found),
        ceilings=of_one,
        mechanism=_mechanism(found, record.ledger.history, of_one),
        tokens={int(i): decoded(int(i)) for i in np.unique(found.target.told.ids)},
    )


def told_apart(runs: Sequence[AuditedRun]) -> tuple[AuditedRun, ...]:
    """The same runs with labels of their own: their folder's name is added where two are alike."""
    labels = [run.label for run in runs]
    return tuple(
        replace(run, label=f"{run.label} ({run.path.name})")
        if labels.count(run.label) > 1 and run.path.name not in run.label
        else run
        for run in runs
    )


def _label(config: RunConfig, epsilon: float) -> str:
    return f"private, ε = {written_epsilon(epsilon)}" if config.privacy.private else "not private"


def _layers(found: "Audit") -> EmbeddingAttack | None:
    pooled, records = found.target.told.pooled, found.records
    fewest = min(int(records.member.sum()), int((~records.member).sum()))
    if pooled is None or fewest < _FEWEST_FOR_LAYERS:
        return None
    return embedding_attack(pooled, records.member, groups=records.group)


def _mechanism(
    found: "Audit", history: list[tuple[float, float, int]], of_one: Ceilings
) -> np.ndarray | None:
    if found.guarantee is None or len(history) != 1:
        return None
    return privacy.mechanism_ceiling(of_one.false_positive_rate, *history[0])
