"""What the study keeps of a run: a row an evaluation in a CSV file a block, and who measured it.

The rows are all that there is to keep: a run that has its rows is not trained again, wherever the
study goes on. Beside them, ``BLOCK.json`` names machines and versions.
"""

import json
import math
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.errors import InputError
from workbench.runs.files import replace_text
from workbench.runs.folder import RunRecord
from workbench.scaling.study_blocks import BLOCKS, StudyRun
from workbench.scaling.study_rates import Rates, best_rate

COLUMNS = (
    "run",
    "block",
    "arm",  # private; clipped: σ = 0, not private; twin: not clipped either
    "state",  # diverged: the run ended there, and its last row has no loss
    "width",
    "n_params",
    "n_params_non_embedding",
    "flops_per_token",
    "records",
    "unique_tokens",
    "step",
    "steps",
    "batch",
    "tokens",  # step × expected batch × tokens to predict in a mean record
    "compute",  # FLOPs: tokens × flops_per_token
    "noise_multiplier",
    "noise_batch_ratio",
    "target_epsilon",
    "epsilon",  # certified for the run's last step, else empty
    "delta",
    "privacy_unit",  # what that ε protects one of
    "learning_rate",
    "schedule",
    "seed",
    "loss",  # held out, nats a token
    "loss_tail",  # of the tail average
    "bits_per_byte",
    "bits_per_byte_tail",
    "seconds",  # of training and evaluation so far
    "disturbed",  # whether other work ran on the machine, which changes seconds and nothing else
)


@dataclass(frozen=True)
class StudyData:
    """The study's folder of rows, by block."""

    folder: Path

    def rows(self, block: str) -> pd.DataFrame:
        """The rows of a block so far; `InputError` if they are not what the study wrote."""
        path = self._csv(block)
        if not path.exists():
            return pd.DataFrame({name: pd.Series(dtype=object) for name in COLUMNS})
        try:
            frame = pd.read_csv(path)
        except (OSError, ValueError) as error:
            raise InputError(f"Cannot read {path} ({error}); put a whole copy back.") from None
        if missing := [name for name in COLUMNS if name not in frame]:
            raise InputError(
                f"{path} has no column {', '.join(missing)}, so it is not what the study wrote; "
                "put a whole copy back, or give another folder with --data."
            )
        return frame

    def measured(self, block: str) -> set[str]:
        """The runs of a block that have their rows."""
        return set(self.rows(block)["run"])

    def add(self, block: str, rows: pd.DataFrame, session: Mapping[str, Any]) -> None:
        """Keep the rows of a run, whole or not at all, and the session that they stem from."""
        known = self.rows(block)
        rows = rows.loc[~np.isin(rows["run"].to_numpy(), known["run"].to_numpy())]
        if rows.empty:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        # As text, so that rows of another machine stay as they were to the last digit.
        text = rows[list(COLUMNS)].to_csv(index=False, header=known.empty, lineterminator="\n")
        before = "" if known.empty else self._csv(block).read_text(encoding="utf-8")
        replace_text(self._csv(block), before + text)
        self._note(block, sorted(set(rows["run"])), session)

    def rates(self) -> Rates:
        """What the pilot and the twin's block tell of learning rates so far.

        A block tells nothing before all of its runs are measured: the rule looks at whole cells.
        """
        pilot, twins = self._whole("D"), self._whole("F")
        cells = zip(pilot["n_params"], pilot["noise_batch_ratio"], strict=True)
        tried = pilot["learning_rate"].tolist()
        return Rates(
            {
                (int(size), float(ratio)): _best(pilot.loc[_is(pilot, size, ratio)])
                for size, ratio in sorted(set(cells))
            },
            {
                int(width): _best(twins.loc[twins["width"] == width])
                for width in sorted(set(twins["width"]))
            },
            lowest=min(tried, default=0.0),
            highest=max(tried, default=math.inf),
        )

    def surface(self) -> pd.DataFrame:
        """The rows of block A as a law takes them, ``steps`` those taken so far.

        None before all of its runs are measured. Runs that diverged are left out.
        """
        rows, rates = self.rows("A"), self.rates()
        if rows.empty or not rates.pilot:
            return rows.head(0)
        if {run.id for run in BLOCKS["A"](rates)} - set(rows["run"]):
            return rows.head(0)
        ended = rows.loc[np.asarray(rows["state"] == "done")]
        renamed = ended.drop(columns="steps")
        return renamed.rename(columns={"step": "steps", "batch": "expected_batch_size"})

    def _whole(self, block: str) -> pd.DataFrame:
        """The last row of every run of a block whose runs are all measured, else none."""
        rows = self.rows(block)
        due = {run.id for run in BLOCKS[block](Rates({}, {}))} - set(rows["run"])
        return rows.head(0) if due else rows.drop_duplicates("run", keep="last")

    def _csv(self, block: str) -> Path:
        return self.folder / f"{block}.csv"

    def _note(self, block: str, runs: list[str], session: Mapping[str, Any]) -> None:
        path = self.folder / f"{block}.json"
        notes = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        same = next((n for n in notes if {**n, "runs": 0} == {**session, "runs": 0}), None)
        if same is None:
            notes.append({**session, "runs": runs})
        else:
            same["runs"] += runs
        replace_text(path, json.dumps(notes, indent=1, ensure_ascii=False) + "\n")


def rows_of(run: StudyRun, record: RunRecord, *, diverged: bool, disturbed: bool) -> pd.DataFrame:
    """A finished run as rows, one an evaluation; one that diverged ends with a row without loss."""
    summary, metrics = record.summary, record.metrics
    evaluated = metrics.loc[metrics["heldout_loss"].notna() & (metrics["step"] > 0)]
    rows = [_measured(row, summary) for row in evaluated.to_dict(orient="records")]
    if diverged:
        last = {"step": summary["steps"] or 0, "seconds": 60 * summary["minutes"]}
        rows.append({**last, "state": "diverged"})
    elif run.arm == "private":
        spent = summary["guarantee"]
        rows[-1] |= {"epsilon": _short(spent["epsilon"], 6), "delta": spent["delta"]}
    everywhere = _everywhere(run, record) | {"disturbed": disturbed}
    frame = pd.DataFrame([{**everywhere, **row} for row in rows], columns=list(COLUMNS))
    per_step = run.batch * summary["training_tokens"] / summary["records"]["training"]
    frame["tokens"] = (frame["step"] * per_step).round().astype("int64")
    frame["compute"] = [_short(value, 6) for value in frame["tokens"] * frame["flops_per_token"]]
    return frame


def _everywhere(run: StudyRun, record: RunRecord) -> dict[str, Any]:
    """What is the same in all rows of a run."""
    summary = record.summary
    noise = summary["noise_multiplier"]
    return {
        "run": run.id,
        "block": run.block,
        "arm": run.arm,
        "state": "done",
        "width": run.width,
        "n_params": summary["n_params"],
        "n_params_non_embedding": summary["n_params_non_embedding"],
        "flops_per_token": summary["flops_per_token"],
        "records": summary["records"]["training"],
        "unique_tokens": summary["training_tokens"],
        "steps": summary["steps_planned"],
        "batch": run.batch,
        "noise_multiplier": _short(noise, 7),
        "noise_batch_ratio": _short(noise / run.batch, 7),
        "target_epsilon": run.target_epsilon,
        "privacy_unit": record.ledger.terms.unit,
        "learning_rate": run.learning_rate,
        "schedule": run.schedule,
        "seed": run.seed,
    }


def _measured(row: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, Any]:
    per_byte = summary["heldout_tokens"] / summary["heldout_bytes"] / math.log(2)
    loss, tail = row["heldout_loss"], row["heldout_loss_tail"]
    return {
        "step": int(row["step"]),
        "loss": round(loss, 6),
        "loss_tail": round(tail, 6),
        "bits_per_byte": round(loss * per_byte, 6),
        "bits_per_byte_tail": round(tail * per_byte, 6),
        "seconds": round(row["seconds"], 2),
    }


def session(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Where a run was measured and with what, without naming the machine."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {platform.system()}, {os.cpu_count()} cores",
        "processor": _processor(),
        "device": summary["device"],
        "threads": summary["threads"],
        "python": summary["python"],
        **summary["versions"],
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _is(rows: pd.DataFrame, size: int, ratio: float) -> np.ndarray:
    same_size = rows["n_params"].to_numpy() == size
    return same_size & (rows["noise_batch_ratio"].to_numpy() == ratio)


def _best(cell: pd.DataFrame) -> float:
    losses: Iterable[float] = cell["loss_tail"].astype(float).fillna(math.inf)
    return best_rate(list(cell["learning_rate"].astype(float)), list(losses))


def _short(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")
