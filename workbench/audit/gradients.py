"""The norm of each record's gradient: a trained model has less left to learn of a member."""

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from workbench.audit.forward import CancelledError, OnProgress, Progress, padded
from workbench.clipping import clipped_gradient_sum
from workbench.corpora.tokens import IGNORED
from workbench.training.models import record_losses

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_AT_ONCE = 32


def gradient_norms(
    model: "PreTrainedModel",
    rows: Sequence[Sequence[int]],
    *,
    on_progress: OnProgress | None = None,
    stop: threading.Event | None = None,
) -> np.ndarray:
    """‖∇ of the mean loss a token‖₂ of each row over all trainable parameters, (rows,).

    The norms are those that clipping sees in training (`workbench.clipping`). The model is left as
    it was. Raises `CancelledError` if stopped.
    """
    order = np.argsort([-len(row) for row in rows], kind="stable")
    norms, done = np.empty(len(rows)), 0
    was_training = model.training
    model.train()
    try:
        for start in range(0, len(rows), _AT_ONCE):
            batch = order[start : start + _AT_ONCE]
            tokens, lengths = padded([rows[i] for i in batch], model.device)
            is_text = torch.arange(tokens.shape[1], device=model.device) < lengths[:, None]
            labels = torch.where(is_text, tokens, IGNORED)
            clipped = clipped_gradient_sum(
                model, lambda t=tokens, own=labels: record_losses(model, t, own), max_grad_norm=1.0
            )
            norms[batch] = clipped.norms.double().cpu().numpy()
            done += len(batch)
            if on_progress is not None:
                on_progress(Progress("gradients", done, len(rows), np.nan, np.nan))
            if stop is not None and stop.is_set():
                raise CancelledError(f"gradients: stopped after {done} of {len(rows)} records")
    finally:
        model.train(was_training)
    return norms
