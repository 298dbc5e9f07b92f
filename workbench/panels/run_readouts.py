"""A training run in words and numbers, as HTML: pure functions from results to markup."""

import html
import math

import numpy as np
import pandas as pd

from workbench.config import RunConfig
from workbench.panels.controls import written
from workbench.panels.follow import Progress, Run, no_metrics
from workbench.panels.readouts import rounded_up, written_reading
from workbench.readings.projection import Projection

PRIVATE_NOTE = (
    "Live losses and gradient norms are computed on private records without noise: they are for "
    "this screen, not for publication. ε covers the trained weights."
)
_RATE_WINDOW = 20  # steps


def cards(progress: Progress | None, config: RunConfig, budget: float) -> str:
    """Where the run is, what it has learnt, what it has spent and what clipping does."""
    metrics = progress.metrics if progress else no_metrics()
    body = (
        _step_card(progress, metrics, config),
        _batch_card(progress),
        _heldout_card(metrics),
        _epsilon_card(progress, config, budget),
        _clipped_card(progress, config),
    )
    return f'<div class="wb-cards wb-run-cards">{"".join(body)}</div>'


def projected(projection: Projection) -> str:
    """What the settings would spend, as one line."""
    return (
        '<div class="wb-status wb-projection">Planned: '
        f"<b>ε = {written_reading(rounded_up(projection.guarantee.epsilon))}</b> "
        '<span class="wb-badge certified">certified</span> at '
        f"δ = {written(projection.guarantee.delta)} for {projection.steps:,} steps with "
        f"σ = {written(projection.noise_multiplier)} and "
        f"q = {projection.expected_batch_size:,}/{projection.training_records:,} "
        f"({_terms(str(projection.guarantee))}).</div>"
    )


def computing() -> str:
    """What stands there until the projection arrives."""
    return '<div class="wb-status wb-projection">Planned: computing the certified ε …</div>'


def ending(run: Run, progress: Progress) -> str:
    """How a run ended, what it spent, where it is kept and how to read it back."""
    result = progress.result
    if result is None:
        return _failure(run, progress)
    heldout = result.heldout_perplexity
    learnt = f", held-out perplexity {written_reading(heldout)}" if heldout else ""
    taken = f"{result.steps:,} steps" if result.state == "done" else _of_steps(progress)
    return (
        f'<div class="wb-ending" role="status" data-state="{result.state}">'
        f"<b>{result.state.capitalize()}</b> after {taken} in "
        f"{_duration(60 * result.minutes)}{learnt}. Spent: "
        f"<b>{html.escape(str(result.guarantee))}</b>.<br>{_kept(run)}</div>"
    )


def _failure(run: Run, progress: Progress) -> str:
    sentence = f"<b>Failed.</b> {html.escape(progress.error)}"
    if progress.spent is not None:
        spent = html.escape(str(progress.spent))
        sentence += f" Spent until then: <b>{spent}</b>.<br>{_kept(run)}"
    return f'<div class="wb-ending" role="status" data-state="failed">{sentence}</div>'


def _kept(run: Run) -> str:
    folder = html.escape(str(run.run_dir))
    return f'Kept in {folder}; read it back with <code>training.read_run("{folder}")</code>.'


def _step_card(progress: Progress | None, metrics: pd.DataFrame, config: RunConfig) -> str:
    latest = progress.latest if progress else None
    value = f"{latest.step:,} of {latest.steps:,}" if latest else "–"
    return _card("Step", value, _time_left(progress), _speed(metrics, config))


def _batch_card(progress: Progress | None) -> str:
    title, latest = "Training batch", progress.latest if progress else None
    if latest is None or latest.step == 0:
        return _card(title, "–", "loss, nats a token", "")
    perplexity = f"loss, perplexity {written_reading(latest.perplexity)}"
    return _card(
        title, written_reading(latest.loss), perplexity, f"{latest.batch_size:,} records drawn"
    )


def _heldout_card(metrics: pd.DataFrame) -> str:
    title, measured = "Held-out records", metrics["heldout_loss"].to_numpy(float)
    where = np.flatnonzero(np.isfinite(measured))
    if not where.size:
        return _card(title, "–", "loss, nats a token", "")
    loss, step = float(measured[where[-1]]), metrics["step"].to_numpy(float)[where[-1]]
    perplexity = f"loss, perplexity {written_reading(math.exp(loss))}"
    return _card(title, written_reading(loss), perplexity, f"at step {step:,.0f}")


def _clipped_card(progress: Progress | None, config: RunConfig) -> str:
    latest = progress.latest if progress else None
    bound = written(config.privacy.max_grad_norm)
    value = f"{latest.clipped_fraction:.0%}" if latest and latest.step else "–"
    return _card("Clipped", value, "of this batch’s records:", f"norm above C = {bound}")


def _epsilon_card(progress: Progress | None, config: RunConfig, budget: float) -> str:
    latest = progress.latest if progress else None
    exact = progress.spent.epsilon if progress and progress.spent else None
    spent = exact if exact is not None else latest.epsilon if latest else math.nan
    bound = "" if exact is not None or not latest or latest.epsilon_exact else "≤ "
    plan = f"of {written_reading(rounded_up(budget))} planned" if math.isfinite(budget) else ""
    return _card(
        "ε spent",
        f"{bound}{written_reading(rounded_up(spent))}" if spent != 0 else "0",
        plan,
        f"certified, δ = {written(config.privacy.delta)}",
    )


def _card(title: str, value: str, *details: str) -> str:
    lines = "".join(f"<small>{detail or '&nbsp;'}</small>" for detail in details)
    return f'<div class="wb-card"><h4>{title}</h4><div class="value">{value}</div>{lines}</div>'


def _time_left(progress: Progress | None) -> str:
    if progress is None:
        return "not started"
    if progress.ended:
        return progress.phase
    if progress.phase == "cancelling":
        return "finishing the step in hand"
    if progress.latest is None:
        return "preparing corpus and model"
    if not math.isfinite(progress.latest.eta_seconds):
        return "measuring the first step"
    return f"about {_duration(progress.latest.eta_seconds)} left"


def _speed(metrics: pd.DataFrame, config: RunConfig) -> str:
    if len(metrics) < 2:
        return ""
    recent = metrics.tail(_RATE_WINDOW + 1)
    seconds = recent["seconds"].iloc[-1] - recent["seconds"].iloc[0]
    records = recent["batch_size"].iloc[1:].sum() / max(seconds, 1e-9)
    tokens = records * config.corpus.record_tokens
    return f"up to {written_reading(tokens)} tokens/s"


def _of_steps(progress: Progress) -> str:
    assert progress.result is not None
    planned = f" of {progress.latest.steps:,}" if progress.latest else ""
    return f"{progress.result.steps:,}{planned} steps"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{math.ceil(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _terms(guarantee: str) -> str:
    """The accountant, sampling, relation and unit, as the guarantee writes them."""
    return html.escape(guarantee.partition("(")[2].removesuffix(")"))
