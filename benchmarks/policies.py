"""What moving σ and batch by training phase gains inside one budget: runs for `data/measured/`.

    python -m benchmarks.policies

Four policies, ε = 5; all runs of a seed have the same records, weights to start from, steps and
expected number of records seen. The learning rate of each policy is tuned on a seed of its own;
three others are then measured at the best. Takes about half an hour on two cores.
"""

from benchmarks.trained import Comparison
from workbench.config import RunConfig
from workbench.training.policies import POLICIES, with_policy

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
RATES = (0.005, 0.01, 0.02, 0.04)


def main() -> None:
    """Tune and train every policy; write the table and what made it."""
    compared = Comparison("policies", tuning_seed=5, seeds=(0, 1, 2))
    for policy in POLICIES:
        compared.tune_and_train(policy, with_policy(BASE, policy), RATES)
    compared.write()


if __name__ == "__main__":
    main()
