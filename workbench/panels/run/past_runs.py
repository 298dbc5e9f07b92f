"""Past runs: a table to pick from, what is shown beside the current run, and what to resume."""

import html
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as widgets
import pandas as pd
import traitlets

from workbench import training
from workbench.analysis.past_runs import PastRun, past_runs
from workbench.errors import InputError
from workbench.figures.training import PAST
from workbench.panels.common.formatting import shown_epsilon, written, written_reading

_ASSETS = Path(__file__).parent / "assets"
_MOST_ROWS = 100  # the newest; a browser draws that many at once
_COLUMNS = ["run", "began", "state", "steps", "ε", "perplexity", "σ", "C", "B"]


class RunTable(anywidget.AnyWidget):
    """A table with a tick and a Resume button in each row; ``shown`` maps letters to run ids."""

    columns = traitlets.List(_COLUMNS).tag(sync=True)
    rows = traitlets.List().tag(sync=True)
    letters = traitlets.List(list(PAST)).tag(sync=True)
    shown = traitlets.Dict().tag(sync=True)
    busy = traitlets.Bool(False).tag(sync=True)
    _esm = _ASSETS / "run_table.js"


class PastRuns(widgets.VBox):
    """The table of the runs kept in ``folders``, which are read when `refresh` is called.

    ``going()`` names a run that is not a past one yet. ``on_shown()`` is called when other runs are
    ticked, and ``metrics`` then has theirs by letter; ``on_resume(path)`` when a row's button is
    pressed. All may be called on any thread.
    """

    def __init__(
        self,
        *,
        on_shown: Callable[[], None],
        on_resume: Callable[[Path], None],
        going: Callable[[], Path | None],
    ) -> None:
        self._lock = threading.Lock()
        self._on_shown, self._on_resume, self._going = on_shown, on_resume, going
        self._runs: dict[str, PastRun] = {}
        self.folders = [Path("runs")]
        self.metrics: dict[str, pd.DataFrame] = {}
        self.table = RunTable()
        self.note = widgets.HTML()
        again = widgets.Button(
            description="Read again", icon="refresh", tooltip="Look for new runs in the folders."
        )
        again.on_click(lambda _: self.refresh())
        self.table.observe(lambda _: self._pick(), names="shown")
        self.table.on_msg(self._received)
        super().__init__([widgets.HBox([again, self.note]), self.table])

    def refresh(self) -> None:
        """Read the folders anew."""
        with self._lock:
            found = past_runs(self.folders)
            # Asked only now, because a run may have begun in the meantime.
            going = self._going()
            found = [run for run in found if run.path != going][:_MOST_ROWS]
            self._runs = {str(run.path): run for run in found}
            self.table.rows = [_row(name, run) for name, run in self._runs.items()]
            gone = set(self.table.shown.values()) - set(self._runs)
        if gone:
            kept = {mark: run for mark, run in self.table.shown.items() if run not in gone}
            self.table.shown = kept
        self._say(_NOTE if found else "No runs here yet.")

    def _pick(self) -> None:
        """Read the metrics of the runs ticked; one that cannot be read is told and unticked."""
        picked: dict[str, pd.DataFrame] = {}
        for letter, name in dict(self.table.shown).items():
            try:
                picked[letter] = training.read_run(name).metrics
            except InputError as error:
                self._say(str(error))
        self.metrics = picked
        self._on_shown()

    def _received(self, _widget: Any, content: dict[str, str], _buffers: Any) -> None:
        run = self._runs.get(content.get("resume", ""))
        if run is not None:
            self._on_resume(run.path)

    def _say(self, sentence: str) -> None:
        self.note.value = f'<div class="wb-status">{html.escape(sentence)}</div>'


def _row(name: str, run: PastRun) -> dict[str, Any]:
    if run.config is None or run.began is None:
        cells = [run.path.name, "–", run.state, *["–"] * (len(_COLUMNS) - 3)]
    else:
        terms = run.config.privacy
        cells = [
            run.path.name,
            f"{run.began:%d %b %H:%M}",
            run.state,
            f"{run.steps:,} of {run.steps_planned:,}",
            shown_epsilon(run.epsilon),
            written_reading(run.heldout_perplexity),
            written(run.noise_multiplier) if terms.private else "none",
            written(terms.max_grad_norm) if terms.private else "none",
            f"{run.config.training.expected_batch_size:,}",
        ]
    return {"id": name, "cells": cells, "note": run.problem, "resumable": run.resumable}


_NOTE = (
    f"Tick up to {len(PAST)} to see them in the pictures. Each ε is that run’s alone, at its own "
    "δ: on the same records they add up."
)
