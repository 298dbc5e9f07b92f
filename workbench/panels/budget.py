"""The budget over time: shape σ and the batch over a run, and see what it spends on the way.

Every ε here is certified; it is computed in a process of its own and arrives piece by piece.
"""

import html
import threading
from typing import Any, cast

import ipywidgets as widgets

from workbench.analysis.schedule import Plan, equal_constant_sigma, spending
from workbench.errors import InputError, sentence
from workbench.figures.live import LiveFigure
from workbench.figures.schedule import schedule_figure, schedule_traces
from workbench.panels.background import Background
from workbench.panels.controls import DELTA, STYLE, Knob, status_html, status_line
from workbench.panels.readouts import written_reading
from workbench.panels.settling import Settling
from workbench.privacy import Guarantee
from workbench.privacy.schedule import ScheduleKind
from workbench.privacy.written import rounded_up

SETTLE_SECONDS = 0.15
_KINDS = ("constant", "linear", "exponential", "step")
_KNOBS = (
    ("noise_start", "σ at the start", "Noise multiplier of the first stage.", 0.3, 20, False),
    ("noise_end", "σ at the end", "Noise multiplier of the last stage.", 0.3, 20, False),
    ("batch_start", "B at the start", "Expected batch of the first stage.", 1, 1e6, True),
    ("batch_end", "B at the end", "Expected batch of the last stage.", 1, 1e6, True),
    ("dataset_size", "Records N", "Records in the training set.", 10, 1e9, True),
    ("steps", "Steps T", "Optimizer steps of the whole run.", 1, 1e5, True),
    ("delta", "δ", DELTA, 1e-12, 1e-2, False),
)


class Budget(widgets.VBox):
    """The panel of schedules; starts from the laptop run with constant σ and batch."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._background = Background(self._lock)
        self._background.warm_up()
        self._settling = Settling(self._settle, SETTLE_SECONDS, self._lock)
        self.plan = Plan()
        self.spent: dict[int, float] = {}
        self.kinds = {
            name: widgets.Dropdown(
                options=_KINDS,
                description=label,
                tooltip=f"How {label.split()[0]} goes from start to end.",
                style={"description_width": "108px"},
                layout={"width": "100%"},
            )
            for name, label in (("noise_kind", "σ changes"), ("batch_kind", "B changes"))
        }
        self.knobs = {
            name: Knob(
                name,
                label,
                tooltip,
                low=low,
                high=high,
                whole=whole,
                on_change=lambda *_: self._changed(),
                on_bad_input=self._refused,
            )
            for name, label, tooltip, low, high, whole in _KNOBS
        }
        for name, knob in self.knobs.items():
            knob.show(float(getattr(self.plan, name)))
        self.figure = LiveFigure(schedule_figure(self.plan.stages, {}))
        self.result = widgets.HTML()
        self.status = status_line()
        super().__init__([widgets.HTML(STYLE), self._arranged()])
        self.add_class("workbench")
        for kind in self.kinds.values():
            kind.observe(lambda _: self._changed(), names="value")
        self._changed()

    def close(self) -> None:
        """End the background process along with the widgets."""
        self._settling.cancel()
        self._background.close()
        super().close()

    def _arranged(self) -> widgets.Widget:
        noise = [self.kinds["noise_kind"], self.knobs["noise_start"].row]
        batch = [self.kinds["batch_kind"], self.knobs["batch_start"].row]
        rest = [self.knobs[name].row for name in ("dataset_size", "steps", "delta")]
        ends = self.knobs["noise_end"].row, self.knobs["batch_end"].row
        side = widgets.VBox([*noise, ends[0], *batch, ends[1], *rest])
        main = widgets.VBox([self.result, self.status, self.figure], layout={"min_width": "0"})
        columns = "310px minmax(0, 1fr)"
        return widgets.GridBox(
            [side, main],
            layout={"grid_template_columns": columns, "grid_gap": "8px 14px", "width": "100%"},
        )

    def _changed(self) -> None:
        with self._lock:
            values: dict[str, Any] = {name: knob.value for name, knob in self.knobs.items()}
            values |= {name: int(values[name]) for name in ("dataset_size", "steps")}
            values |= {name: cast(ScheduleKind, kind.value) for name, kind in self.kinds.items()}
            plan = Plan(**values)
            try:
                stages = plan.stages
            except InputError as error:
                self._refused(error)
                return
            self.plan, self.spent = plan, {}
            self.status.value = status_html("")
            self.result.value = _result(plan, None)
            self.figure.redraw(schedule_traces(stages, self.spent))
            self._background.cancel()
            self._settling.later()

    def _refused(self, error: InputError) -> None:
        with self._lock:
            self.status.value = status_html(
                f"{error} Shown are the last settings that work.", kind="Not used"
            )

    def _settle(self) -> None:
        with self._lock:
            self._background.submit(spending, self.plan, self._arrived)

    def _arrived(self, answer: tuple[int, Guarantee] | Exception) -> None:
        with self._lock:
            if isinstance(answer, Exception):
                words = sentence(answer, what="The accounting")
                self.status.value = status_html(words, kind="Not certified")
                return
            steps, guarantee = answer
            self.spent[steps] = guarantee.epsilon
            if steps == self.plan.steps:
                self.result.value = _result(self.plan, guarantee)
            self.figure.redraw(schedule_traces(self.plan.stages, self.spent))


def _result(plan: Plan, guarantee: Guarantee | None) -> str:
    if guarantee is None:
        value, detail, state = "…", "being certified", "preview"
    else:
        value = written_reading(rounded_up(guarantee.epsilon, 3))
        detail = html.escape(str(guarantee))
        state = "certified"
    equal = equal_constant_sigma(plan, guarantee.epsilon if guarantee else float("nan"))
    constant = (
        f"A constant σ of {written_reading(equal)} at the mean batch of "
        f"{plan.mean_batch_size:,.0f} would spend the same (preview)."
    )
    return (
        f'<div class="wb-card wb-epsilon" data-state="{state}"><div><h4>ε of the whole run</h4>'
        f'<div class="value">{value}</div></div>'
        f"<div><small>{detail}</small><small>{constant}</small></div></div>"
    )
