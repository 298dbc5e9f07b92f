"""Every signal of every record under one model, from as few passes as it takes.

A signal is left out where what it needs is missing: a reference, shadow models, or records that
stand aside. The result names what was left out and why.
"""

import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from workbench.audit import signals
from workbench.audit.cache import ScoreCache
from workbench.audit.forward import OnProgress, model_digest, score_rows
from workbench.audit.gradients import gradient_norms
from workbench.audit.learned import attack_features, cross_fitted
from workbench.audit.neighbours import neighbourhood
from workbench.audit.per_token import TokenScores
from workbench.audit.prefixes import recall
from workbench.audit.records import AuditRecords
from workbench.audit.scoring import FROM_ONE_PASS, encoded, signal_of
from workbench.audit.shadows import Shadows
from workbench.audit.subjects import Subject
from workbench.errors import InputError

ATTACKS = (
    "loss",
    "zlib",
    "min_k",
    "min_k_plus_plus",
    "recall",
    "neighbourhood",
    "gradient_norm",
    "reference",
    "rmia",
    "ez",
    "window",
    "lira_online",
    "lira_offline",
    "learned",
)
RMIA_A, RMIA_GAMMA = 0.3, 1.0
_NO_REFERENCE, _NO_SHADOWS = "no reference model was given", "no shadow models were given"
_NO_OTHERS = "no records stand aside"


@dataclass(frozen=True, eq=False)
class Scored:
    """One model's scores of an audit's records.

    Attributes:
        name: of the model.
        told: what the model says of each token, with pooled hidden states.
        signals: (records,) each, by name, higher saying "member"; NaN where a record has none.
        left_out: why a signal is not there, by name.
        reference: what the reference says of each token, if there is one.
    """

    name: str
    told: TokenScores
    signals: dict[str, np.ndarray]
    left_out: dict[str, str] = field(default_factory=dict)
    reference: TokenScores | None = None


@dataclass(frozen=True, eq=False)
class Passes:
    """How passes are run: where they are kept, who is told, and what stops them."""

    cache: Path | None = None
    on_progress: OnProgress | None = None
    stop: threading.Event | None = None

    def cache_of(self, subject: Subject) -> ScoreCache | None:
        """The cache of one model."""
        if self.cache is None:
            return None
        return ScoreCache(self.cache, model=model_digest(subject.model))

    def over(
        self,
        subject: Subject,
        rows: Sequence[Sequence[int]],
        cache: ScoreCache | None,
        *,
        hidden: bool = False,
    ) -> TokenScores:
        """One pass of a model over rows of tokens."""
        return score_rows(
            subject.model,
            rows,
            hidden=hidden,
            cache=cache,
            what=subject.name,
            on_progress=self.on_progress,
            stop=self.stop,
        )


def scored(
    subject: Subject,
    records: AuditRecords,
    *,
    wanted: Collection[str] = ATTACKS,
    reference: Subject | None = None,
    shadows: Shadows | None = None,
    passes: Passes | None = None,
    seed: int = 0,
) -> Scored:
    """All wanted signals of one model.

    Args:
        subject: the model under test.
        records: of the audit.
        wanted: names of `ATTACKS`.
        reference: a second model with the same tokens, for ratio, RMIA, EZ and windows.
        shadows: of `workbench.audit.shadows`, for LiRA.
        passes: how passes are run.
        seed: of neighbours and folds.

    Raises `InputError` for an unknown signal, texts that give no token, or a reference whose
    tokenizer gives other tokens.
    """
    unknown = [name for name in wanted if name not in ATTACKS]
    if unknown or not wanted:
        raise InputError(
            f"signal {', '.join(unknown) or 'none'} is not one of {', '.join(ATTACKS)}; choose "
            "from these."
        )
    passes = passes or Passes()
    work = _Work(subject, records, reference, shadows, passes, seed)
    told, left_out = {}, {}
    for name in (name for name in ATTACKS if name in wanted and name != "learned"):
        if why := work.lacks(name):
            left_out[name] = why
        else:
            told[name] = work.signal(name)
    if "learned" in wanted:
        features = attack_features(work.told, list(told.values()))
        told["learned"] = cross_fitted(features, records.member, records.group, seed=seed)
    return Scored(subject.name, work.told, told, left_out, work.reference_told)


class _Work:
    """One model's passes, each made when it is first needed."""

    def __init__(
        self,
        subject: Subject,
        records: AuditRecords,
        reference: Subject | None,
        shadows: Shadows | None,
        passes: Passes,
        seed: int,
    ) -> None:
        self.subject, self.records, self.reference = subject, records, reference
        self.shadows, self.passes, self.seed = shadows, passes, seed
        self.cache = passes.cache_of(subject)
        self.rows = _rows(subject, records.texts, records.most_tokens)
        self.other_rows = (
            _rows(subject, records.others, records.most_tokens) if records.others else []
        )
        self.told = passes.over(subject, self.rows, self.cache, hidden=True)
        self.reference_told: TokenScores | None = None
        self._reference_others: TokenScores | None = None
        if reference is not None:
            self._score_reference(reference)

    def lacks(self, name: str) -> str:
        """What a signal needs and is not there; empty if nothing."""
        if name in ("reference", "rmia", "ez", "window") and self.reference is None:
            return _NO_REFERENCE
        if name in ("recall", "rmia") and not self.other_rows:
            return _NO_OTHERS
        if name in ("lira_online", "lira_offline"):
            if self.shadows is None:
                return _NO_SHADOWS
            phi = getattr(self.shadows, name)(self.told.mean_log_p())
            for side in (self.records.member, ~self.records.member):
                if np.isnan(phi[side]).all():
                    return "too few shadow models had the records, or had them not"
        return ""

    def signal(self, name: str) -> np.ndarray:
        """One signal, (records,)."""
        if name in FROM_ONE_PASS:
            return signal_of(self.told, self.records.texts, name)  # type: ignore[arg-type]
        if name in ("lira_online", "lira_offline"):
            return getattr(self.shadows, name)(self.told.mean_log_p())
        also = {"on_progress": self.passes.on_progress, "stop": self.passes.stop}
        model, rows = self.subject.model, self.rows
        match name:
            case "recall":
                start = self.subject.tokenizer.bos_token_id
                of = start if isinstance(start, int) else None
                prefix = self.other_rows
                return recall(model, rows, self.told, prefix, start=of, cache=self.cache, **also)
            case "neighbourhood":
                return neighbourhood(
                    model, rows, self.told, seed=self.seed, cache=self.cache, **also
                )
            case "gradient_norm":
                return -gradient_norms(model, rows, **also)
            case "reference":
                return self.told.mean_log_p() - self._ref.mean_log_p()
            case "rmia":
                return self._rmia()
            case "ez":
                wrong = [~hit for hit in self.told.of(self.told.first_guess)]
                pairs = zip(*self._pairs(), wrong, strict=True)
                return np.array([signals.ez_score(*pair) for pair in pairs])
            case _:
                pairs = zip(*self._pairs(), strict=True)
                return np.array([signals.window_score(*pair) for pair in pairs])

    @property
    def _ref(self) -> TokenScores:
        assert self.reference_told is not None
        return self.reference_told

    def _pairs(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Log p of each record's tokens under the model and under the reference."""
        return list(self.told.of(self.told.log_p)), list(self._ref.of(self._ref.log_p))

    def _rmia(self) -> np.ndarray:
        others = self.passes.over(self.subject, self.other_rows, self.cache)
        assert self._reference_others is not None
        return signals.rmia(
            np.exp(self.told.mean_log_p()),
            np.exp(self._ref.mean_log_p()),
            np.exp(others.mean_log_p()),
            np.exp(self._reference_others.mean_log_p()),
            a=RMIA_A,
            gamma=RMIA_GAMMA,
        )

    def _score_reference(self, reference: Subject) -> None:
        rows = _rows(reference, self.records.texts, self.records.most_tokens)
        if rows != self.rows:
            raise InputError(
                f"The reference {reference.name} cuts the records into other tokens than "
                f"{self.subject.name}; give a reference with the same tokenizer, or none."
            )
        cache = self.passes.cache_of(reference)
        self.reference_told = self.passes.over(reference, rows, cache)
        if self.other_rows:
            self._reference_others = self.passes.over(reference, self.other_rows, cache)


def tidy(found: Sequence[Scored], records: AuditRecords) -> pd.DataFrame:
    """A row a record, signal and model: model, signal, record, member, group, score."""
    frames = [
        pd.DataFrame(
            {
                "model": scored.name,
                "signal": name,
                "record": np.arange(len(records)),
                "member": records.member,
                "group": records.group,
                "score": values,
            }
        )
        for scored in found
        for name, values in scored.signals.items()
    ]
    return pd.concat(frames, ignore_index=True)


def _rows(subject: Subject, texts: Sequence[str], most_tokens: int | None) -> list[list[int]]:
    return encoded(subject.model, subject.tokenizer, texts, most_tokens)
