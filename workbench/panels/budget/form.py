"""The fields of a schedule: how σ and the batch change, over how many steps and records."""

from collections.abc import Callable
from typing import Any, cast

import ipywidgets as widgets

from workbench.analysis.schedule import Plan
from workbench.errors import InputError
from workbench.panels.common.controls import DELTA, Knob
from workbench.privacy.schedule import ScheduleKind

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


class BudgetForm:
    """What a person sets, read back as a `Plan`; ``box`` holds the widgets."""

    def __init__(
        self,
        plan: Plan,
        *,
        on_change: Callable[[], None],
        on_bad_input: Callable[[InputError], None],
    ) -> None:
        self.kinds = {
            name: widgets.Dropdown(
                options=_KINDS,
                description=label,
                tooltip=f"How {label.split()[0]} goes from start to end.",
                style={"description_width": "108px"},
                layout={"width": "auto"},
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
                on_change=lambda *_: on_change(),
                on_bad_input=on_bad_input,
            )
            for name, label, tooltip, low, high, whole in _KNOBS
        }
        for name, knob in self.knobs.items():
            knob.show(float(getattr(plan, name)))
        for kind in self.kinds.values():
            kind.observe(lambda _: on_change(), names="value")
        self.box = widgets.VBox(
            [
                *(self.kinds["noise_kind"], self._row("noise_start"), self._row("noise_end")),
                *(self.kinds["batch_kind"], self._row("batch_start"), self._row("batch_end")),
                *(self._row(name) for name in ("dataset_size", "steps", "delta")),
            ]
        )

    def plan(self) -> Plan:
        """What the fields ask for, which may be no run."""
        values: dict[str, Any] = {name: knob.value for name, knob in self.knobs.items()}
        values |= {name: int(values[name]) for name in ("dataset_size", "steps")}
        values |= {name: cast(ScheduleKind, kind.value) for name, kind in self.kinds.items()}
        return Plan(**values)

    def _row(self, name: str) -> widgets.Widget:
        return self.knobs[name].row
