"""Audited runs made of drawn scores, so that no model has to be trained to test what shows them."""

from pathlib import Path

import numpy as np
import pandas as pd

from workbench import audit, privacy
from workbench.analysis.audited import AuditedRun
from workbench.analysis.point_metrics import ceilings
from workbench.audit.attack import Audit
from workbench.audit.attacks import Scored
from workbench.audit.canaries import audited
from workbench.audit.controls import Control
from workbench.audit.measures import measured
from workbench.audit.per_token import TokenScores
from workbench.audit.records import AuditRecords
from workbench.audit.verdict import verdict
from workbench.config import RunConfig
from workbench.privacy.terms import PrivacyTerms
from workbench.runs.planted import Planted

RECORDS, TOKENS, CANARIES = 200, 6, 60
DELTA = 1e-5
HISTORY = [(1.0, 0.05, 100)]
NASTY = "<script>alert('x')</script> & more"


def made_run(
    *,
    private: bool = True,
    leak: float = 0.0,
    label: str = "",
    repeats: int = 1,
    records: int = RECORDS,
    seed: int = 0,
) -> AuditedRun:
    """A run whose members score ``leak`` deviations above the others, on records all share."""
    member = np.arange(records) % 2 == 0
    rng = np.random.default_rng(seed)
    tested = AuditRecords(
        texts=tuple(f"{NASTY} {i}" for i in range(records)),
        member=member,
        group=np.arange(records),
        fair_coins=True,
    )
    told, reference = _told(rng, leak * member), _told(rng, np.zeros(records))
    signals = {
        "loss": told.mean_log_p(),
        "reference": told.mean_log_p() - reference.mean_log_p(),
    }
    results = tuple(
        measured(name, values, member, delta=DELTA, significance=0.025)
        for name, values in signals.items()
    )
    guarantee = privacy.guarantee(HISTORY, PrivacyTerms.of_training(DELTA)) if private else None
    blind = Control("blind baseline", 0.5, 0.45, 0.55)
    found = Audit(
        name="run",
        records=tested,
        target=Scored("run", told, signals, reference=reference),
        results=results,
        blind=blind,
        positive=results if private and leak else (),
        verdict=verdict(results, blind, private=private),
        significance=0.05,
        delta=DELTA,
        guarantee=guarantee,
        own_curve=None,
        heuristic=None,
        scores=pd.DataFrame(),
    )
    config = RunConfig().with_changes({"privacy.private": private})
    bounds = ceilings(guarantee.epsilon if guarantee else np.inf, DELTA)
    words = {i: f"<{i}>" for i in range(TOKENS)}
    return AuditedRun(
        path=Path(f"runs/{label or private}"),
        label=label or ("private" if private else "not private"),
        config=config,
        audit=found,
        canaries=_canaries(rng, leak, repeats, private=private),
        canary_texts=tuple(f"canary {i}" for i in range(CANARIES)),
        layers=audit.embedding_attack(rng.normal(size=(records, 3, 4)), member),
        ceilings=bounds,
        mechanism=bounds.gaussian if private else None,
        tokens=words,
    )


def _told(rng: np.random.Generator, shift: np.ndarray) -> TokenScores:
    records = len(shift)
    log_p = rng.normal(-3, 1, size=(records, TOKENS)) + shift[:, None]
    many = records * TOKENS
    return TokenScores(
        offsets=np.arange(records + 1) * TOKENS,
        ids=np.tile(np.arange(TOKENS), records),
        log_p=log_p.ravel(),
        mean=np.full(many, -3.0),
        deviation=np.ones(many),
        first_guess=np.zeros(many, dtype=bool),
    )


def _canaries(
    rng: np.random.Generator, leak: float, repeats: int, *, private: bool
) -> audit.CanaryAudit:
    included = rng.integers(2, size=CANARIES).astype(bool)
    planted = Planted(
        kind="new_token",
        repeats=repeats,
        rows=tuple((1, 2, 3) for _ in range(CANARIES)),
        learnt_from=np.full(CANARIES, 2),
        scored_from=np.full(CANARIES, 2),
        before=np.zeros(CANARIES),
        included=included,
    )
    terms = PrivacyTerms.of_training(DELTA)
    history = HISTORY if private else [(0.0, 0.05, 100)]
    scores = rng.normal(size=CANARIES) + 3 * leak * included
    own = HISTORY if private and repeats == 1 else []
    return audited(
        planted, scores, privacy.guarantee(history, terms), significance=0.05, history=own
    )
