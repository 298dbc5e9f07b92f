"""The training panel: settings, Start, Pause, Cancel, live pictures, and runs of the past.

The run itself trains in a thread of its own (`job`), which this panel only watches: a second
thread asks for its progress a few times a second and redraws. Callbacks arrive on different
threads, so everything that touches the state holds one lock.
"""

import math
import threading
import time
from functools import partial
from pathlib import Path

import ipywidgets as widgets
import numpy as np

from workbench.analysis.projection import Projection, project
from workbench.config import RunConfig
from workbench.errors import InputError
from workbench.panels.common.debounce import Debouncer
from workbench.panels.common.markup import message_html
from workbench.panels.common.panel import JobPanel
from workbench.panels.common.worker import Worker
from workbench.panels.run import cards, job, text
from workbench.panels.run.figures import Pictures, View
from workbench.panels.run.form import RunControls, RunForm
from workbench.panels.run.job import RunJob, RunState
from workbench.panels.run.past_runs import PastRuns

# However fast the steps come. Pictures take a browser without a graphics card 0.13 s of its core,
# numbers 0.02 s, and training on a small machine would miss more of it.
NUMBERS_SECONDS, PICTURES_SECONDS = 1.0, 4.0
_GLANCE_SECONDS = 0.05
DEBOUNCE_SECONDS = 0.3
_SHEET = Path(__file__).parent / "assets" / "run.css"


class Trainer(JobPanel[RunForm]):
    """The panel; it starts from ``config``, or follows the run that is already going.

    ``run`` is the last run started, resumed or followed here, with ``run.run_dir`` and
    ``run.wait()``.
    """

    def __init__(self, config: RunConfig | None = None) -> None:
        self._lock = threading.RLock()
        self._worker = Worker(self._lock)
        self._debouncer = Debouncer(self._ask_for_projection, DEBOUNCE_SECONDS, self._lock)
        self.run: RunJob | None = None
        self.projection: Projection | None = None  # of the settings on display
        self._budgets: dict[RunConfig, float] = {}  # planned ε of all that were
        latest = job.latest()
        going = latest if latest is not None and latest.active else None
        # Of the run, or before there is one of the newest plan.
        self.config = going.config if going else config or RunConfig()
        self.form = RunForm(self.config, on_change=self._settle_later)
        self.past = PastRuns(
            on_shown=self._redraw, on_resume=self._resume, going=self._folder_of_the_run
        )
        self.controls = RunControls(
            on_start=self._start, on_pause=self._pause, on_cancel=self._cancel
        )
        self.planned, self.message, self.cards, self.samples = (widgets.HTML() for _ in range(4))
        self.pictures = Pictures(self._view(None))
        super().__init__("Training", self._arranged(), sheets=[_SHEET])
        with self._lock:
            self._redraw()
            self._ask_for_projection()
            if going:
                self._watch(going)
            else:
                self._read_past_runs()

    def close(self) -> None:
        """End the accounting process along with the widgets; a run that is going goes on."""
        self._debouncer.cancel()
        self._worker.close()
        super().close()

    def _arranged(self) -> list[widgets.Widget]:
        more = widgets.Accordion([self.form.advanced, self.past])
        more.titles = ("Advanced settings", "Past runs: show beside this one, or resume")
        return [
            self.form.box,
            more,
            self.planned,
            self.controls,
            self.message,
            self.cards,
            self.pictures,
            self.samples,
            widgets.HTML(f'<div class="wb-status">{cards.PRIVATE_NOTE}</div>'),
        ]

    def show(self, config: RunConfig) -> None:
        """Put the settings of ``config`` on display, for Start to train with.

        Raises `InputError` while a run is going, whose settings are the ones to see.
        """
        with self._lock:
            if self.run is not None and self.run.active:
                raise InputError(
                    f"A run is going ({self.run.run_dir}), and its settings are on display; cancel "
                    "it or wait for its end before other settings are shown."
                )
            self.form.show(config)
            self._ask_for_projection()

    def begin(self) -> RunJob:
        """Train with the settings on display, as the Start button does.

        Raises `InputError` for settings that cannot be used, or while another run is going.
        """
        with self._lock:
            config = self.form.config()
            run = job.start(config, run_dir=self.form.run_dir)
            self.config = config
            self._watch(run)
            return run

    def resume(self, run_dir: Path) -> RunJob:
        """Go on with a run of the past, whose settings are then on display.

        Raises `InputError` if its folder cannot be read, or while another run is going.
        """
        with self._lock:
            run = job.resume(run_dir)
            self.config = run.config
            self.form.show(run.config)
            self._ask_for_projection()
            self._watch(run)
            return run

    def _start(self) -> None:
        self._attempt(self.begin)

    def _resume(self, run_dir: Path) -> None:
        self._attempt(lambda: self.resume(run_dir))

    def _pause(self) -> None:
        if self.run is not None:
            paused = self.run.progress().phase in ("pausing", "paused")
            (self.run.go_on if paused else self.run.pause)()
            self._redraw()

    def _cancel(self) -> None:
        if self.run is not None:
            self.run.cancel()
            self._redraw()

    def _watch(self, run: RunJob) -> None:
        self.run = run
        self.form.mark("")
        self._redraw()
        self._read_past_runs()
        threading.Thread(target=self._follow, args=(run,), daemon=True).start()

    def _follow(self, run: RunJob) -> None:
        """Show how the run moves on: its numbers often, its pictures seldom, each phase at once."""
        progress, due = run.progress(), 0.0
        while True:
            draw = progress.phase != "running" or time.monotonic() >= due
            due = time.monotonic() + PICTURES_SECONDS if draw else due
            with self._lock:
                self._show(run, progress, draw=draw)
            if progress.ended:
                break
            until = time.monotonic() + NUMBERS_SECONDS
            while run.phase == progress.phase and time.monotonic() < until:
                time.sleep(_GLANCE_SECONDS)
            progress = run.progress(newer_than=progress.version)
        self._read_past_runs()

    def _redraw(self) -> None:
        """Show what is there now: of the run, or of the plan if there has been none."""
        with self._lock:
            if self.run is not None:
                self._show(self.run, self.run.progress())
                return
            self.message.value = message_html(text.READY)
            self.cards.value = cards.cards(None, self.config, self._budget())
            self.pictures.show(self._view(None))

    def _show(self, run: RunJob, progress: RunState, *, draw: bool = True) -> None:
        self.form.enable(progress.ended)
        self.past.table.busy = not progress.ended
        self.controls.show(progress)
        self.message.value = text.message(run, progress)
        self.cards.value = cards.cards(progress, run.config, self._budget())
        texts = progress.result.samples if progress.result else {}
        self.samples.value = cards.samples(texts)
        if draw:
            self.pictures.show(self._view(progress))

    def _view(self, progress: RunState | None) -> View:
        latest = progress.latest if progress else None
        return View(
            metrics=progress.metrics if progress else job.no_metrics(),
            gradient_norms=latest.gradient_norms if latest else np.zeros(0),
            max_grad_norm=(latest or self.config.privacy).max_grad_norm,
            steps=latest.steps if latest else self._steps(),
            budget=self._budget(),
            past=self.past.metrics,
        )

    def _read_past_runs(self) -> None:
        """In a thread of its own, because there may be many."""
        threading.Thread(target=self.past.refresh, daemon=True).start()

    def _folder_of_the_run(self) -> Path | None:
        return self.run.run_dir if self.run and self.run.active else None

    def _settle_later(self) -> None:
        """A field was changed: ask for the guarantee once no other has changed for a moment."""
        with self._lock:
            self._worker.cancel()
            self._debouncer.later()

    def _ask_for_projection(self) -> None:
        with self._lock:
            self._worker.cancel()
            self.projection = None
            try:
                config = self.form.config()
            except InputError as error:
                self._not_used(str(error))
                return
            self.form.mark("")
            self.planned.value = text.computing()
            self._worker.submit(project, config, partial(self._projected, config))

    def _projected(self, config: RunConfig, answer: Projection | Exception) -> None:
        with self._lock:
            if isinstance(answer, Projection):
                self.projection = answer
                self._budgets[config] = answer.guarantee.epsilon
                self.planned.value = text.projected(answer)
                if self.run is None:
                    self.config = config
                self._redraw()
            else:
                known = isinstance(answer, InputError)
                self._not_used(str(answer) if known else text.beyond(answer))

    def _not_used(self, sentence: str) -> None:
        self.form.mark(sentence)
        self.planned.value = text.not_used(sentence)

    def _budget(self) -> float:
        return self._budgets.get(self.config, math.nan)

    def _steps(self) -> int:
        return self.projection.plan.steps if self.projection else self.config.training.steps or 1
