"""The budget over time: shape σ and the batch over a run, and see what it spends on the way.

Every ε here is certified; it is computed in a process of its own and arrives piece by piece.
"""

import threading

import ipywidgets as widgets

from workbench.analysis.schedule import Plan, spending
from workbench.errors import InputError, sentence
from workbench.figures.live import LiveFigure
from workbench.figures.schedule import schedule_figure, schedule_traces
from workbench.panels.budget import text
from workbench.panels.budget.form import BudgetForm
from workbench.panels.common.controls import status_line
from workbench.panels.common.debounce import Debouncer
from workbench.panels.common.markup import status_html
from workbench.panels.common.panel import Panel
from workbench.panels.common.worker import Worker
from workbench.privacy import Guarantee

DEBOUNCE_SECONDS = 0.15


class Budget(Panel):
    """The panel of schedules; starts from the laptop run with constant σ and batch."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._worker = Worker(self._lock)
        self._worker.warm_up()
        self._debouncer = Debouncer(self._settle, DEBOUNCE_SECONDS, self._lock)
        self.plan = Plan()
        self.spent: dict[int, float] = {}
        self.form = BudgetForm(self.plan, on_change=self._changed, on_bad_input=self._refused)
        self.figure = LiveFigure(schedule_figure(self.plan.stages, {}))
        self.result = widgets.HTML()
        self.status = status_line()
        super().__init__("Budget over time", [self._arranged()])
        self._changed()

    def close(self) -> None:
        """End the background process along with the widgets."""
        self._debouncer.cancel()
        self._worker.close()
        super().close()

    def _arranged(self) -> widgets.Widget:
        main = widgets.VBox([self.result, self.status, self.figure], layout={"min_width": "0"})
        columns = "310px minmax(0, 1fr)"
        return widgets.GridBox(
            [self.form.box, main],
            layout={"grid_template_columns": columns, "grid_gap": "8px 14px", "width": "100%"},
        )

    def _changed(self) -> None:
        with self._lock:
            plan = self.form.plan()
            try:
                stages = plan.stages
            except InputError as error:
                self._refused(error)
                return
            self.plan, self.spent = plan, {}
            self.status.value = status_html("")
            self.result.value = text.result(plan, None)
            self.figure.redraw(schedule_traces(stages, self.spent))
            self._worker.cancel()
            self._debouncer.later()

    def _refused(self, error: InputError) -> None:
        with self._lock:
            self.status.value = status_html(
                f"{error} Shown are the last settings that work.", kind="Not used"
            )

    def _settle(self) -> None:
        with self._lock:
            self._worker.submit(spending, self.plan, self._arrived)

    def _arrived(self, answer: tuple[int, Guarantee] | Exception) -> None:
        with self._lock:
            if isinstance(answer, Exception):
                words = sentence(answer, what="The accounting")
                self.status.value = status_html(words, kind="Not certified")
                return
            steps, guarantee = answer
            self.spent[steps] = guarantee.epsilon
            if steps == self.plan.steps:
                self.result.value = text.result(self.plan, guarantee)
            self.figure.redraw(schedule_traces(self.plan.stages, self.spent))
