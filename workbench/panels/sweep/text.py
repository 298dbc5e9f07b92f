"""A sweep in words and numbers, as HTML: pure functions from results to markup."""

import html
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.analysis.sweep import SweepProjection
from workbench.figures.sweep import label
from workbench.panels.common.formatting import (
    counted,
    duration,
    shown_epsilon,
    written,
    written_reading,
)
from workbench.panels.common.markup import badge, message_html, planned_html
from workbench.panels.sweep.job import SweepState
from workbench.sweeps.sweep import SweepCost

READY = "Start trains the cells in processes of their own; the kernel stays free."


def planned(cells: int, projection: SweepProjection | None, *, asked: bool = True) -> str:
    """How many cells the fields ask for, and what they would cost and take, if it is ``asked``."""
    lead = f"Planned: <b>{counted(cells, 'cell')}</b>"
    if projection is None:
        return planned_html(f"{lead}; computing what they cost …" if asked else f"{lead}.")
    cost = projection.cost
    epsilon = f"<b>ε = {shown_epsilon(cost.guarantee.epsilon)}</b> {badge('certified')}"
    terms = html.escape(str(cost.guarantee).partition(" at ")[2])
    price = f"all published together {epsilon} at {terms}"
    return planned_html(f"{lead}, {counted(cost.steps, 'step')}; {price}; {_time(projection)}")


def not_used(sentence: str) -> str:
    """Why no sweep can be had with these settings."""
    return planned_html(f"<b>Not used:</b> {html.escape(sentence)}")


def no_cost(cells: int, sentence: str) -> str:
    """Why the cost is not known, where a sweep could still be started."""
    reason = html.escape(sentence)
    return planned_html(f"Planned: <b>{counted(cells, 'cell')}</b>. <b>Beware:</b> {reason}")


def message(progress: SweepState, folder: Path, seconds_left: float) -> str:
    """Where the sweep is, or how it ended and how to read it back."""
    counts = progress.counts
    total = sum(counts.values())
    tally = ", ".join(
        f"{counts[state]:,} {state}"
        for state in ("done", "failed", "running", "interrupted", "waiting")
        if counts[state]
    )
    words = {
        "running": f"<b>Running.</b> {tally or 'Starting the workers'} {_left(seconds_left)}",
        "cancelling": f"<b>Cancelling</b> once the steps in hand are finished. {tally}",
        "done": f"<b>Ended.</b> {tally} of {total:,} cells.",
        "cancelled": f"<b>Cancelled.</b> {tally}. Start goes on with the same folder.",
        "failed": f"<b>Failed.</b> {html.escape(progress.error)}",
    }
    path = html.escape(str(folder))
    kept = f'Kept in {path}; read it with <code>sweeps.read_sweep("{path}")</code>.'
    return message_html(f"{words[progress.phase]}<br>{kept}", state=progress.phase)


def cost(spent: SweepCost | None, *, ended: bool) -> str:
    """What all runs together have cost so far; None while it is not known."""
    value, details = "–", ["every run of the sweep, composed", "&nbsp;"]
    if spent is not None:
        value = shown_epsilon(spent.guarantee.epsilon)
        so_far = "" if ended else " so far"
        runs = f"{counted(spent.runs, 'run')}, {counted(spent.steps, 'step')}"
        details = [f"{html.escape(str(spent.guarantee))}: {runs}{so_far}, composed."]
        caveat = f" Here {spent.caveat}." if spent.caveat else ""
        details.append(
            "The price if all runs saw private data, published or only compared: choosing the "
            f"best depends on the records, too.{html.escape(caveat)}"
        )
    lines = "".join(f"<small>{line}</small>" for line in details)
    return (
        '<div class="wb-card wb-epsilon wb-sweep-cost"><div><h4>ε of the whole sweep</h4>'
        f'<div class="value">{value}</div></div><div>{lines}</div></div>'
    )


def table(frame: pd.DataFrame | None, fields: Sequence[str]) -> str:
    """A row a cell: its results, the lowest held-out perplexity marked, or what went wrong."""
    if frame is None:
        return ""
    heads = [*map(label, fields), "state", "steps", "ε", "held-out loss", "perplexity", "time"]
    rows = frame.to_dict("records")
    known = [row["heldout_perplexity"] for row in rows if row["state"] == "done"]
    best = min(known, default=math.nan)
    body = "".join(_row(row, fields, best=best) for row in rows)
    head = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in heads)
    return (
        '<div class="wb-table wb-sweep-table"><table aria-label="Cells of the sweep"><thead><tr>'
        f"{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _row(row: dict[Any, Any], fields: Sequence[str], *, best: float) -> str:
    state = row["state"]
    if state == "failed":
        results = f'<td colspan="5" class="wb-error">{html.escape(row["error"])}</td>'
    else:
        results = "".join(f"<td>{text}</td>" for text in _results(row, best))
    values = "".join(f"<td>{_written(row[field])}</td>" for field in fields)
    return f'<tr data-state="{state}">{values}<td>{state}</td>{results}</tr>'


def _results(row: dict[Any, Any], best: float) -> tuple[str, ...]:
    perplexity = _number(row["heldout_perplexity"], written_reading)
    lowest = row["state"] == "done" and row["heldout_perplexity"] == best
    return (
        _steps(row),
        _number(row["epsilon"], shown_epsilon),
        _number(row["heldout_loss"], written_reading),
        f"<b>lowest {perplexity}</b>" if lowest else perplexity,
        _number(row["minutes"], lambda minutes: duration(60 * minutes)),
    )


def _steps(row: dict[Any, Any]) -> str:
    taken, plan = row["steps"], row["steps_planned"]
    if pd.isna(taken):
        return "–"
    return f"{taken:,}" if row["state"] == "done" or pd.isna(plan) else f"{taken:,} of {plan:,}"


def _number(value: float, write: Any) -> str:
    return "–" if math.isnan(value) else write(value)


def _written(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "none"
    return written(value) if isinstance(value, float) else html.escape(str(value))


def _left(seconds: float) -> str:
    return f"· about {duration(seconds, rough=True)} left" if math.isfinite(seconds) else ""


def _time(projection: SweepProjection) -> str:
    if projection.seconds is None:
        return "measuring how long a step takes …"
    workers = counted(projection.workers, "worker")
    return f"about {duration(projection.seconds, rough=True)} on {workers} here."
