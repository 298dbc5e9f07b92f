"""An audit as a table on a terminal, as JSON and as files."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.audit.bounds import Kind
from workbench.audit.measures import RATES, SignalResult
from workbench.errors import InputError
from workbench.runs.files import replace_text

if TYPE_CHECKING:
    from workbench.audit.attack import Audit

_KINDS: tuple[Kind, ...] = ("certificate", "rejects a curve", "estimate")


def as_text(audit: "Audit") -> str:
    """The table, the controls and the verdict."""
    records = audit.records
    inside = int(records.member.sum())
    lines = [
        f"{audit.name}: {inside:,} members, {len(records) - inside:,} others"
        f"{_removed(records.removed)}",
        "",
        _table(audit),
        "",
        *(f"left out: {name}, because {why}" for name, why in audit.left_out.items()),
        str(audit.blind),
        _positive(audit.positive),
    ]
    if audit.guarantee is not None:
        lines.append(f"accountant (upper bound): {audit.guarantee}")
    if audit.own_curve is not None:
        lines.append(f"the guesses' test {audit.own_curve}")
    if audit.heuristic is not None:
        lines.append(f"what the last weights could show: {audit.heuristic}")
    loss = next((r for r in audit.results if r.article is not None), None)
    if loss is not None and loss.article is not None:
        of = loss.article
        lines.append(
            f"by the article's own rules: TPR@0.1 {of.tpr:.3f} (exact: {loss.curve.tpr_at(0.1):.3f}"
            f"), loss gap {of.loss_gap:.3f} nats; it would say: {of.words}"
        )
    strongest = max(audit.results, key=lambda r: max(e.value for e in r.epsilons[:2]), default=None)
    if strongest is not None:
        lines += [f"{strongest.signal}: {told}" for told in strongest.epsilons]
        lines += [f"  premise: {told.premise}" for told in strongest.epsilons[:1] if told.premise]
    level = f"{100 * (1 - audit.significance):g} %"
    lines.append(f"All ε hold together at {level}: each signal has an equal share.")
    return "\n".join([*lines, "", f"Verdict: {audit.verdict.words}"])


def as_dict(audit: "Audit") -> dict[str, Any]:
    """All but the scores, as JSON holds it."""
    records = audit.records
    return {
        "model": audit.name,
        "members": int(records.member.sum()),
        "nonmembers": int((~records.member).sum()),
        "removed": records.removed,
        "fair_coins": records.fair_coins,
        "significance": audit.significance,
        "delta": audit.delta,
        "verdict": audit.verdict.as_dict(),
        "blind": vars(audit.blind),
        "signals": [result.as_dict() for result in audit.results],
        "positive_control": [result.as_dict() for result in audit.positive],
        "left_out": audit.left_out,
        "guarantee": None if audit.guarantee is None else audit.guarantee.as_dict(),
        "own_curve": None if audit.own_curve is None else audit.own_curve.as_dict(),
        "heuristic": None if audit.heuristic is None else audit.heuristic.as_dict(),
    }


def write(audit: "Audit", folder: Path) -> Path:
    """Write ``audit.json`` and ``scores.parquet`` into ``folder``; return the first.

    The scores are of private records and as confidential as they are. Raises `InputError` if the
    folder cannot be written; what the passes gave is kept in the cache.
    """
    path = folder / "audit.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / ".scores.parquet.partial"
        audit.scores.to_parquet(partial, index=False)
        partial.replace(folder / "scores.parquet")
        text = json.dumps(as_dict(audit), indent=2, ensure_ascii=False, allow_nan=False)
        replace_text(path, text + "\n")
    except OSError as error:
        raise InputError(
            f"Cannot write {folder}: {error.strerror or error}; choose another with --out."
        ) from None
    return path


def _table(audit: "Audit") -> str:
    head = ["signal", "AUC", "95 %", *(f"TPR@{rate:g}" for rate in RATES), "gap", *_KINDS]
    rows = [head, *(_row(result) for result in audit.results)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _row(result: SignalResult) -> list[str]:
    return [
        result.signal,
        f"{result.curve.auc:.3f}",
        f"{result.auc_low:.3f}–{result.auc_high:.3f}",
        *(f"{rate.tpr:.3f}" if rate.resolved else "too few" for rate in result.rates),
        f"{result.gap:.3f}" if np.isfinite(result.gap) else "–",
        *(_largest(result, kind) for kind in _KINDS),
    ]


def _largest(result: SignalResult, kind: Kind) -> str:
    """The first statement of a kind, whose method is fixed; never the largest of several."""
    told = [epsilon.value for epsilon in result.epsilons if epsilon.kind == kind]
    return f"{told[0]:.2f}" if told else "–"


def _positive(results: Sequence[SignalResult]) -> str:
    if not results:
        return "positive control: none was given"
    told = (f"{r.signal} {r.curve.auc:.3f} ({r.auc_low:.3f}–{r.auc_high:.3f})" for r in results)
    return f"positive control, AUC on the non-private twin: {', '.join(told)}"


def _removed(removed: dict[str, int]) -> str:
    told = ", ".join(f"{count:,} {why}" for why, count in removed.items() if count)
    return f" (left out: {told})" if told else ""
