"""Fast mode: what tests set so that notebooks finish in seconds, with every cell still run.

``WORKBENCH_FAST=1`` shortens training runs and nothing else.
"""

import os

from workbench.config import RunConfig

_STEPS = 4


def enabled() -> bool:
    """Whether this process was started in fast mode."""
    return os.environ.get("WORKBENCH_FAST") == "1"


def shortened(config: RunConfig) -> RunConfig:
    """The same run cut to a few steps in fast mode, else the run itself."""
    if not enabled():
        return config
    steps = min(config.training.steps or _STEPS, _STEPS)
    return config.with_changes(
        {"training.steps": steps, "training.epochs": None, "training.evaluate_every": 2}
    )
