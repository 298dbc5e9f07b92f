"""The run folder: everything a run leaves, readable at any moment, also after ``kill -9``.

``config.yaml``, ``metrics.parquet`` (a row a step), ``ledger.jsonl``, ``checkpoints/`` and
``summary.json``. Files that change are replaced whole, so that a reader never sees half of one.

ε covers the checkpoints. The metrics hold losses and norms of private records without noise and are
as confidential as the records.
"""

import json
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.config import RunConfig
from workbench.errors import InputError
from workbench.training import ledger
from workbench.training.report import StepReport

_REWRITE_SECONDS = 0.5  # how much of the metrics a kill can cost


@dataclass(frozen=True)
class RunRecord:
    """A run folder as read from disk; ``summary["state"]`` stays "running" for a killed run."""

    path: Path
    config: RunConfig
    metrics: pd.DataFrame
    ledger: ledger.LedgerRecord
    summary: dict[str, Any]
    checkpoint: Path | None


class RunFolder:
    """Writes one run's folder at ``path``; raises `InputError` if it cannot be written."""

    def __init__(self, config: RunConfig, path: Path) -> None:
        self.path = path
        self.checkpoints = self.path / "checkpoints"
        self._rows: list[dict[str, Any]] = []
        self._written = -np.inf
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            replace_text(self.path / "config.yaml", config.to_yaml())
        except OSError as error:
            raise InputError(
                f"Cannot write the run folder {self.path}: {error.strerror}; choose another with "
                "--run-dir or run_dir."
            ) from None

    def open_ledger(self, terms: ledger.Terms) -> ledger.Ledger:
        """The run's ledger, with its first line written."""
        return ledger.Ledger(self.path / "ledger.jsonl", terms)

    def add(self, report: StepReport) -> None:
        """Keep a step's row; the file is rewritten twice a second and at every evaluation."""
        self._rows.append(metrics_row(report))
        due = time.monotonic() - self._written > _REWRITE_SECONDS
        if due or report.heldout_loss is not None:
            self.write_metrics()

    def write_metrics(self) -> None:
        """Replace ``metrics.parquet`` by all rows so far."""
        # Parquet cannot be appended to, and a run's rows are few enough to write again.
        partial = self.path / ".metrics.parquet.partial"
        pd.DataFrame(self._rows, columns=METRICS).to_parquet(partial, index=False)
        partial.replace(self.path / "metrics.parquet")
        self._written = time.monotonic()

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Replace ``summary.json``."""
        replace_text(self.path / "summary.json", json.dumps(summary, indent=2) + "\n")


def read_run(path: str | Path) -> RunRecord:
    """Read a run folder in whatever state it is; raise `InputError` if it is not one."""
    path = Path(path)
    try:
        summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
        metrics = pd.read_parquet(path / "metrics.parquet")
    except (OSError, ValueError):
        raise InputError(
            f"{path} is not a run folder; give the folder a run has written."
        ) from None
    return RunRecord(
        path=path,
        config=RunConfig.load(path / "config.yaml"),
        metrics=metrics,
        ledger=ledger.read(path / "ledger.jsonl"),
        summary=summary,
        checkpoint=max((path / "checkpoints").glob("step-*"), default=None),
    )


def replace_text(path: Path, text: str) -> None:
    """Write ``path`` so that a reader finds the old text or the new, never a part."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def fresh_path(run_dir: str | Path | None) -> Path:
    """Where a new run goes: ``run_dir``, or ``runs/`` and the time of day.

    Raises `InputError` if something is there already.
    """
    if run_dir is None:
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S-%f")
        return Path("runs") / stamp[:-3]
    path = Path(run_dir).expanduser()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(
            f"The run folder {path} exists and is not empty; choose a new one, so that nothing "
            "already written is lost."
        )
    return path


METRICS = [
    "step",
    "loss",
    "perplexity",
    "heldout_loss",
    "epsilon",
    "batch_size",
    "clipped_fraction",
    "norm_p10",
    "norm_median",
    "norm_p90",
    "seconds",
]


def metrics_row(report: StepReport) -> dict[str, Any]:
    """A step as a row of the metrics, by `METRICS`; NaN for what the step has not."""
    norms = report.gradient_norms
    low, median, high = np.quantile(norms, [0.1, 0.5, 0.9]) if norms.size else [np.nan] * 3
    return {
        "step": report.step,
        "loss": report.loss,
        "perplexity": report.perplexity,
        "heldout_loss": np.nan if report.heldout_loss is None else report.heldout_loss,
        "epsilon": report.epsilon,
        "batch_size": report.batch_size,
        "clipped_fraction": report.clipped_fraction,
        "norm_p10": low,
        "norm_median": median,
        "norm_p90": high,
        "seconds": report.seconds,
    }
