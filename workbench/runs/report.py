"""What a run tells while it goes and when it ends: values only, no torch."""

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from workbench.corpora.counts import RecordCounts
from workbench.privacy import Guarantee
from workbench.runs.stopping import Reason

State = Literal["running", "done", "cancelled", "failed"]
_LARGEST_LOSS = math.log(sys.float_info.max)
Samples = dict[str, str]  # what the model wrote "before" and "after" training


@dataclass(frozen=True)
class StepReport:
    """One optimizer step as the trainer sees it; step 0 is the model before training.

    Loss, batch size and gradient norms come straight from the private records and carry no noise:
    they are for the eyes of whoever may see the records, and ε does not cover them. What ε covers
    is the weights. ``epsilon`` is certified for the first ``epsilon_steps``, which are never fewer
    than the steps so far: it is exact, or that of the end of the current stretch.
    """

    step: int
    steps: int
    loss: float  # mean over the batch of each record's loss a token, nats; NaN without records
    heldout_loss: float | None  # mean over all held-out tokens, nats; at evaluations only
    epsilon: float  # infinite without privacy
    epsilon_steps: int  # how many steps that ε covers, at least ``step``
    gradient_norms: np.ndarray  # (batch_size,) float32, before clipping; empty without privacy
    clipped_fraction: float
    batch_size: int
    noise_multiplier: float
    expected_batch_size: int
    max_grad_norm: float
    learning_rate: float
    noise_to_signal: float  # ‖noise‖ / ‖clipped sum‖ as drawn; NaN at step 0
    predicted_noise_to_signal: float  # σC√d / ‖clipped sum‖
    tokens_per_second: float
    memory_mb: float  # the most this process has held so far: on the GPU if there is one
    seconds: float  # of training, in all sessions together
    eta_seconds: float
    records: RecordCounts | None = None  # at step 0 only
    heldout_loss_tail: float | None = None  # of the mean of the latest weights, where asked for

    @property
    def epsilon_exact(self) -> bool:
        """Whether ε is that of exactly the steps so far."""
        return self.epsilon_steps == self.step

    @property
    def perplexity(self) -> float:
        """The exponential of the batch's loss."""
        return perplexity(self.loss)

    @property
    def heldout_perplexity(self) -> float | None:
        """The exponential of the held-out loss, where it was measured."""
        return None if self.heldout_loss is None else perplexity(self.heldout_loss)


@dataclass(frozen=True)
class RunResult:
    """How a run ended. ``guarantee`` is certified for the steps truly taken.

    ``run_dir`` is the folder that the first process has written, in every process.
    ``noise_multiplier`` and ``sample_rate`` are those of the first step.
    """

    run_dir: Path
    state: State
    reason: Reason
    steps: int
    guarantee: Guarantee
    noise_multiplier: float
    sample_rate: float
    n_params: int
    heldout_loss: float | None  # at the last evaluation, nats a token
    minutes: float
    samples: Samples

    @property
    def heldout_perplexity(self) -> float | None:
        """The exponential of the held-out loss."""
        return None if self.heldout_loss is None else perplexity(self.heldout_loss)


def perplexity(loss: float) -> float:
    """The exponential of ``loss``, infinite where a diverging run exceeds what a float holds."""
    return math.exp(loss) if loss < _LARGEST_LOSS or math.isnan(loss) else math.inf
