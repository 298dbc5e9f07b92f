"""Runs that were, as a table: what each was asked, how it ended, what it spent and learnt."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from workbench.config import RunConfig
from workbench.errors import InputError
from workbench.runs.folder import LEDGER, SUMMARY
from workbench.runs.ledger import read

PastState = Literal["done", "cancelled", "failed", "unfinished", "unreadable"]


@dataclass(frozen=True)
class PastRun:
    """One run folder in a line. "Unfinished" was killed, or is still going in another process.

    ``epsilon`` is certified, infinite without privacy; NaN stands for what was never known.
    ``problem`` says in a sentence what went wrong, where something did.
    """

    path: Path
    state: PastState
    problem: str = ""
    began: datetime | None = None
    steps: int = 0
    steps_planned: int = 0
    epsilon: float = math.nan
    heldout_perplexity: float = math.nan
    config: RunConfig | None = None
    noise_multiplier: float = math.nan  # of the first step, a target ε resolved

    @property
    def resumable(self) -> bool:
        """Whether there are steps left that `training.resume` could take."""
        return self.state in ("cancelled", "failed", "unfinished")


def past_runs(folders: Iterable[Path]) -> list[PastRun]:
    """The runs kept directly in ``folders``, the newest first; other things there are left out."""
    found = (path.parent for folder in folders for path in folder.glob(f"[!.]*/{SUMMARY}"))
    runs = [_read(path) for path in dict.fromkeys(found)]
    return sorted(runs, key=lambda run: (str(run.began or ""), str(run.path)), reverse=True)


def _read(path: Path) -> PastRun:
    try:
        return _summarised(path, json.loads((path / SUMMARY).read_text(encoding="utf-8")))
    except InputError as error:
        return PastRun(path, "unreadable", str(error))
    except (OSError, ValueError, KeyError, TypeError):
        problem = f"{path / SUMMARY} is not the summary of a run; remove it to hide this line."
        return PastRun(path, "unreadable", problem)


def _summarised(path: Path, summary: dict[str, Any]) -> PastRun:
    if summary["state"] == "running":
        # A run that was killed could not write down what it had spent; its ledger knows.
        ledger = path / LEDGER
        steps, epsilon = _recorded(ledger, ledger.stat().st_mtime_ns)
    else:
        steps, epsilon = summary["steps"], _stated(summary["guarantee"])
    return PastRun(
        path=path,
        state="unfinished" if summary["state"] == "running" else summary["state"],
        problem=summary["error"] or "",
        began=datetime.fromisoformat(summary["began"]).astimezone(),
        steps=steps,
        steps_planned=summary["steps_planned"],
        epsilon=epsilon,
        heldout_perplexity=summary["heldout_perplexity"] or math.nan,
        config=RunConfig.load(path / "config.yaml"),
        noise_multiplier=summary["noise_multiplier"],
    )


def _stated(guarantee: dict[str, Any] | None) -> float:
    """ε as a summary has it: null is without privacy, and no guarantee that accounting failed."""
    if guarantee is None:
        return math.nan
    return math.inf if guarantee["epsilon"] is None else guarantee["epsilon"]


@lru_cache(maxsize=256)
def _recorded(ledger: Path, modified: int) -> tuple[int, float]:  # noqa: ARG001
    """Steps and certified ε of a ledger, computed anew only where the file was ``modified``."""
    record = read(ledger)
    return record.steps, record.guarantee().epsilon
