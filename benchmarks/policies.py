"""What moving σ and batch by training phase gains inside one budget: runs for `data/measured/`.

    python -m benchmarks.policies

Four policies, each at three learning rates, three seeds, ε = 5; all runs of a seed have the same
records, weights to start from, steps and expected number of records seen. Takes about half an hour
on two cores.
"""

import pandas as pd

from benchmarks import trained
from workbench.config import RunConfig
from workbench.training.policies import POLICIES, with_policy
from workbench.training.sweep import SweepConfig

BASE = RunConfig().with_changes(
    {
        "privacy.noise_multiplier": None,
        "privacy.target_epsilon": 5.0,
        "training.steps": 150,
        "training.expected_batch_size": 256,
        "training.evaluate_every": 150,
        "runtime.device": "cpu",
    }
)
GRID = {"training.learning_rate": (0.005, 0.01, 0.02), "seed": (0, 1, 2)}


def main() -> None:
    """Train every policy at every rate with every seed; write the table and what made it."""
    arms = {policy: SweepConfig(base=with_policy(BASE, policy), grid=GRID) for policy in POLICIES}
    runs = pd.concat([trained.train("policies", arm, sweep) for arm, sweep in arms.items()])
    trained.write("policies", runs.rename(columns={"arm": "policy"}), arms)


if __name__ == "__main__":
    main()
