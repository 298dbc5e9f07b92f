"""A whole audit: records, passes, signals, controls, and what they say together.

>>> from workbench import audit  # doctest: +SKIP
>>> told = audit.audit_run("runs/mine", twin="runs/mine-without-privacy")  # doctest: +SKIP
>>> print(told)  # doctest: +SKIP
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.audit.attacks import ATTACKS, Passes, Scored, scored, tidy
from workbench.audit.controls import Control, blind_baseline
from workbench.audit.evidence import EmpiricalEpsilon, Rule
from workbench.audit.last_iterate import last_iterate_epsilon
from workbench.audit.measures import SignalResult, measured
from workbench.audit.own_curve import OwnCurve, compared_with_own_curve
from workbench.audit.records import MOST, AuditRecords, run_records
from workbench.audit.shadows import Shadows, shadow_runs, shadow_scores
from workbench.audit.subjects import Subject, start_of, subject
from workbench.audit.verdict import Verdict, verdict
from workbench.errors import InputError, probability
from workbench.privacy import Guarantee
from workbench.runs.folder import RunRecord

_NO_COINS = "members and non-members were not decided by independent fair coins"
_LOOKED = "its scores look at the membership of other records"


@dataclass(frozen=True, eq=False)
class Audit:
    """What an audit found.

    Attributes:
        name: of the model under test.
        records: what it was audited on.
        target: the model's own scores and what it says of each token.
        results: a `SignalResult` each signal, in the order of `ATTACKS`.
        blind: the blind baseline.
        positive: the same results for the non-private twin; empty without one.
        verdict: in words.
        significance: of all statements together; each signal has an equal share of it.
        delta: δ of the guarantee under test.
        guarantee: what the accountant certifies of a run, from its ledger; None for other models.
        own_curve: the run's own mechanism against the guesses of its strongest signal.
        heuristic: what the last weights alone could show; None where q, σ or C change.
        scores: a row a record, signal and model (`workbench.audit.attacks.tidy`).
        left_out: why a signal is not there, by name.
    """

    name: str
    records: AuditRecords
    target: Scored
    results: tuple[SignalResult, ...]
    blind: Control
    positive: tuple[SignalResult, ...]
    verdict: Verdict
    significance: float
    delta: float
    guarantee: Guarantee | None
    own_curve: OwnCurve | None
    heuristic: EmpiricalEpsilon | None
    scores: pd.DataFrame
    left_out: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, signal: str) -> SignalResult:
        """The result of a signal."""
        return next(result for result in self.results if result.signal == signal)

    def __str__(self) -> str:
        from workbench.audit.report import as_text

        return as_text(self)

    def as_dict(self) -> dict[str, Any]:
        """All of it but the scores, as JSON holds it."""
        from workbench.audit.report import as_dict

        return as_dict(self)


def audit_run(
    run: str | Path,
    *,
    signals: Collection[str] = ATTACKS,
    reference: str | Path | None = None,
    twin: str | Path | None = None,
    shadows: str | Path | None = None,
    most: int = MOST,
    significance: float = 0.05,
    rule: Rule | None = None,
    seed: int = 0,
    passes: Passes | None = None,
) -> Audit:
    """Audit the last checkpoint of a run of ours.

    Args:
        run: its folder. Members are training records and the others are held-out records, both by
            fair coins (`workbench.audit.records.run_records`).
        signals: names of `ATTACKS`.
        reference: a run or model folder; what the run began with, if not given.
        twin: the run folder of the same configuration without privacy, as a positive control.
        shadows: a sweep's folder whose runs differ in their seed, for LiRA.
        most: records at most.
        significance: of all statements together.
        rule: how guess counts are fixed.
        seed: of all that is drawn.
        passes: where scores are kept, who is told, and what stops them; in ``RUN/audit/cache`` if
            not given.

    Raises `InputError` for folders that cannot be audited, `CancelledError` if stopped.
    """
    target = subject(run)
    if target.run is None:
        raise InputError(f"{run} is no run folder; give members and non-members with it.")
    passes = passes or Passes(cache=target.run.path / "audit" / "cache")
    records = run_records(target.run.config, most=most, seed=seed)
    other = subject(reference) if reference is not None else start_of(target)
    return _audit(
        target,
        records,
        signals,
        other,
        _twin(twin, target.run),
        _shadows(shadows, target.run, records, passes),
        target.run.config.privacy.delta,
        significance,
        rule,
        seed,
        passes,
    )


def audit_model(
    model: str | Path,
    records: AuditRecords,
    *,
    signals: Collection[str] = ATTACKS,
    reference: str | Path | None = None,
    twin: str | Path | None = None,
    delta: float = 1e-5,
    significance: float = 0.05,
    rule: Rule | None = None,
    seed: int = 0,
    passes: Passes | None = None,
) -> Audit:
    """Audit any causal language model on given records; see `audit_run`.

    Args:
        model: a folder that `transformers` loads, read offline and without code of its own.
        records: from `workbench.audit.records.file_records` or `text_records`.
        signals: names of `ATTACKS`.
        reference: a folder with a second model of the same tokenizer, for signals that compare.
        twin: a folder with a model that surely remembers the members, as a positive control.
        delta: δ of the guarantee under test.
        significance: of all statements together.
        rule: how guess counts are fixed.
        seed: of all that is drawn.
        passes: where scores are kept, who is told, and what stops them.
    """
    probability("delta", delta, remedy="choose that of the guarantee, such as 1e-5")
    return _audit(
        subject(model),
        records,
        signals,
        subject(reference) if reference is not None else None,
        subject(twin) if twin is not None else None,
        None,
        delta,
        significance,
        rule,
        seed,
        passes or Passes(),
    )


def _audit(
    target: Subject,
    records: AuditRecords,
    wanted: Collection[str],
    reference: Subject | None,
    twin: Subject | None,
    shadows: Shadows | None,
    delta: float,
    significance: float,
    rule: Rule | None,
    seed: int,
    passes: Passes,
) -> Audit:
    probability("significance", significance, remedy="choose one such as 0.05")
    rule = rule or Rule()
    blind = blind_baseline(records.texts, records.member, records.group, seed=seed)
    common = {"wanted": wanted, "reference": reference, "passes": passes, "seed": seed}
    own = scored(target, records, shadows=shadows, **common)
    other = None if twin is None else scored(twin, records, **common)
    results, positive = (
        () if of is None else _measured(of, records, delta, significance, rule, seed)
        for of in (own, other)
    )
    return Audit(
        name=target.name,
        records=records,
        target=own,
        results=results,
        blind=blind,
        positive=positive,
        verdict=verdict(results, blind, positive, private=target.private),
        significance=significance,
        delta=delta,
        guarantee=target.run.ledger.guarantee() if target.private and target.run else None,
        own_curve=_own_curve(target, results, rule),
        heuristic=_heuristic(target, delta),
        scores=tidy([own] if other is None else [own, other], records),
        left_out=own.left_out,
    )


def _measured(
    of: Scored,
    records: AuditRecords,
    delta: float,
    significance: float,
    rule: Rule,
    seed: int,
) -> tuple[SignalResult, ...]:
    """Every signal's numbers, each at its share of the significance."""
    coins = "" if records.fair_coins else _NO_COINS
    return tuple(
        measured(
            name,
            values,
            records.member,
            delta=delta,
            significance=significance / len(of.signals),
            rule=rule,
            premise=_LOOKED if name == "learned" else coins,
            seed=seed,
        )
        for name, values in of.signals.items()
    )


def _own_curve(target: Subject, results: tuple[SignalResult, ...], rule: Rule) -> OwnCurve | None:
    """The claimed mechanism against the guesses of the strongest signal, at its share."""
    told = [e for r in results for e in r.epsilons if e.kind == "rejects a curve"]
    if not target.private or target.run is None or not told or not target.run.ledger.steps:
        return None
    if target.run.config.privacy.sampling != "poisson":
        return None
    best = max(told, key=lambda epsilon: epsilon.value)
    assert best.significance is not None
    tried = len(rule.offered(best.counts["n_canaries"])) if rule.name == "paid" else 1
    counts = (best.counts[name] for name in ("n_canaries", "n_guesses", "n_correct"))
    history = target.run.ledger.history
    return compared_with_own_curve(history, *counts, significance=best.significance / tried)


def _heuristic(target: Subject, delta: float) -> EmpiricalEpsilon | None:
    if not target.private or target.run is None or len(target.run.ledger.history) != 1:
        return None
    sigma, rate, steps = target.run.ledger.history[0]
    value = last_iterate_epsilon(sigma, rate, steps, delta=delta)
    return EmpiricalEpsilon(
        value, "heuristic", "last weights alone, linear loss", None, delta, premise="a linear loss"
    )


def _twin(twin: str | Path | None, run: RunRecord) -> Subject | None:
    """The twin, if it was trained on the same records without privacy."""
    if twin is None:
        return None
    found = subject(twin)
    own = run.config
    if found.run is not None:
        other = found.run.config
        if other.privacy.private:
            raise InputError(
                f"{twin} was trained with privacy, but a positive control needs none; give a run "
                "with privacy.private: false."
            )
        if (other.corpus, other.seed) != (own.corpus, own.seed):
            raise InputError(
                f"{twin} was trained on other records than {run.path.name}; give a twin with the "
                "same corpus and seed."
            )
    return found


def _shadows(
    sweep: str | Path | None, run: RunRecord, records: AuditRecords, passes: Passes
) -> Shadows | None:
    if sweep is None:
        return None
    return shadow_scores(
        shadow_runs(sweep, run),
        records.texts,
        cache=passes.cache,
        on_progress=passes.on_progress,
        stop=passes.stop,
    )
