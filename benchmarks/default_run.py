"""The default run, tuned, beside its twin without privacy, tuned and untuned: `data/measured/`.

    python -m benchmarks.default_run

The learning rate of each arm is tuned on a seed of its own; five others are then measured at the
best. "twin, untuned" has the rate that was best for the private run. "private, AdamW-BC" takes the
noise out of Adam's second moment at that rate, to see what the noise does there. Takes somewhat
more than an hour on two cores.
"""

from benchmarks.trained import Comparison
from workbench.config import RunConfig

PRIVATE = RunConfig().with_changes({"runtime.device": "cpu"})
NOISY = PRIVATE.with_changes({"privacy.noise_multiplier": 2.0})
TWIN = PRIVATE.with_changes({"privacy.private": False})
CORRECTED = PRIVATE.with_changes({"training.optimizer": "adamw_bc"})


def main() -> None:
    """Tune and train every arm; write the table and what made it."""
    compared = Comparison("default_run", tuning_seed=5, seeds=(0, 1, 2, 3, 4))
    best = compared.tune_and_train("private", PRIVATE, (0.01, 0.02, 0.03))
    compared.tune_and_train("private, σ = 2", NOISY, (0.01, 0.02, 0.03))
    compared.tune_and_train("twin", TWIN, (0.00125, 0.0025, 0.005))
    compared.train("twin, untuned", TWIN, best)
    compared.train("private, AdamW-BC", CORRECTED, best)
    compared.write()


if __name__ == "__main__":
    main()
