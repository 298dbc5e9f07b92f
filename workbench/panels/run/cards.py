"""The numbers of a training run as HTML: pure functions from results to markup."""

import html
import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from workbench.config import RunConfig
from workbench.panels.common.formatting import (
    duration,
    shown_epsilon,
    three_digits,
    written,
    written_reading,
)
from workbench.panels.common.markup import card
from workbench.panels.run.job import RunState, no_metrics
from workbench.privacy.written import rounded_up

PRIVATE_NOTE = (
    "Live losses, batch sizes, gradient norms and noise to signal are computed on private records "
    "without noise: they are for this screen, not for publication. ε covers the trained weights."
)
_RECENT = 20  # steps that speak for the next ones


def cards(progress: RunState | None, config: RunConfig, budget: float) -> str:
    """Where the run is, what it has learnt and spent, and what clipping and noise do."""
    metrics = progress.metrics if progress else no_metrics()
    body = (
        _step_card(progress),
        _batch_card(progress),
        _heldout_card(metrics),
        _epsilon_card(progress, config, budget),
        _clipped_card(progress, config),
        _noise_card(progress, config),
    )
    return f'<div class="wb-cards wb-run-cards">{"".join(body)}</div>'


def speed(metrics: pd.DataFrame) -> str:
    """Tokens a second over the last steps, and the most memory held so far."""
    recent = metrics["tokens_per_second"].to_numpy(float)[-_RECENT:]
    recent = recent[np.isfinite(recent)]
    if not recent.size:
        return ""
    tokens, memory = np.median(recent), metrics["memory_mb"].to_numpy(float)[-1]
    return (
        f'<div class="wb-status">{three_digits(tokens)} tokens/s, {three_digits(memory)} MB</div>'
    )


def samples(texts: Mapping[str, str]) -> str:
    """What the model wrote before and after training, side by side; empty without both."""
    if not texts.keys() >= {"before", "after"}:
        return ""
    boxes = "".join(
        f'<div class="wb-card"><h4>The model writes, {when} training</h4>'
        f"<p>{html.escape(texts[when])}</p></div>"
        for when in ("before", "after")
    )
    return f'<div class="wb-samples">{boxes}</div>'


def _step_card(progress: RunState | None) -> str:
    latest = progress.latest if progress else None
    value = f"{latest.step:,}" if latest else "–"
    return card("Step", value, f"of {latest.steps:,}" if latest else "", _standing(progress))


def _batch_card(progress: RunState | None) -> str:
    title, latest = "Training batch", progress.latest if progress else None
    if latest is None or not latest.batch_size:
        return card(title, "–", "loss, nats a token", "")
    drawn = f"{latest.batch_size:,} records drawn"
    return card(title, written_reading(latest.loss), _perplexity(latest.loss), drawn)


def _heldout_card(metrics: pd.DataFrame) -> str:
    title, measured = "Held out", metrics["heldout_loss"].to_numpy(float)
    where = np.flatnonzero(np.isfinite(measured))
    if not where.size:
        return card(title, "–", "loss, nats a token", "")
    loss, step = float(measured[where[-1]]), metrics["step"].to_numpy(float)[where[-1]]
    return card(title, written_reading(loss), _perplexity(loss), f"at step {step:,.0f}")


def _epsilon_card(progress: RunState | None, config: RunConfig, budget: float) -> str:
    if not config.privacy.private:
        return card("ε spent", "∞", "not private:", "no ε holds")
    latest = progress.latest if progress else None
    exact = progress.spent.epsilon if progress and progress.spent else None
    spent = exact if exact is not None else latest.epsilon if latest else math.nan
    bound = "" if exact is not None or not latest or latest.epsilon_exact else "≤ "
    plan = f"of {shown_epsilon(budget)} planned" if math.isfinite(budget) else ""
    terms = f"certified, δ = {written(rounded_up(config.privacy.delta, 3))}"
    return card("ε spent", f"{bound}{shown_epsilon(spent)}", plan, terms)


def _clipped_card(progress: RunState | None, config: RunConfig) -> str:
    latest = progress.latest if progress else None
    norm = latest.max_grad_norm if latest else config.privacy.max_grad_norm
    known = latest is not None and config.privacy.private and latest.step > 0
    value = f"{latest.clipped_fraction:.0%}" if latest and known else "–"
    above = f"norms above C = {written(norm)}"
    if config.privacy.clipping == "normalised":
        above += "; all go to C"
    return card("Clipped", value, "of this batch:", above)


def _noise_card(progress: RunState | None, config: RunConfig) -> str:
    if not config.privacy.private:
        return card("Noise to signal", "–", "not private:", "no noise")
    latest = progress.latest if progress else None
    measured = latest.noise_to_signal if latest else math.nan
    predicted = latest.predicted_noise_to_signal if latest else math.nan
    said = f"predicted {written_reading(predicted)}" if math.isfinite(predicted) else ""
    return card("Noise to signal", written_reading(measured), said, "norms, this update")


def _standing(progress: RunState | None) -> str:
    """How long it will take still, or why that is not known."""
    if progress is None:
        return "not started"
    if progress.phase != "running" or progress.latest is None:
        return progress.phase
    # A median of late, which evaluations and pauses do not move.
    between = np.diff(progress.metrics["seconds"].to_numpy(float)[-_RECENT - 1 :])
    if not between.size:
        return "timing the first steps"
    left = float(np.median(between)) * (progress.latest.steps - progress.latest.step)
    return f"about {duration(left, rough=True)} left"


def _perplexity(loss: float) -> str:
    # Beyond that it is not a number any more, and nobody reads it.
    return (
        f"perplexity {written_reading(math.exp(loss))}" if loss < 100 else "perplexity above 1e43"
    )
