"""What the training panel says in sentences: the plan, what a run is doing, how it ended."""

import html
import math

from workbench.analysis.projection import Projection
from workbench.corpora.counts import RecordCounts
from workbench.panels.common.formatting import duration, shown_epsilon, written, written_reading
from workbench.panels.common.markup import badge, message_html, planned_html
from workbench.panels.run.job import RunJob, RunState
from workbench.privacy.written import rounded_up

READY = "<b>Ready.</b> Start trains in the background; the kernel stays free for other cells."


def computing() -> str:
    """What stands there until the projection arrives."""
    return _planned("computing the certified ε …")


def projected(projection: Projection) -> str:
    """What the settings would spend, in a line or two."""
    plan, guarantee = projection.plan, projection.guarantee
    if math.isinf(guarantee.epsilon):
        return _planned(
            f"<b>no privacy.</b> {plan.steps:,} steps without clipping and noise on "
            f"{plan.dataset_size:,} records, to compare a private run with."
            f"{_told(projection.counts)}"
        )
    sigma, batch = (_from_to([value for value, _ in runs]) for runs in (plan.noise, plan.batch))
    cut = "" if plan.whole else ", where the budget ends,"
    left_out = _told(projection.counts)
    warning = f" <b>Beware:</b> {html.escape(projection.warning)}" if projection.warning else ""
    delta = written(rounded_up(guarantee.delta, 3))
    return _planned(
        f"<b>ε = {shown_epsilon(guarantee.epsilon)}</b> "
        f"{badge('certified')} at δ = {delta} for "
        f"{plan.steps:,} steps{cut} with σ = {sigma} and q = {batch}/{plan.dataset_size:,} "
        f"({_terms(str(guarantee))}).{warning}{left_out}"
    )


def not_used(sentence: str) -> str:
    """Why no run can be had with these settings."""
    return planned_html(f"<b>Not used:</b> {html.escape(sentence)}")


def beyond(error: Exception) -> str:
    """A sentence for settings on which the accounting itself has failed."""
    return (
        f"These settings could not be accounted for ({type(error).__name__}); check the corpus, or "
        "choose σ, δ, batch and steps nearer to what one would train with."
    )


def message(run: RunJob, progress: RunState) -> str:
    """What a run is doing, or how it ended, what it spent and how to read it back."""
    if progress.result is not None:
        resumable = progress.phase == "cancelled"
        words = f"{_ended(progress)} {_spent(progress)}<br>{_kept(run, resumable=resumable)}"
    elif progress.phase == "failed":
        words = f"<b>Failed.</b> {html.escape(progress.error)}"
        if progress.spent is not None:
            words += f" {_spent(progress)}<br>{_kept(run, resumable=True)}"
    else:
        words = f"{_DOING[progress.phase]}<br>{_kept(run)}"
    return message_html(f"{words}{_told(progress.records)}", state=progress.phase)


def _ended(progress: RunState) -> str:
    result = progress.result
    assert result is not None
    measured = progress.metrics.dropna(subset="heldout_loss").tail(1)
    learnt = "".join(
        f"; held-out perplexity {written_reading(math.exp(min(loss, 100)))} at step {step:,.0f}"
        for step, loss in measured[["step", "heldout_loss"]].itertuples(index=False)
    )
    early = result.reason in ("patience", "time", "cancelled") and progress.latest
    planned = f" of {progress.latest.steps:,}" if early and progress.latest else ""
    return (
        f"<b>{_ENDINGS[result.reason]}</b> after {result.steps:,}{planned} steps in "
        f"{duration(60 * result.minutes)}{learnt}."
    )


def _spent(progress: RunState) -> str:
    assert progress.spent is not None
    if math.isinf(progress.spent.epsilon):
        return "Nothing was clipped and no noise added, so <b>no ε holds</b> for this model."
    return f"Spent: <b>{html.escape(str(progress.spent))}</b>."


def _kept(run: RunJob, *, resumable: bool = False) -> str:
    folder = html.escape(str(run.run_dir))
    more = "; go on with it under “Past runs”" if resumable else ""
    return f'<code>training.read_run("{folder}")</code> reads it back{more}.'


def _told(records: RecordCounts | None) -> str:
    """Which records were left out or cut; nothing where all are used whole."""
    if records is None or not (records.left_out or records.impaired):
        return ""
    return f"<br>{html.escape(str(records))}"


def _planned(words: str) -> str:
    return planned_html(f"Planned: {words}")


def _from_to(values: list[float]) -> str:
    first, last = (written(value, whole=value >= 100) for value in (values[0], values[-1]))
    return first if len(values) == 1 else f"{first} to {last}"


def _terms(guarantee: str) -> str:
    """The accountant, sampling, relation and unit, as the guarantee writes them."""
    return html.escape(guarantee.partition("(")[2].removesuffix(")"))


_DOING = {
    "preparing": "<b>Preparing</b> corpus, tokenizer and model; the first step follows.",
    "running": "<b>Training</b> in the background: the kernel is free for other cells.",
    "pausing": "<b>Pausing</b>: the step in hand is finished first.",
    "paused": "<b>Paused</b> between two steps, with everything kept in memory.",
    "cancelling": "<b>Cancelling</b>: the step in hand is finished first.",
}
_ENDINGS = {
    "all steps": "Done",
    "budget": "Done, the budget used up,",
    "patience": "Done, as held-out loss no longer fell,",
    "time": "Done, as the time was up,",
    "cancelled": "Cancelled",
}
