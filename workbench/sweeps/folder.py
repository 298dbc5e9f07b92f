"""The sweep folder: what a sweep leaves, and all it needs to go on after whatever ended it.

``sweep.yaml``, ``results.parquet`` and ``results.csv`` (a row a cell), ``summary.json``, and for
each cell ``cells/ID/`` with its run folder ``run/``, and ``error.txt`` (a sentence, then the
traceback) if it failed. The cells' folders are the truth; the tables are written anew from them.
"""

import json
import math
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import pandas as pd
import pyarrow.parquet

from workbench.errors import InputError, usable_path
from workbench.runs.folder import SUMMARY, replace_text
from workbench.runs.lock import hold
from workbench.sweeps.config import Cell, SweepConfig

CellState = Literal["waiting", "running", "interrupted", "done", "failed"]
SWEEP = "sweep.yaml"
RESULTS = {
    "epsilon": float,
    "delta": float,
    "noise_multiplier": float,
    "sample_rate": float,
    "steps": "Int64",  # of pandas, which can be missing
    "steps_planned": "Int64",
    "heldout_loss": float,
    "heldout_perplexity": float,
    "minutes": float,
    "error": "str",
    "folder": "str",
}


@dataclass(frozen=True)
class CellFolder:
    """One cell on disk, as the sweep that waits for it and the worker that trains it see it."""

    path: Path

    @property
    def run(self) -> Path:
        """The run folder; it appears when training begins."""
        return self.path / "run"

    @property
    def started(self) -> bool:
        """Whether a worker has taken the cell up since `wait` was called."""
        return self._mark.exists()

    @property
    def error(self) -> str:
        """Why the cell failed, in a sentence; empty if it has not."""
        try:
            return self._error.read_text(encoding="utf-8").partition("\n")[0]
        except OSError:
            return ""

    @property
    def state(self) -> CellState:
        """What the disk says; whether an unfinished run still goes, it cannot know."""
        if self._error.exists():
            return "failed"
        if not self.run.exists():
            return "waiting"
        return "done" if self.summary().get("state") == "done" else "interrupted"

    def summary(self) -> dict[str, Any]:
        """The run's summary; empty if there is none yet."""
        try:
            return json.loads((self.run / SUMMARY).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def steps_so_far(self) -> int | None:
        """The steps in the metrics of a run that goes, at most half a second old."""
        try:
            # The first row is the model before any step.
            return pyarrow.parquet.read_metadata(self.run / "metrics.parquet").num_rows - 1
        except (OSError, ValueError):
            return None

    def wait(self) -> None:
        """Say that the cell is to be trained and that no worker has it yet."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._mark.unlink(missing_ok=True)

    def start(self) -> None:
        """Say that this process has the cell, whose earlier failure no longer counts."""
        self._error.unlink(missing_ok=True)
        replace_text(self._mark, f"{socket.gethostname()} {os.getpid()}\n")

    def fail(self, sentence: str, details: str) -> None:
        """Keep why the cell failed."""
        replace_text(self._error, f"{sentence}\n\n{details}")

    @property
    def _mark(self) -> Path:
        return self.path / "started"

    @property
    def _error(self) -> Path:
        return self.path / "error.txt"


class SweepFolder:
    """Writes one sweep's folder at ``path``; use as a context manager.

    Raises `InputError` if the folder holds something else, cannot be written, or is in use.
    """

    def __init__(self, path: Path, config: SweepConfig) -> None:
        self.path = usable_path("The sweep folder", path).absolute()
        self._lock = None
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if any(self.path.iterdir()) and not (self.path / SWEEP).exists():
                raise InputError(
                    f"{path} is there already and is no sweep folder; choose another with --out."
                )
            self._lock = hold(self.path)
            self.stop_file.unlink(missing_ok=True)
            replace_text(self.path / SWEEP, config.to_yaml())
        except OSError as error:
            raise InputError(
                f"Cannot write the sweep folder {path}: {error.strerror}; choose another with "
                "--out."
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.release()

    @property
    def stop_file(self) -> Path:
        """While this is there, workers finish the step in hand and leave their cell."""
        return self.path / ".stop"

    def cell(self, cell: Cell) -> CellFolder:
        """The folder of ``cell``."""
        return CellFolder(self.path / "cells" / cell.id)

    def row(self, cell: Cell, state: CellState) -> dict[str, Any]:
        """A cell's line of the results."""
        folder = self.cell(cell)
        summary = {} if state == "waiting" else folder.summary()
        spent = summary.get("guarantee") or {}
        unlimited = math.inf if spent else None
        steps = folder.steps_so_far() if state == "running" else summary.get("steps")
        return {
            "id": cell.id,
            "state": state,
            **cell.values,
            **{name: summary.get(name) for name in RESULTS},
            # JSON has no infinity: a run without privacy has a guarantee whose ε is null.
            "epsilon": unlimited if spent.get("epsilon") is None else spent["epsilon"],
            "delta": spent.get("delta"),
            "steps": steps,
            "error": folder.error if state == "failed" else "",
            "folder": folder.run.relative_to(self.path).as_posix(),
        }

    def write_results(self, frame: pd.DataFrame) -> None:
        """Replace both tables of results."""
        partial = self.path / ".results.parquet.partial"
        frame.to_parquet(partial, index=False)
        partial.replace(self.path / "results.parquet")
        replace_text(self.path / "results.csv", frame.to_csv(index=False))

    def write_summary(self, state: str, privacy: Mapping[str, Any] | None) -> None:
        """Replace ``summary.json``; an infinite ε is null there, as in a run's."""
        text = json.dumps({"state": state, "privacy": privacy}, indent=2, ensure_ascii=False)
        replace_text(self.path / SUMMARY, f"{text}\n")


def tidy(rows: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> pd.DataFrame:
    """One row a cell: id, state, the swept ``fields`` and the results; NaN where there is none."""
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in ("id", "state")}
    columns |= {field: _of_one_kind([row[field] for row in rows]) for field in fields}
    columns |= {name: [row[name] for row in rows] for name in RESULTS}
    return pd.DataFrame(columns).astype(RESULTS)


def no_results(cells: Sequence[Cell]) -> pd.DataFrame:
    """The results of cells that all still wait."""
    nothing = {**dict.fromkeys(RESULTS), "state": "waiting", "error": "", "folder": ""}
    return tidy([{**nothing, "id": cell.id, **cell.values} for cell in cells], [*cells[0].values])


def read_sweep(folder: str | Path) -> pd.DataFrame:
    """The results of a sweep, a row a cell, also while it runs or after it was killed.

    ``attrs`` has the sweep's "state", and under "privacy" what all its runs cost together, which is
    None until the sweep has ended. Raises `InputError` if ``folder`` is not a sweep's.
    """
    path = usable_path("The sweep folder", folder)
    try:
        frame = pd.read_parquet(path / "results.parquet")
        summary = json.loads((path / SUMMARY).read_text(encoding="utf-8"))
        if not isinstance(summary, dict) or not {"state", "privacy"} <= summary.keys():
            raise ValueError
    except (OSError, ValueError, RecursionError):
        raise InputError(
            f"{folder} is not a sweep folder; give the folder a sweep has written."
        ) from None
    if summary["privacy"] and summary["privacy"]["epsilon"] is None:
        summary["privacy"]["epsilon"] = math.inf
    frame.attrs = summary
    return frame


def _of_one_kind(values: list[Any]) -> list[Any]:
    """``values``, as text where a table could not hold their mixture, such as 16 and "auto"."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) <= 1 or kinds == {int, float}:
        return values
    return [None if value is None else str(value) for value in values]
