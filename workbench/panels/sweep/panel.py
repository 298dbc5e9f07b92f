"""The sweep panel: a base, what varies, Start, Cancel, Retry failed, and what all of it costs.

The sweep runs in a thread of its own that waits for Dask (`job`); a second thread watches
it and redraws. Callbacks arrive on different threads, so all that touches the state holds one lock.
"""

import math
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import pandas as pd

from workbench.analysis.sweep import SweepProjection, project_sweep, spent
from workbench.config import RunConfig
from workbench.errors import InputError, sentence
from workbench.figures.live import LiveFigure
from workbench.figures.sweep import sweep_figure, sweep_trace, told
from workbench.panels.common.debounce import Debouncer
from workbench.panels.common.markup import message_html
from workbench.panels.common.panel import JobPanel
from workbench.panels.common.worker import Worker
from workbench.panels.sweep import job, text
from workbench.panels.sweep.form import MOST_FIELDS, SweepControls, SweepForm
from workbench.panels.sweep.job import SweepJob, SweepState
from workbench.sweeps.folder import no_results
from workbench.sweeps.sweep import SweepCost

REDRAW_SECONDS = 0.3
DEBOUNCE_SECONDS = 0.4
_SHEET = Path(__file__).parent / "assets" / "sweep.css"
_GRID = {"privacy.noise_multiplier": (0.6, 1.0), "training.learning_rate": (0.01, 0.02)}


class Sweeper(JobPanel[SweepForm]):
    """The panel; it starts from ``base`` and ``grid``, or follows the sweep that is going.

    ``scheduler`` is that of `run_sweep`. ``sweep`` is the last sweep started or followed here, with
    ``sweep.folder`` and ``sweep.wait()``.
    """

    def __init__(
        self,
        base: RunConfig | None = None,
        grid: Mapping[str, Sequence[Any]] | None = None,
        *,
        scheduler: Any = None,
    ) -> None:
        self._lock = threading.RLock()
        self._worker = Worker(self._lock)
        self._debouncer = Debouncer(self._ask_for_projection, DEBOUNCE_SECONDS, self._lock)
        self._scheduler = scheduler
        self._began, self._ended_before = 0.0, 0
        self.sweep: SweepJob | None = None
        self.projection: SweepProjection | None = None
        self.cost: SweepCost | None = None
        going = job.latest()
        if going is not None and going.active:
            base, grid = going.config.base, going.config.grid
        self.form = SweepForm(base or RunConfig(), grid or _GRID, on_change=self._settle_later)
        self.controls = SweepControls(
            self.form.place, on_start=self._start, on_cancel=self._cancel, on_retry=self._retry
        )
        self.planned, self.message, self.total, self.table = (widgets.HTML() for _ in range(4))
        self.picture = self._empty_picture()
        super().__init__("Sweep", self._arranged(), sheets=[_SHEET])
        with self._lock:
            self.message.value = message_html(text.READY)
            self.total.value = text.cost(None, ended=False)
            if going is not None and going.active:
                self._watch(going)
            else:
                self._ask_for_projection()

    def close(self) -> None:
        """End the accounting process along with the widgets; a sweep that is going goes on."""
        with self._lock:
            self._forget_question()
            self.sweep = None
        self._worker.close()
        super().close()

    def begin(self, *, retry_failed: bool = False) -> SweepJob:
        """Run what is on display, as the Start button does.

        Raises `InputError` for settings that cannot be used, or while another sweep is going.
        """
        with self._lock:
            sweep = job.start(
                self.form.config(),
                folder=self.form.folder,
                scheduler=self._scheduler,
                retry_failed=retry_failed,
            )
            self.form.folder = sweep.folder  # so that Start goes on with it
            self._watch(sweep)
            return sweep

    def _arranged(self) -> list[widgets.Widget]:
        return [
            self.form.box,
            self.planned,
            self.controls,
            self.message,
            self.total,
            self.table,
            self.picture,
        ]

    def _start(self) -> None:
        self._attempt(self.begin)

    def _retry(self) -> None:
        self._attempt(lambda: self.begin(retry_failed=True))

    def _cancel(self) -> None:
        with self._lock:
            if self.sweep is not None:
                self.sweep.cancel()
                self._show(self.sweep, self.sweep.progress())

    def _watch(self, sweep: SweepJob) -> None:
        self.sweep, self.cost = sweep, None
        self._began, self._ended_before = time.monotonic(), -1
        self.form.mark("")
        self._forget_question()
        self._worker.submit(spent, sweep.folder, self._priced)  # ends any measuring of time
        if self.projection is None:
            cells = len(sweep.config.cells())
            self.planned.value = text.planned(cells, None, asked=False)
        self._show(sweep, sweep.progress())
        threading.Thread(target=self._follow, args=(sweep,), daemon=True).start()

    def _follow(self, sweep: SweepJob) -> None:
        """Redraw whenever the sweep has moved on, at most every `REDRAW_SECONDS`."""
        pause, version, ended = threading.Event(), -1, 0
        while True:
            progress = sweep.progress(newer_than=version)
            version = progress.version
            with self._lock:
                if self.sweep is not sweep:
                    return
                if progress.ended:
                    self._settle_cost(progress)  # first: who sees the end sees its price
                self._show(sweep, progress)
                if progress.ended:
                    if self.projection is None:
                        self._ask_for_projection()
                    return
                if progress.ended_cells != ended:
                    ended = progress.ended_cells
                    self._worker.submit(spent, sweep.folder, self._priced)
            pause.wait(REDRAW_SECONDS)

    def _show(self, sweep: SweepJob, progress: SweepState) -> None:
        frame, fields = progress.frame, sweep.config.fields
        if frame is not None and self._ended_before < 0:
            self._ended_before = progress.ended_cells
        self.form.enable(progress.ended)
        self.controls.show(progress)
        self.message.value = text.message(progress, sweep.folder, self._left(progress))
        self.total.value = text.cost(self.cost, ended=progress.ended)
        self.table.value = text.table(frame, fields)
        if frame is not None:
            self._draw(frame, fields)

    def _draw(self, frame: pd.DataFrame, fields: Sequence[str]) -> None:
        trace = sweep_trace(frame, fields, room=MOST_FIELDS)
        self.picture.redraw({"cells": trace}, shows=told(frame, fields))

    def _empty_picture(self) -> LiveFigure:
        config = self.form.config()
        nothing = no_results(config.cells())
        return LiveFigure(sweep_figure(nothing, config.fields, room=MOST_FIELDS))

    def _settle_cost(self, progress: SweepState) -> None:
        self._worker.cancel()
        attributes = progress.frame.attrs if progress.frame is not None else {}
        if attributes.get("privacy"):
            self.cost = SweepCost.from_dict(attributes["privacy"])

    def _priced(self, answer: SweepCost | Exception) -> None:
        with self._lock:
            if isinstance(answer, SweepCost):
                self.cost = answer
                self.total.value = text.cost(answer, ended=False)

    def _left(self, progress: SweepState) -> float:
        """Seconds until the end at the pace of the cells that have ended, else as measured."""
        ended = progress.ended_cells - max(0, self._ended_before)
        if ended < 1:
            whole = self.projection.seconds if self.projection else None
            return math.nan if whole is None else whole
        left = progress.counts.total() - progress.ended_cells
        return (time.monotonic() - self._began) / ended * left

    def _settle_later(self) -> None:
        """A field was changed: ask for the cost once no other has changed for a moment."""
        with self._lock:
            self._worker.cancel()
            self._debouncer.later()

    def _forget_question(self) -> None:
        self._debouncer.cancel()
        self._worker.cancel()

    def _ask_for_projection(self) -> None:
        with self._lock:
            self._worker.cancel()
            self.projection = None
            try:
                config = self.form.config()
            except InputError as error:
                self.form.mark(str(error))
                self.planned.value = text.not_used(str(error))
                return
            cells = config.cells()
            self.form.mark("")
            self.planned.value = text.planned(len(cells), None)
            if self.sweep is None:
                self._draw(no_results(cells), config.fields)
            self._worker.submit(
                project_sweep, config, lambda answer: self._projected(len(cells), answer)
            )

    def _projected(self, cells: int, answer: SweepProjection | Exception) -> None:
        with self._lock:
            if isinstance(answer, SweepProjection):
                self.projection = answer
                self.planned.value = text.planned(cells, answer)
            else:
                self.form.mark(str(answer))
                reason = sentence(answer, what="The accounting")
                self.planned.value = text.no_cost(cells, reason)
