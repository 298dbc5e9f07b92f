"""The audit panel's further views as HTML: signals, exposed records, canaries, the article."""

import html
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from workbench import privacy
from workbench.analysis.audited import CANARIES, AuditedRun
from workbench.analysis.exposure import LowerRisk
from workbench.audit.article import ALARM_GAP, ALARM_TPR, EXPECTED_GAP, TARGET_FPR
from workbench.audit.canaries import CanaryAudit
from workbench.audit.measures import RATES, SignalResult
from workbench.audit.mechanism import MechanismReport
from workbench.panels.audit.form import signal_name
from workbench.panels.audit.text import short
from workbench.panels.common.formatting import written, written_reading

_STRONG = 2.0  # nats a token that are printed bold
_DEEPEST = 4.0  # nats at which the colour is strongest


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """A table whose cells are HTML already."""
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f'<div class="wb-table"><table aria-label="{html.escape(caption)}"><thead><tr>{head}</tr>'
        f"</thead><tbody>{body}</tbody></table></div>"
    )


def signals(run: AuditedRun) -> str:
    """A row a signal: AUC, rates, and its first ε of each kind."""
    heads = ["signal", "AUC", "95 %", *(f"TPR at {rate:g}" for rate in RATES)]
    heads += ["certificate", "rejects a curve", "estimate"]
    rows = [_signal_row(run.result(name)) for name in run.signals]
    left = "".join(
        f"<br>Left out: {html.escape(signal_name(name))}, because {html.escape(why)}."
        for name, why in run.audit.left_out.items()
    )
    share = run.audit.significance / max(1, len(run.audit.results))
    note = (
        f"<small>Each ε of a signal of records holds at {100 * (1 - share):.4g} %, so that all of "
        f"them hold together at {100 * (1 - run.audit.significance):g} %; canaries are an audit of "
        f"their own. Grey: so few others cannot show this rate.{left}</small>"
    )
    return table(heads, rows, f"Signals of {run.label}") + note


def exposed(frame: pd.DataFrame, names: Sequence[str]) -> str:
    """The most exposed records, with score and rank under each model."""
    heads = ["record", *(f"{html.escape(name)}<br>score · above" for name in names)]
    rows = [
        [
            html.escape(short(str(row["text"]))),
            *(
                f"{written_reading(row[f'{name}: score'])} · {row[f'{name}: above']:.0%}"
                for name in names
            ),
        ]
        for row in frame.to_dict("records")
    ]
    note = "<small>Above: the share of non-members that score lower. Guessing gives 50 %.</small>"
    return table(heads, rows, "The most exposed records") + note


def heat(words: Sequence[str], gains: np.ndarray, name: str) -> str:
    """A record's tokens, coloured by how much likelier training has made each, in nats."""
    pieces = "".join(_token(word, float(gain)) for word, gain in zip(words, gains, strict=True))
    order = [int(place) for place in np.argsort(-gains)[:3]]
    most = ", ".join(f"“{html.escape(words[i].strip())}” {gains[i]:+.1f}" for i in order)
    return (
        f'<div class="wb-heat"><h4>{html.escape(name)}: {gains.sum():+.1f} nats in all, most at '
        f"{most}</h4><p>{pieces}</p></div>"
    )


def canaries(runs: Sequence[AuditedRun]) -> str:
    """A row a run with canaries, by how often each was planted."""
    having = [run for run in runs if run.canaries is not None]
    if not having:
        return "<p>None of these runs has canaries; “Train and audit” trains some that do.</p>"
    heads = ["model", "canaries", "copies", "AUC", "TPR at 0.01", "certificate"]
    heads += ["most it could show", "accountant, one copy", "of all copies", "own curve, p"]
    rows = []
    for run in sorted(having, key=lambda run: _canaries_of(run).planted.repeats):
        found, result = _canaries_of(run), run.result(CANARIES)
        own, group = found.guarantee.epsilon, found.ceiling[0]
        planted = found.planted
        rows.append(
            [
                html.escape(run.label),
                f"{len(planted):,} {planted.kind.replace('_', ' ')}, {planted.included.sum():,} in",
                f"{planted.repeats}",
                f"{result.curve.auc:.3f}",
                _rate(result, 1),
                f"ε ≥ {found.certificate.value:.2f}",
                f"{found.cap:.2f}",
                _upper(own),
                _upper(group),
                "–" if found.own_p_value is None else f"{found.own_p_value:.2g}",
            ]
        )
    return table(heads, rows, "Canaries by run") + (
        "<small>A certificate from k copies is of a group of k, and stands against k times the ε "
        "of one record.</small>"
    )


def article(run: AuditedRun) -> str:
    """The article's numbers beside the exact ones, and what its thresholds can show."""
    if "loss" not in run.signals:
        return "<p>The article measures the loss; choose that signal to see its numbers.</p>"
    result = run.result("loss")
    numbers = result.article
    assert numbers is not None
    curve = result.curve
    low, high = curve.tpr_interval(TARGET_FPR)
    exact = f"{curve.tpr_at(TARGET_FPR):.3f} (95 %: {low:.3f}–{high:.3f})"
    theirs = (
        f"{numbers.tpr:.3f}, the best of {numbers.in_window} thresholds"
        if numbers.in_window
        else "0: no threshold fell into its window, so it is undefined"
    )
    rows = [
        ["TPR at FPR 0.1", exact, theirs, f"0.1 “effective”, from {ALARM_TPR:g} “leakage”"],
        [
            "loss gap, nats a token",
            written_reading(result.gap),
            written_reading(numbers.loss_gap),
            f"below {EXPECTED_GAP:g} “typical”, above {ALARM_GAP:g} “leakage risk”",
        ],
    ]
    refuted = math.log(ALARM_TPR / TARGET_FPR)
    words = (
        f"A true positive rate of {ALARM_TPR:g} at a false one of {TARGET_FPR:g}, were it exact, "
        f"refutes ε below ln {ALARM_TPR / TARGET_FPR:g} = {refuted:.2f} at δ = 0, and no more. "
    )
    guarantee = run.audit.guarantee
    if guarantee is not None:
        allowed = float(
            privacy.epsilon_delta_ceiling(TARGET_FPR, guarantee.epsilon, guarantee.delta)
        )
        words += f"This run's (ε, δ) allows {allowed:.4f} there. "
    words += (
        "A rate near 0.1 does not show privacy: an attack that is too weak gives it, too. A loss "
        "gap has no bound by ε, and a weak model has none without privacy either."
    )
    heads = ["", "exact", "by the article’s rule", "the article’s thresholds"]
    return table(heads, rows, "The article's numbers") + f"<p>{words}</p>"


def lower(risks: Sequence[LowerRisk], first: str, second: str, signal: str) -> str:
    """What these runs measure where the article says 65.9 % lower risk."""
    rows = [
        [
            html.escape(risk.measure),
            f"{risk.first:.3f}",
            f"{risk.second:.3f}",
            "nothing to be lowered"
            if math.isnan(risk.reduction)
            else f"{risk.reduction:.0%} (95 %: {risk.low:.0%} to {risk.high:.0%})",
        ]
        for risk in risks
    ]
    heads = [
        f"the attack by {html.escape(signal_name(signal))}",
        html.escape(first),
        html.escape(second),
        "lower by",
    ]
    return table(heads, rows, "How much less the attack finds") + (
        "<p>The article states a “65.9 % lower” membership risk as its best. This is what these "
        "two runs give instead. It is how much less <i>this attack</i> finds, on these records; "
        "another attack may find more, and only ε bounds them all.</p>"
    )


def mechanism(report: MechanismReport) -> str:
    """Every check of the mechanism: what was claimed and measured, and what is flagged."""
    flagged = report.flagged
    rows = [
        [
            html.escape(found.name),
            written(found.claimed),
            html.escape(str(found.measured)),
            f"{found.p_value:.2g}",
            "<b>flagged</b>" if found.name in flagged else "holds",
        ]
        for found in report.findings
    ]
    outcome = (
        f"<b>Flagged: {html.escape(', '.join(flagged))}.</b> The loop does not do what it claims."
        if flagged
        else "Nothing is flagged: σ, q and clipping are as claimed, as far as these steps can tell."
    )
    heads = ["check", "claimed", "measured", "p", ""]
    confidence = 100 * (1 - report.significance)
    return (
        f"<p>{outcome} σ claimed {written(report.claim.noise_multiplier)}, measured "
        f"{html.escape(str(report.sigma))} at {confidence:g} %, over {report.observed.steps} "
        f"steps. ε of what was measured, over these steps: {_upper(report.measured_epsilon())} "
        f"(estimate). The planted gradients themselves: {html.escape(str(report.certificate))}.</p>"
    ) + table(heads, rows, "Checks of the mechanism")


def _signal_row(result: SignalResult) -> list[str]:
    kinds = ("certificate", "rejects a curve", "estimate")
    told = {kind: [e for e in result.epsilons if e.kind == kind] for kind in kinds}
    return [
        html.escape(signal_name(result.signal)),
        f"{result.curve.auc:.3f}",
        f"{result.auc_low:.3f}–{result.auc_high:.3f}",
        *(_rate(result, place) for place in range(len(RATES))),
        *(f"{told[kind][0].value:.2f}" if told[kind] else "–" for kind in kinds),
    ]


def _rate(result: SignalResult, place: int) -> str:
    rate = result.rates[place]
    if rate.resolved:
        return f"{rate.tpr:.3f}"
    return f'<span class="wb-stale">{rate.tpr:.3f}, too few</span>'


def _token(word: str, gain: float) -> str:
    depth = min(1.0, abs(gain) / _DEEPEST)
    colour = f"rgba({'213, 94, 0' if gain > 0 else '0, 114, 178'}, {0.75 * depth:.2f})"
    strong = " class=wb-strong" if gain >= _STRONG else ""
    shown = html.escape(word).replace("\n", "⏎")
    return f'<span{strong} style="background: {colour}" title="{gain:+.2f} nats">{shown}</span>'


def _upper(epsilon: float) -> str:
    return "none" if math.isinf(epsilon) else f"ε ≤ {privacy.written_epsilon(epsilon)}"


def _canaries_of(run: AuditedRun) -> CanaryAudit:
    assert run.canaries is not None
    return run.canaries
