"""When a run ends before its last step: no better on held-out records, or out of time.

Neither looks at training records, so neither costs privacy. The budget is not here: it has
shortened the plan before the first step.
"""

from dataclasses import dataclass, replace
from typing import Literal

from workbench.config import TrainingConfig

Reason = Literal["all steps", "budget", "patience", "time", "cancelled"]


@dataclass(frozen=True)
class Watch:
    """The best held-out loss so far, and how many evaluations have passed since."""

    best_loss: float | None = None
    evaluations_since: int = 0

    def after(self, heldout_loss: float) -> "Watch":
        """The watch after one more evaluation."""
        if self.best_loss is None or heldout_loss < self.best_loss:
            return Watch(heldout_loss)
        return replace(self, evaluations_since=self.evaluations_since + 1)


def reason_to_stop(config: TrainingConfig, watch: Watch, seconds: float) -> Reason | None:
    """Why the run should end now, if it should."""
    if config.patience is not None and watch.evaluations_since >= config.patience:
        return "patience"
    if config.max_minutes is not None and seconds >= 60 * config.max_minutes:
        return "time"
    return None
