"""The training panel: settings, Start, live pictures, Cancel, and what the run truly spent.

The run itself trains in a thread of its own (`follow`), which this panel only watches: a second
thread asks for its progress a few times a second and redraws. Callbacks arrive on different
threads, so everything that touches the state holds one lock.
"""

import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np

from workbench.config import RunConfig
from workbench.errors import InputError
from workbench.figures.live import LiveFigure
from workbench.figures.training import (
    clipping_figure,
    clipping_ranges,
    clipping_traces,
    histogram_figure,
    histogram_ranges,
    histogram_traces,
    learning_figure,
    learning_ranges,
    learning_traces,
    spending_figure,
    spending_ranges,
    spending_traces,
)
from workbench.panels import follow, run_readouts
from workbench.panels.background import Background
from workbench.panels.controls import STYLE, status_html, status_line
from workbench.panels.follow import Progress, Run
from workbench.panels.run_form import RunForm
from workbench.readings.projection import Projection, project

REDRAW_SECONDS = 0.2
SETTLE_SECONDS = 0.3
_CSS = (Path(__file__).parent / "assets" / "run.css").read_text(encoding="utf-8")


class Trainer(widgets.VBox):
    """The panel; it starts from ``config``, or follows the run that is already going.

    ``run`` is the last run started or followed here, with ``run.run_dir`` and ``run.wait()``.
    """

    def __init__(self, config: RunConfig | None = None) -> None:
        self._lock = threading.RLock()
        self._background = Background()
        self._timer: threading.Timer | None = None
        self.run: Run | None = None
        self.config = config or RunConfig()
        self.projection: Projection | None = None
        going = follow.latest()
        if going is not None and going.active:
            self.config = going.config
        self.form = RunForm(self.config, on_change=self._settle_later)
        self.start = _button("Start", "play", "Train with these settings.", self._start)
        self.cancel = _button("Cancel", "stop", "Finish the step in hand and stop.", self._cancel)
        self.bar = widgets.FloatProgress(max=1.0, layout={"width": "auto", "flex": "1 1 auto"})
        self.planned, self.cards, self.ending = (widgets.HTML() for _ in range(3))
        self.status = status_line()
        self._build_figures()
        super().__init__(self._arranged())
        self.add_class("workbench")
        with self._lock:
            self._show_idle()
            self._ask_for_projection()
            if going is not None and going.active:
                self._watch(going)

    def close(self) -> None:
        """End the accounting process along with the widgets; a run that is going goes on."""
        with self._lock:
            if self._timer:
                self._timer.cancel()
        self._background.close()
        super().close()

    def _build_figures(self) -> None:
        metrics, steps = follow.no_metrics(), self._steps()
        norm = self.config.privacy.max_grad_norm
        self.learning = LiveFigure(learning_figure(metrics, steps=steps))
        self.spending = LiveFigure(spending_figure(metrics, steps=steps, budget=math.nan))
        self.histogram = LiveFigure(histogram_figure(np.zeros(0), max_grad_norm=norm))
        self.clipping = LiveFigure(clipping_figure(metrics, max_grad_norm=norm, steps=steps))

    def _arranged(self) -> list[widgets.Widget]:
        pictures = widgets.GridBox(
            [self.learning, self.spending, self.histogram, self.clipping],
            layout={"grid_template_columns": "repeat(2, minmax(0, 1fr))", "grid_gap": "4px 14px"},
        )
        return [
            widgets.HTML(f"{STYLE}<style>{_CSS}</style>"),
            self.form.box,
            self.planned,
            widgets.HBox([self.start, self.cancel, self.bar]),
            self.status,
            self.ending,
            self.cards,
            pictures,
            widgets.HTML(f'<div class="wb-status">{run_readouts.PRIVATE_NOTE}</div>'),
        ]

    def begin(self) -> Run:
        """Train with the settings on display, as the Start button does.

        Raises `InputError` for settings that cannot be used, or while another run is going.
        """
        with self._lock:
            config = self.form.config()
            run = follow.start(config, run_dir=self.form.run_dir)
            self.config = config
            self._say("")
            self._watch(run)
            return run

    def _start(self) -> None:
        try:
            self.begin()
        except InputError as error:
            with self._lock:
                self._say(str(error), kind="Not started")

    def _cancel(self) -> None:
        with self._lock:
            if self.run is not None:
                self.cancel.disabled = True
                self._say("Cancelling: the step in hand is finished first.")
                self.run.cancel()

    def _watch(self, run: Run) -> None:
        self.run = run
        self.ending.value = ""
        self.form.enable(False)
        self.start.disabled, self.cancel.disabled = True, False
        self._show(run, run.progress())
        threading.Thread(target=self._follow, args=(run,), daemon=True).start()

    def _follow(self, run: Run) -> None:
        """Redraw whenever the run has moved on, at most every `REDRAW_SECONDS`."""
        pause = threading.Event()
        progress = run.progress()
        while not progress.ended:
            progress = run.progress(newer_than=progress.version)
            with self._lock:
                self._show(run, progress)
            pause.wait(REDRAW_SECONDS)
        with self._lock:
            self._show_end(run, progress)

    def _show(self, run: Run, progress: Progress) -> None:
        latest, metrics = progress.latest, progress.metrics
        norm, budget = run.config.privacy.max_grad_norm, self._budget()
        steps = latest.steps if latest else self._steps()
        norms = latest.gradient_norms if latest else np.zeros(0)
        self.bar.value = latest.step / steps if latest else 0.0
        self.cards.value = run_readouts.cards(progress, run.config, budget)
        self.learning.redraw(learning_traces(metrics), learning_ranges(metrics, steps=steps))
        self.spending.redraw(
            spending_traces(metrics, steps=steps, budget=budget),
            spending_ranges(metrics, steps=steps, budget=budget),
        )
        self.histogram.redraw(
            histogram_traces(norms, max_grad_norm=norm),
            histogram_ranges(norms, max_grad_norm=norm),
        )
        self.clipping.redraw(
            clipping_traces(metrics, max_grad_norm=norm, steps=steps),
            clipping_ranges(metrics, max_grad_norm=norm, steps=steps),
        )

    def _show_end(self, run: Run, progress: Progress) -> None:
        self._show(run, progress)
        self.ending.value = run_readouts.ending(run, progress)
        self._say("")
        self.start.description = "Start again"
        self.start.disabled, self.cancel.disabled = False, True
        self.form.enable(True)

    def _show_idle(self) -> None:
        metrics, steps, budget = follow.no_metrics(), self._steps(), self._budget()
        self.cancel.disabled = True
        self.cards.value = run_readouts.cards(None, self.config, budget)
        self.spending.redraw(
            spending_traces(metrics, steps=steps, budget=budget),
            spending_ranges(metrics, steps=steps, budget=budget),
        )

    def _settle_later(self) -> None:
        """A field was changed: ask for its ε once no other has changed for a moment."""
        with self._lock:
            if self._timer:
                self._timer.cancel()
            self._timer = threading.Timer(SETTLE_SECONDS, self._ask_for_projection)
            self._timer.daemon = True
            self._timer.start()

    def _ask_for_projection(self) -> None:
        with self._lock:
            self._background.cancel()
            self.projection = None
            try:
                config = self.form.config()
            except InputError as error:
                self.planned.value = ""
                self._say(str(error), kind="Not used")
                return
            self._say("")
            self.planned.value = run_readouts.computing()
            self._background.submit(project, config, self._projected)

    def _projected(self, answer: Projection | Exception) -> None:
        with self._lock:
            if isinstance(answer, Projection):
                self.projection = answer
                self.planned.value = run_readouts.projected(answer)
                if self.run is None:
                    self._show_idle()
                self._say(answer.warning, kind="Warning")
            else:
                self.planned.value = ""
                self._say(str(answer), kind="Not used")

    def _say(self, message: str, *, kind: str = "") -> None:
        self.status.value = status_html(message, kind=kind if message else "")

    def _budget(self) -> float:
        return self.projection.guarantee.epsilon if self.projection else math.nan

    def _steps(self) -> int:
        return self.projection.steps if self.projection else self.config.training.steps or 1


def _button(label: str, icon: str, tooltip: str, on_click: Callable[[], Any]) -> widgets.Button:
    button = widgets.Button(description=label, icon=icon, tooltip=tooltip)
    button.on_click(lambda _: on_click())
    return button
