"""What the audit panel says in sentences and cards: pure functions from results to HTML."""

import html
import math
from collections.abc import Mapping, Sequence

import numpy as np

from workbench.analysis.audited import CANARIES, AuditedRun
from workbench.analysis.ruler import Mark
from workbench.analysis.thresholds import CELLS, Outcome
from workbench.panels.audit.form import signal_name
from workbench.panels.audit.job import AuditState
from workbench.panels.common.formatting import duration, written_reading
from workbench.panels.common.markup import card, message_html

READY = (
    "<b>Ready.</b> Choose runs and press Audit. Without any, <b>Train and audit</b> trains a tiny "
    "model with privacy and one without, in a few minutes on two cores, and attacks both."
)
EMPTY = '<div class="wb-status">Curves, counts and ε appear here once something is audited.</div>'
_SHORT = 78  # letters of a record in a list
_MEANINGS = {
    "true positives": "members, called members",
    "false positives": "others, called members",
    "false negatives": "members, missed",
    "true negatives": "others, let go",
}


def message(state: AuditState) -> str:
    """What the work is doing, or how it ended."""
    left = f", about {duration(state.seconds, rough=True)} left" if state.seconds > 0 else ""
    words = {
        "working": f"<b>Working:</b> {html.escape(state.doing or 'preparing')}{left}. The kernel "
        "is free for other cells.",
        "cancelling": "<b>Cancelling</b>: the step in hand is finished first.",
        "cancelled": "<b>Cancelled.</b> What was trained and scored is kept; the same button goes "
        "on from there.",
        "failed": f"<b>Failed.</b> {html.escape(state.error)}",
        "done": "<b>Done.</b>",
    }[state.phase]
    colour = "running" if state.phase == "working" else state.phase
    return message_html(words, state=colour)


def verdict(run: AuditedRun, signal: str) -> str:
    """What the audit as a whole lets one say, with the controls that it rests on."""
    found = run.audit
    positive = _positive(run)
    controls = [
        f"<b>Blind baseline</b>, which sees texts and no model: {_control(found.blind)}.",
        f"<b>Positive control</b>, the same on the twin without privacy: {positive}.",
        f"<b>Negative control</b>, {html.escape(signal_name(signal))} against shuffled membership: "
        f"{_control(run.result(signal).shuffled)}.",
    ]
    lines = "".join(f"<li>{line}</li>" for line in controls)
    own = "" if run.canaries is None else f"<p>{_of_canaries(run)}</p>"
    if found.own_curve is not None:
        own += f"<p>The records' guesses' test {html.escape(str(found.own_curve))}.</p>"
    return (
        f'<div class="wb-verdict" data-outcome="{_outcome(run)}" role="status">'
        f"<h4>{html.escape(run.label)}: {_headline(run)}</h4>"
        f"<p>{html.escape(found.verdict.words)}</p>{own}<ul>{lines}</ul>{_records(run)}</div>"
    )


def counts(outcome: Outcome, *, auc: float) -> str:
    """The four counts and the rates at the threshold; a rate that n cannot show is greyed."""
    stale = "" if outcome.resolved else " wb-stale"
    least = f"1 of {outcome.nonmembers:,} is the least"
    told = "" if outcome.resolved else f"too few to tell: {least}"
    cells = [
        card(
            name.capitalize(),
            f"{getattr(outcome, name.replace(' ', '_')):,}",
            _MEANINGS[name],
        )
        for name in CELLS
    ]
    called = outcome.true_positives + outcome.false_positives
    rates = [
        card(
            "TPR",
            f"{outcome.tpr:.3f}",
            f"95 %: {outcome.tpr_low:.3f}–{outcome.tpr_high:.3f}",
        ),
        f'<div class="wb-rate{stale}">{card("FPR", f"{outcome.fpr:.4g}", told or least)}</div>',
        card(
            "Precision",
            "–" if math.isnan(outcome.precision) else f"{outcome.precision:.3f}",
            f"of {called:,} called members",
        ),
        card("AUC", f"{auc:.3f}", "of this curve, all thresholds"),
    ]
    return f'<div class="wb-cards wb-audit-cards">{"".join(cells + rates)}</div>'


def fallen(nearest: Mapping[str, np.ndarray], texts: Sequence[str], scores: np.ndarray) -> str:
    """The records nearest to the threshold in each of the four cells."""
    boxes = []
    for name in CELLS:
        rows = "".join(
            f"<li><b>{written_reading(float(scores[i]))}</b> {html.escape(short(texts[i]))}</li>"
            for i in map(int, nearest[name])
        )
        listed = f"<ol>{rows}</ol>" if rows else "<p>none</p>"
        boxes.append(f'<div class="wb-card"><h4>Nearest {name}</h4>{listed}</div>')
    return f'<div class="wb-fallen">{"".join(boxes)}</div>'


def ruler_words(marks: Sequence[Mark]) -> str:
    """Every mark in words, with its kind first."""
    rows = "".join(
        f'<li><span class="wb-badge">{mark.kind}</span> <b>{_value(mark)}</b> '
        f"{html.escape(mark.name)}: {html.escape(mark.words)}</li>"
        for mark in marks
    )
    return f'<ul class="wb-marks">{rows}</ul>{_KINDS}'


def _value(mark: Mark) -> str:
    written = html.escape(mark.written)
    return written if math.isinf(mark.value) else f"ε {written}"


def short(text: str) -> str:
    """The beginning of a record, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= _SHORT else f"{line[: _SHORT - 1]}…"


def _outcome(run: AuditedRun) -> str:
    """What decides the colour: canaries prove a leak whatever the records show."""
    proven = run.canaries is not None and run.canaries.certificate.value > 0
    return "leak found" if proven else run.audit.verdict.outcome


def _headline(run: AuditedRun) -> str:
    outcome = run.audit.verdict.outcome
    if run.canaries is None:
        return outcome
    value = run.canaries.certificate.value
    canaries = f"leak found, ε ≥ {value:.2f} (certificate)" if value > 0 else "nothing certified"
    return f"by its records, {outcome}; by its canaries, {canaries}"


def _control(control: object) -> str:
    auc, low, high = (getattr(control, name) for name in ("auc", "low", "high"))
    return f"AUC {auc:.3f} (95 %: {low:.3f}–{high:.3f})"


def _positive(run: AuditedRun) -> str:
    results = run.audit.positive
    if not run.private:
        return "not needed, this model has no privacy"
    if not results:
        return "none; choose the run without privacy on the same corpus and seed as well"
    best = max(results, key=lambda result: result.auc_low)
    words = f"{html.escape(signal_name(best.signal))} does best there, {_control_of(best)}"
    return words if best.auc_low > 0.5 else f"{words}, which guessing gives, too"


def _control_of(result: object) -> str:
    auc = result.curve.auc  # type: ignore[attr-defined]
    low, high = result.auc_low, result.auc_high  # type: ignore[attr-defined]
    return f"AUC {auc:.3f} (95 %: {low:.3f}–{high:.3f})"


def _of_canaries(run: AuditedRun) -> str:
    found = run.canaries
    assert found is not None
    result = run.result(CANARIES)
    told = html.escape(str(result.epsilons[0]))
    against = ""
    if found.contradicts:
        against = " <b>This refutes the guarantee: the run is not as private as it claims.</b>"
    elif found.own_p_value is not None:
        against = f" The run's own (σ, q, T) is not refuted: p = {found.own_p_value:.2g}."
    return (
        f"<b>Canaries</b>, {len(found.planted):,} planted by fair coins: AUC "
        f"{result.curve.auc:.3f}; {told}.{against}"
    )


def _records(run: AuditedRun) -> str:
    records = run.audit.records
    members = int(records.member.sum())
    coins = (
        "sent to their side by fair coins"
        if records.fair_coins
        else "not split by fair coins, so that no count of guesses is a certificate"
    )
    removed = ", ".join(f"{n:,} {html.escape(why)}" for why, n in records.removed.items() if n)
    gone = f"; left out: {removed}" if removed else ""
    return (
        f"<small>{members:,} members and {len(records) - members:,} others, {coins}{gone}.</small>"
    )


_KINDS = (
    "<small>A <b>certificate</b> refutes any smaller ε, at its confidence. One that <b>rejects a "
    "curve</b> refutes Gaussian mechanisms alone. An <b>estimate</b> may exceed the truth. A "
    "<b>heuristic</b> assumes what the attacker sees. None of them is an upper bound: only the "
    "accountant’s ε is.</small>"
)
