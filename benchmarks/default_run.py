"""The default run, tuned, beside its twin without privacy, tuned and untuned: `data/measured/`.

    python -m benchmarks.default_run

The learning rate of each arm is tuned on a seed of its own; five others are then measured at the
best. The arm "twin, untuned" has the rate that was best for the private run. Takes about an hour on
two cores.
"""

import pandas as pd

from benchmarks import trained
from workbench.config import RunConfig
from workbench.training.sweep import SweepConfig

NAME = "default_run"
BASE = RunConfig().with_changes({"runtime.device": "cpu"})
TUNING_SEED, SEEDS = 5, (0, 1, 2, 3, 4)
ARMS = {
    "private": ({}, (0.01, 0.02, 0.03)),
    "private, σ = 2": ({"privacy.noise_multiplier": 2.0}, (0.005, 0.01, 0.02)),
    "twin": ({"privacy.private": False}, (0.0025, 0.005, 0.01)),
}


def main() -> None:
    """Tune, then train every arm with every seed; write the table and what made it."""
    sweeps, tables, best = {}, [], {}

    def train(arm: str, changes: dict, rates: tuple[float, ...], seeds: tuple[int, ...]) -> None:
        grid = {"training.learning_rate": rates, "seed": seeds}
        sweeps[arm] = SweepConfig(base=BASE.with_changes(changes), grid=grid)
        tables.append(trained.train(NAME, arm, sweeps[arm]))

    for arm, (changes, rates) in ARMS.items():
        train(f"{arm}, tuning", changes, rates, (TUNING_SEED,))
        tuning = tables[-1].set_index("learning_rate")["perplexity"]
        best[arm] = float(tuning.idxmin())
        if best[arm] in (min(rates), max(rates)):
            print(f"{arm}: the best rate, {best[arm]}, is at the edge of those tried")
        train(arm, changes, (best[arm],), SEEDS)
    train("twin, untuned", ARMS["twin"][0], (best["private"],), SEEDS)
    trained.write(NAME, pd.concat(tables), sweeps)


if __name__ == "__main__":
    main()
