"""Block G: runs that were predicted before they started, so that a prediction can fail.

A registration is a file of runs, each with its predicted loss and interval, and the hash of it all.
Once a run of it is measured it cannot be replaced.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from workbench.errors import InputError
from workbench.runs.files import replace_text
from workbench.scaling.study_blocks import StudyRun

REGISTERED = "G_registered.json"
_PREDICTED = ("predicted_loss", "low", "high")


def register(
    folder: Path, runs: Sequence[tuple[StudyRun, Mapping[str, float]]], *, predicted_from: str
) -> Path:
    """Write down runs with what they are predicted to come to, before any of them is trained.

    Args:
        folder: the study's rows, `workbench.scaling.study.measured_folder`.
        runs: each with its ``predicted_loss`` (tail average, nats a token) and the ends ``low`` and
            ``high`` of a 95 % prediction interval.
        predicted_from: the law, and the blocks that it was fitted to.

    Raises `InputError` for a prediction that is not in its interval, or if block G has begun.
    """
    if (folder / "G.csv").exists():
        raise InputError(
            f"{folder / 'G.csv'} has runs that were predicted already; a prediction stands once a "
            "run of it is measured, so plan another study."
        )
    entries = []
    for run, predicted in runs:
        loss, low, high = (float(predicted.get(name, float("nan"))) for name in _PREDICTED)
        if not low <= loss <= high:
            raise InputError(
                f"predicted_loss is {loss:g} but must be within low = {low:g} and high = {high:g}; "
                "give all three in nats a token."
            )
        planned = replace(run, block="G")
        values = {"predicted_loss": loss, "low": low, "high": high}
        entries.append({"id": planned.id, "run": asdict(planned), **values})
    content = {
        "registered": datetime.now(UTC).isoformat(timespec="seconds"),
        "predicted_from": predicted_from,
        "runs": entries,
    }
    text = json.dumps({**content, "sha256": _digest(content)}, indent=1, ensure_ascii=False)
    folder.mkdir(parents=True, exist_ok=True)
    replace_text(folder / REGISTERED, f"{text}\n")
    return folder / REGISTERED


def registered(folder: Path) -> dict[str, Any]:
    """What was registered; `InputError` if nothing was, or it was changed since."""
    path = folder / REGISTERED
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        digest = content.pop("sha256")
    except FileNotFoundError:
        raise InputError(
            "Block G holds runs that were predicted beforehand, and none are; register some with "
            "workbench.scaling.study_plans.register first."
        ) from None
    except (OSError, ValueError, KeyError, AttributeError):
        raise InputError(f"{path} is no registration; put a whole copy back.") from None
    if digest != _digest(content):
        raise InputError(
            f"{path} was changed after it was registered; put back what was registered."
        )
    return content


def planned_runs(folder: Path) -> list[StudyRun]:
    """The registered runs."""
    return [StudyRun(**entry["run"]) for entry in registered(folder)["runs"]]


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
