"""The run folder: everything a run leaves, readable at any moment, also after ``kill -9``.

``config.yaml``, ``metrics.parquet`` (a row a step), ``ledger.jsonl``, ``checkpoints/`` and
``summary.json``. Files that change are replaced whole, so that a reader never sees half of one.

ε covers the weights. The metrics hold losses and norms of private records without noise and are as
confidential as the records; so is a seeded run's ``state.json``, from which its noise can be drawn
again.
"""

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from workbench.config import RunConfig
from workbench.errors import InputError
from workbench.privacy import Guarantee
from workbench.runs.ledger import Ledger, LedgerRecord, Terms
from workbench.runs.ledger import read as read_ledger
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
        cls, config: RunConfig, path: Path, terms: Terms, summary: dict[str, Any]
    ) -> tuple[Self, Ledger]:
        """A folder with its configuration, first summary and ledger, which appears whole.

        Raises `InputError` if it cannot be written.
        """
        partial = path.with_name(f".{path.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            (partial / "checkpoints").mkdir(parents=True)
            replace_text(partial / "config.yaml", config.to_yaml())
            replace_text(partial / SUMMARY, _as_json(summary))
            ledger = Ledger(partial / LEDGER, terms)
            if path.exists():
                path.rmdir()  # empty, as `fresh_path` has seen
            partial.rename(path)
        except OSError as error:
            raise InputError(
                f"Cannot write the run folder {path}: {error.strerror}; choose another with "
                "--run-dir or run_dir."
            ) from None
        return cls(path), ledger

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
    path = Path(path).expanduser().absolute()
    summary = _read_summary(path)
    config = RunConfig.load(path / "config.yaml")
    checkpoint = (checkpoints(path / "checkpoints") or [None])[-1]
    # The ledger last: of a run that goes on meanwhile it holds all that the others stand for.
    return RunRecord(
        path, config, _read_metrics(path), read_ledger(path / LEDGER), summary, checkpoint
    )


def verify(run_dir: str | Path) -> Guarantee:
    """Check a run's ledger against its summary and weights and return the ε recomputed from it.

    Raises `InputError` if a line was changed, moved or removed, also from the end of a run that
    finished or has saved its weights since, if these weights are another run's, or if the summary
    states another ε. A run may be going on meanwhile.
    """
    path = Path(run_dir).expanduser()
    summary, saved = _read_summary(path), _newest_saved(path / "checkpoints")
    record = read_ledger(path / LEDGER)
    with _unless_gone_on(path, summary):
        refuse_other_end(path, summary, record)
    if saved is not None:
        _refuse_foreign(*saved, record)
    guarantee = record.guarantee()
    with _unless_gone_on(path, summary):
        _refuse_other_guarantee(path, summary, guarantee)
    return guarantee


@contextmanager
def _unless_gone_on(path: Path, summary: dict[str, Any]) -> Iterator[None]:
    """Let what ``summary`` says against the ledger count only if it says so still."""
    try:
        yield
    except InputError:
        if _read_summary(path) == summary:  # else a run has gone on between the two
            raise


def refuse_other_end(path: Path, summary: dict[str, Any], ledger: LedgerRecord) -> None:
    """Raise `InputError` unless ``ledger`` ends where the summary of an ended run says."""
    if summary.get("ledger_head") not in (None, ledger.head):
        raise InputError(
            f"{path / LEDGER} does not end where {SUMMARY} says: lines are missing or were added; "
            "do not rely on its ε."
        )


def _refuse_other_guarantee(path: Path, summary: dict[str, Any], guarantee: Guarantee) -> None:
    """Panels show what the summary states; it has none while a run goes, or accounting failed."""
    stated = summary.get("guarantee")
    if stated is None:
        return
    now = guarantee.as_dict()
    if not (isinstance(stated, dict) and stated.keys() == now.keys()) or not all(
        _as_stated(stated[name], now[name]) for name in now
    ):
        raise InputError(
            f"{path / SUMMARY} states another guarantee than its ledger comes to, which is "
            f"{guarantee}; rely on the ledger's alone."
        )


def _as_stated(stated: Any, now: Any) -> bool:
    """Whether the two agree; another version of an accountant may differ in the fifth digit."""
    if isinstance(stated, float | int) and isinstance(now, float):
        return math.isclose(stated, now, rel_tol=1e-4)
    return stated == now


def refuse_foreign(checkpoint: Path, ledger: LedgerRecord) -> None:
    """Raise `InputError` unless ``ledger`` is the one that stood beside the weights, or goes on."""
    _refuse_foreign(checkpoint, _saved_head(checkpoint), ledger)


def _refuse_foreign(checkpoint: Path, head: str, ledger: LedgerRecord) -> None:
    if head not in ledger.heads:
        raise InputError(
            f"The checkpoint {checkpoint} does not belong to the ledger beside it: the ledger was "
            "cut, or the weights are another run's; put back what was there, or start a new run."
        )


def _newest_saved(folder: Path) -> tuple[Path, str] | None:
    """The newest checkpoint and the ledger's head that it was saved under."""
    while found := checkpoints(folder)[-1:]:
        try:
            return found[0], _saved_head(found[0])
        except InputError:
            if found[0].exists():  # else a newer one has replaced it
                raise
    return None


def _saved_head(checkpoint: Path) -> str:
    """The ledger's head when ``checkpoint`` was saved, whose weights are those of then."""
    try:
        state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
        head, expected = state["position"]["ledger_head"], state["weights_sha256"]
        changed = sha256(checkpoint / WEIGHTS) != expected
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"The checkpoint {checkpoint} cannot be read; remove that folder to go on from the "
            "start."
        ) from None
    if changed:
        raise InputError(
            f"The weights in {checkpoint} are not those that were saved there, so the ledger does "
            "not tell their ε; put back what was there, or start a new run."
        )
    return head


def sha256(path: Path) -> str:
    """The hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_summary(path: Path) -> dict[str, Any]:
    try:
        return json.loads((path / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(
            f"{path} is not a run folder; give the folder a run has written."
        ) from None


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints in ``folder``, oldest first."""
    numbers = {path: path.name.removeprefix("step-") for path in folder.glob("step-*")}
    return sorted((p for p, n in numbers.items() if n.isdecimal()), key=lambda p: int(numbers[p]))


def _read_metrics(path: Path) -> pd.DataFrame:
    """The rows so far; none if the run was killed before its first, or a power cut took them."""
    try:
        return pd.read_parquet(path / "metrics.parquet")
    except (OSError, ValueError):
        return pd.DataFrame({name: pd.Series(dtype=float) for name in METRICS})


def _as_json(summary: dict[str, Any]) -> str:
    return json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def replace_text(path: Path, text: str) -> None:
    """Write ``path`` so that a reader finds the old text or the new, never a part."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())  # or a power cut can leave the name without its text
    partial.replace(path)


def fresh_path(run_dir: str | Path | None) -> Path:
    """Where a new run goes: ``run_dir``, or ``runs/`` and the time of day, absolute.

    A run outlives a change of the working directory. Raises `InputError` if something is there
    already.
    """
    if run_dir is None:
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S-%f")
        return Path("runs").absolute() / stamp[:-3]
    path = Path(run_dir).expanduser().absolute()
    path = path if path.name != ".." else path.resolve()  # ".." has no name to write beside
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
