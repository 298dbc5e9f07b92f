"""The run folder: everything a run leaves, readable at any moment, also after ``kill -9``.

``config.yaml``, ``metrics.parquet`` (a row a step), ``ledger.jsonl``, ``checkpoints/``,
``summary.json``, ``corpus.key``, ``canaries.json`` if there are any, and the empty ``.lock``.
Files that change are replaced whole, so that a reader never sees half of one.

ε covers the weights. The metrics hold losses and norms of private records without noise and are as
confidential as the records; so is ``corpus.key``, with which guesses of the records can be tested
against the ledger, and a seeded run's ``state.json``, from which its noise can be drawn again.
"""

import json
import secrets
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from workbench.config import RunConfig
from workbench.errors import InputError
from workbench.runs.files import located, replace_text, sync_names
from workbench.runs.identity import keyed_digest, new_key
from workbench.runs.ledger import Ledger, LedgerRecord, Terms
from workbench.runs.ledger import read as read_ledger
from workbench.runs.planted import CANARIES, Planted, planted_line
from workbench.runs.report import StepReport

LEDGER, SUMMARY, STATE = "ledger.jsonl", "summary.json", "state.json"
WEIGHTS = "model.safetensors"
_REWRITE_SECONDS = 0.5  # about how much of the metrics a kill can cost
_REWRITE_SHARE = 0.01  # of the run's time, which long runs would exceed twice a second


@dataclass(frozen=True)
class RunRecord:
    """A run folder as read from disk; ``summary["state"]`` stays "running" for a killed run."""

    path: Path
    config: RunConfig
    metrics: pd.DataFrame
    ledger: LedgerRecord
    summary: dict[str, Any]
    checkpoint: Path | None


class RunFolder:
    """Writes one run's folder at ``path``, from `new` or, for a run that goes on, `resumed`."""

    def __init__(self, path: Path, rows: list[dict[str, Any]] | None = None) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self._rows = rows or []
        self._due = -np.inf

    @classmethod
    def new(
        cls,
        config: RunConfig,
        path: Path,
        terms: Terms,
        summary: dict[str, Any],
        *,
        corpus: str,
        planted: Planted | None = None,
    ) -> tuple[Self, Ledger]:
        """A folder with its configuration, first summary and ledger, which appears whole.

        ``corpus`` is a hash of all of it, of which the ledger's terms keep a keyed digest;
        ``planted`` are the run's canaries, of whose file the ledger keeps the hash. Raises
        `InputError` if the folder cannot be written, or another run has taken ``path`` meanwhile;
        then nothing is left behind.
        """
        # Of this start alone: two that shared it would each write into the other's.
        partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
        try:
            (partial / "checkpoints").mkdir(parents=True)
            replace_text(partial / "config.yaml", config.to_yaml())
            replace_text(partial / SUMMARY, _as_json(summary))
            digest = keyed_digest(new_key(partial), corpus)
            with Ledger(partial / LEDGER, replace(terms, corpus_digest=digest)) as begun:
                if planted is not None:
                    text = planted.to_json()
                    replace_text(partial / CANARIES, text)
                    begun.planting(planted_line(planted, text))
                head = begun.head
            sync_names(partial)
            _claim(path, partial)
        except BaseException as error:
            shutil.rmtree(partial, ignore_errors=True)
            if not isinstance(error, OSError):
                raise
            raise InputError(
                f"Cannot write the run folder {path}: {error.strerror}; choose another with "
                "--run-dir or run_dir."
            ) from None
        return cls(path), Ledger.resumed(path / LEDGER, recorded=0, same_noise=True, head=head)

    @classmethod
    def resumed(cls, record: RunRecord, *, step: int) -> Self:
        """The folder of a run that goes on after ``step``; later rows of metrics are dropped."""
        rows = record.metrics.to_dict(orient="records")
        return cls(record.path, [row for row in rows if step and row["step"] <= step])  # type: ignore[misc]

    def add(self, report: StepReport) -> None:
        """Keep a step's row; the file is rewritten now and then and at every evaluation."""
        self._rows.append(metrics_row(report))
        if time.monotonic() > self._due or report.heldout_loss is not None:
            self.write_metrics()

    def write_metrics(self) -> None:
        """Replace ``metrics.parquet`` by all rows so far."""
        # Parquet cannot be appended to, and a run's rows are few enough to write again.
        began = time.monotonic()
        partial = self.path / ".metrics.parquet.partial"
        pd.DataFrame(self._rows, columns=METRICS).to_parquet(partial, index=False)
        partial.replace(self.path / "metrics.parquet")
        now = time.monotonic()
        self._due = now + max(_REWRITE_SECONDS, (now - began) / _REWRITE_SHARE)

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Replace ``summary.json``."""
        replace_text(self.path / SUMMARY, _as_json(summary))


def read_run(path: str | Path) -> RunRecord:
    """Read a run folder in whatever state it is; raise `InputError` if it is not one."""
    path = located(path)
    summary = read_summary(path)
    config = RunConfig.load(path / "config.yaml")
    checkpoint = (checkpoints(path / "checkpoints") or [None])[-1]
    # Read the ledger last: while a run is active it is always at least as new as the other files.
    return RunRecord(
        path, config, _read_metrics(path), read_ledger(path / LEDGER), summary, checkpoint
    )


def read_summary(path: Path) -> dict[str, Any]:
    """What ``summary.json`` says; `InputError` if ``path`` is not a run folder."""
    try:
        summary = json.loads((path / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        summary = None
    if not isinstance(summary, dict):
        raise InputError(f"{path} is not a run folder; give the folder a run has written.")
    return summary


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints in ``folder``, oldest first."""
    numbers = {path: path.name.removeprefix("step-") for path in folder.glob("step-*")}
    return sorted((p for p, n in numbers.items() if n.isdecimal()), key=lambda p: int(numbers[p]))


def _read_metrics(path: Path) -> pd.DataFrame:
    """The rows so far; none if the run was killed before its first, or a power cut took them."""
    with suppress(OSError, ValueError):
        metrics = pd.read_parquet(path / "metrics.parquet")
        if "step" in metrics:
            return metrics
    return pd.DataFrame({name: pd.Series(dtype=float) for name in METRICS})


def _as_json(summary: dict[str, Any]) -> str:
    return json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _claim(path: Path, partial: Path) -> None:
    """Give ``partial`` the name ``path``, which one of several processes can do.

    Raises `InputError` for the others: a folder that is not empty cannot be replaced by another.
    """
    with suppress(OSError):
        path.rmdir()  # Windows renames to no name that is there, though the folder be empty
    try:
        partial.rename(path)
    except OSError:
        if path.is_file() or (path.is_dir() and any(path.iterdir())):
            raise _taken(path) from None
        raise
    with suppress(OSError):  # some network shares open no folder
        sync_names(path.parent)


def fresh_path(run_dir: str | Path | None) -> Path:
    """Where a new run goes: ``run_dir``, or ``runs/`` and the time of day, absolute.

    A run outlives a change of the working directory. Raises `InputError` if something is there
    already.
    """
    if run_dir is None:
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S-%f")
        return Path("runs").absolute() / stamp[:-3]
    path = located(run_dir)
    path = path if path.name != ".." else path.resolve()  # ".." has no name to write beside
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise _taken(path)
    except OSError as error:
        raise InputError(
            f"Cannot look into the run folder {path}: {error.strerror}; choose another with "
            "--run-dir or run_dir."
        ) from None
    return path


def _taken(path: Path) -> InputError:
    return InputError(
        f"The run folder {path} exists and is not empty; choose a new one, so that nothing already "
        "written is lost."
    )


METRICS = [
    "step",
    "loss",
    "perplexity",
    "heldout_loss",
    "heldout_loss_tail",
    "epsilon",
    "batch_size",
    "clipped_fraction",
    "norm_p10",
    "norm_median",
    "norm_p90",
    "noise_multiplier",
    "expected_batch_size",
    "max_grad_norm",
    "learning_rate",
    "noise_to_signal",
    "predicted_noise_to_signal",
    "tokens_per_second",
    "memory_mb",
    "seconds",
]


def metrics_row(report: StepReport) -> dict[str, Any]:
    """A step as a row of the metrics, by `METRICS`; NaN for what the step has not."""
    norms = report.gradient_norms
    low, median, high = np.quantile(norms, [0.1, 0.5, 0.9]) if norms.size else [np.nan] * 3
    of_norms = {"norm_p10": low, "norm_median": median, "norm_p90": high}
    row = {name: of_norms[name] if name in of_norms else getattr(report, name) for name in METRICS}
    return {name: np.nan if value is None else value for name, value in row.items()}
