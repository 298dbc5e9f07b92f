"""What an audit needs and nobody has trained yet: a private and a non-private model with canaries.

About two minutes of two cores. The pair has the same records, canaries, coins and initial weights.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from workbench import fast
from workbench.config import CanaryKind, RunConfig

if TYPE_CHECKING:
    from workbench.runs.report import StepReport

ARMS = ("non-private", "private")


@dataclass(frozen=True)
class DemoRuns:
    """The two run folders, ready for `canary_audit`."""

    private: Path
    non_private: Path


def demo_config(
    *,
    private: bool,
    kind: CanaryKind = "new_token",
    count: int = 500,
    source: str = "sotu",
    target_epsilon: float = 8.0,
    seed: int = 0,
) -> RunConfig:
    """A run of seven epochs on some five thousand records, with canaries."""
    config = RunConfig.parse(
        {
            "privacy": {
                "private": private,
                "noise_multiplier": None,
                "target_epsilon": target_epsilon,
            },
            # Most records are public here, so that the private ones are few enough to be learnt.
            "corpus": {
                "source": source,
                "record_tokens": 48,
                "public_fraction": 0.7,
                "heldout_fraction": 0.05,
            },
            "training": {"expected_batch_size": 256, "steps": 150, "evaluate_every": 75},
            "canaries": {"count": count, "kind": kind},
            "runtime": {"device": "cpu"},
            "seed": seed,
        }
    )
    return fast.shortened(config)


def train_demo(
    folder: str | Path,
    *,
    on_step: "Callable[[str, StepReport], None] | None" = None,
    kind: CanaryKind = "new_token",
    count: int = 500,
    source: str = "sotu",
    target_epsilon: float = 8.0,
    seed: int = 0,
) -> DemoRuns:
    """Train a non-private and a private tiny model with canaries, for `canary_audit`.

    Args:
        folder: where the two run folders go; it may hold none yet.
        on_step: called with "private" or "non-private" and each step's report.
        kind: of the canaries.
        count: how many canaries.
        source: the corpus, prose (``sotu``) or a table (``nhanes``, ``patients``).
        target_epsilon: of the private run.
        seed: of the split, the weights, the canaries and their coins.

    Raises `InputError` where a run cannot be as asked. Four steps each under ``WORKBENCH_FAST=1``.
    """
    from workbench.training.run import train

    paths = {arm: Path(folder) / arm for arm in ARMS}
    for arm, path in paths.items():
        config = demo_config(
            private=arm == "private",
            kind=kind,
            count=count,
            source=source,
            target_epsilon=target_epsilon,
            seed=seed,
        )

        def told(report: "StepReport", arm: str = arm) -> None:
            if on_step is not None:
                on_step(arm, report)

        train(config, run_dir=path, on_step=told)
    return DemoRuns(private=paths["private"], non_private=paths["non-private"])
