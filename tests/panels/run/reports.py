"""Step reports made up for tests of what shows them."""

import math
from typing import Any

import numpy as np

from workbench.runs.report import StepReport


def report(step: int, *, steps: int = 300, **changes: Any) -> StepReport:
    """A step of an ordinary run; ``changes`` are fields of `StepReport`."""
    began = step == 0
    fields: dict[str, Any] = {
        "step": step,
        "steps": steps,
        "loss": math.nan if began else 5.0,
        "heldout_loss": 6.0 if began else None,
        "epsilon": 0.0 if began else 2.5,
        "epsilon_steps": 0 if began else step + 1,
        "gradient_norms": np.zeros(0) if began else np.linspace(0.5, 2.0, 500),
        "clipped_fraction": 0.0 if began else 0.67,
        "batch_size": 0 if began else 500,
        "noise_multiplier": 0.8,
        "expected_batch_size": 512,
        "max_grad_norm": 1.0,
        "learning_rate": 0.01,
        "noise_to_signal": math.nan if began else 1.25,
        "predicted_noise_to_signal": math.nan if began else 1.3,
        "tokens_per_second": math.nan if began else 20_123.0,
        "memory_mb": 612.3,
        "seconds": 0.5 * step,
        "eta_seconds": math.nan,
    }
    return StepReport(**{**fields, **changes})
