"""What is to be audited or trained, and what of it is shown."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from workbench.analysis.audited import QUICK
from workbench.audit.attacks import ATTACKS
from workbench.errors import InputError
from workbench.panels.common.controls import button
from workbench.panels.common.formatting import number, written_reading

_LABEL = {"description_width": "104px"}
_WIDE: dict[str, Any] = {"layout": {"width": "auto"}, "style": _LABEL}
SOURCES = (("prose: State of the Union", "sotu"), ("table: synthetic patients", "patients"))
_NAMES = {"canaries": "canaries", "min_k": "Min-K %", "min_k_plus_plus": "Min-K %++"}


def signal_name(signal: str) -> str:
    """A signal as it is written on the panel."""
    return _NAMES.get(signal, signal.replace("_", " "))


class AuditForm:
    """Runs and signals to audit, and what to train where there is none; ``box`` holds them."""

    def __init__(self) -> None:
        self.runs = widgets.SelectMultiple(
            description="Runs",
            tooltip="Trained runs with weights; choose one or more. Ctrl or Shift adds to them.",
            rows=5,
            **_WIDE,
        )
        self.other = widgets.Text(
            description="Other run",
            tooltip="The folder of a run that is kept elsewhere; it is audited with those chosen.",
            placeholder="a run folder",
            continuous_update=False,
            **_WIDE,
        )
        self.signals = widgets.SelectMultiple(
            options=[(signal_name(name), name) for name in ATTACKS],
            value=QUICK,
            description="Signals",
            tooltip="What scores a record. More signals share the significance: each proves less.",
            rows=5,
            **_WIDE,
        )
        self.most = _text("Records", "How many records are tested at most, both sides.", "4,000")
        self.source = widgets.Dropdown(
            options=SOURCES,
            description="Train on",
            tooltip="The corpus of the models that are trained here.",
            **_WIDE,
        )
        self.epsilons = _text(
            "Private at ε", "A private model is trained for each, separated by commas.", "8"
        )
        self.canaries = _text(
            "Canaries", "Records planted by fair coins, each with a token of its own.", "500"
        )
        columns = [
            widgets.VBox(column)
            for column in (
                (self.runs, self.other),
                (self.signals, self.most),
                (self.source, self.epsilons, self.canaries),
            )
        ]
        layout = {
            "grid_template_columns": "minmax(0, 5fr) minmax(0, 3fr) minmax(0, 4fr)",
            "grid_gap": "4px 14px",
        }
        self.box = widgets.GridBox(columns, layout=layout)

    def offer(self, runs: Mapping[str, Path]) -> None:
        """Offer these runs, keeping what was chosen."""
        chosen = set(self.runs.value)
        self.runs.options = list(runs.items())
        self.runs.value = [path for path in runs.values() if path in chosen]

    def choose(self, paths: Sequence[Path]) -> None:
        """Choose these among the runs offered."""
        offered = [path for _, path in self.runs.options]
        self.runs.value = [path for path in offered if path in set(paths)]

    def paths(self) -> list[Path]:
        """The runs chosen, and the one typed."""
        typed = self.other.value.strip()
        return [*self.runs.value, *([Path(typed)] if typed else [])]

    def records(self) -> int:
        """How many records at most; `InputError` if that is no number."""
        return int(number("Records", self.most.value))

    def demo(self) -> dict[str, Any]:
        """What to train; `InputError` for fields that hold no numbers above zero."""
        values = [number("Private at ε", part) for part in self.epsilons.value.split(",")]
        count = int(number("Canaries", self.canaries.value))
        if min(values) <= 0:
            raise InputError("Private at ε must be above 0; type numbers such as 1, 8.")
        if count < 20:
            raise InputError(f"Canaries is {count} but must be at least 20; type one such as 500.")
        return {"source": self.source.value, "epsilons": values, "canaries": count}

    def enable(self, enabled: bool) -> None:
        """Let the fields be edited, or not while an audit goes."""
        for widget in self._widgets():
            widget.disabled = not enabled

    def mark(self, complaint: str) -> None:
        """Mark the fields that ``complaint`` begins with."""
        for widget in self._widgets():
            named = bool(complaint) and complaint.startswith(widget.description)
            (widget.add_class if named else widget.remove_class)("wb-refused")

    def _widgets(self) -> tuple[Any, ...]:
        return (
            *(self.runs, self.other, self.signals, self.most),
            *(self.source, self.epsilons, self.canaries),
        )


class AuditControls(widgets.HBox):
    """Audit, Train and audit, Cancel, Look again, and how far it is."""

    def __init__(
        self,
        *,
        on_audit: Callable[[], Any],
        on_train: Callable[[], Any],
        on_cancel: Callable[[], Any],
        on_look: Callable[[], Any],
    ) -> None:
        self.audit = button("Audit", "search", "Attack the runs that are chosen.", on_audit)
        self.train = button(
            "Train and audit", "play", "Train what is missing, then attack it.", on_train
        )
        self.train.layout.width = "150px"
        self.cancel = button("Cancel", "stop", "Finish the step in hand and stop.", on_cancel)
        self.look = button("Look again", "refresh", "Look for runs in the folders.", on_look)
        self.bar = widgets.FloatProgress(
            max=1.0, tooltip="Share of this part that is done", layout={"flex": "1 1 auto"}
        )
        self.bar.layout.width = "auto"
        self.cancel.disabled = True
        super().__init__([self.audit, self.train, self.cancel, self.look, self.bar])

    def show(self, *, going: bool, cancelling: bool, share: float) -> None:
        """Follow the work."""
        self.audit.disabled = self.train.disabled = self.look.disabled = going
        self.cancel.disabled = not going or cancelling
        self.bar.value = share


def run_label(name: str, epsilon: float, *, private: bool) -> str:
    """A run as the list of runs has it."""
    return f"{name} · {f'ε = {written_reading(epsilon)}' if private else 'not private'}"


def _text(label: str, tooltip: str, value: str) -> widgets.Text:
    return widgets.Text(
        value=value, description=label, tooltip=tooltip, continuous_update=False, **_WIDE
    )
