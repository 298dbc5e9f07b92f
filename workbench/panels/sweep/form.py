"""The fields of a sweep (base, up to three fields that vary, folder) and its buttons."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from workbench.config import RunConfig
from workbench.errors import InputError, shown
from workbench.panels.common.controls import button
from workbench.panels.run.form import RunForm
from workbench.panels.sweep.job import SweepState
from workbench.sweeps.config import SweepConfig, field_names
from workbench.yaml_text import read_yaml

MOST_FIELDS = 3
_PLACE: dict[str, Any] = {"layout": {"width": "auto"}}


class SweepForm:
    """What a person types, read back as a `SweepConfig`.

    ``box`` holds the settings, ``place`` is the field of the sweep's folder.
    """

    def __init__(
        self, base: RunConfig, grid: Mapping[str, Sequence[Any]], *, on_change: Callable[[], None]
    ) -> None:
        if len(grid) > MOST_FIELDS:
            raise InputError(
                f"grid has {len(grid)} fields but the panel has room for {MOST_FIELDS}; use the "
                "command workbench sweep for more."
            )
        self._form = RunForm(base, on_change=on_change)
        named = [*grid, *[""] * (MOST_FIELDS - len(grid))]
        self.varied = [_field(number, name) for number, name in enumerate(named, start=1)]
        self.values = [_values(number, grid.get(name, ())) for number, name in enumerate(named, 1)]
        self.place = widgets.Text(
            description="Folder",
            tooltip="A new folder, or a sweep's own, which then goes on.",
            placeholder="in sweeps/",
            continuous_update=False,
            style={"description_width": "54px"},
            layout={"width": "270px", "flex": "0 0 auto"},
        )
        for widget in (*self.varied, *self.values):
            widget.observe(lambda _: on_change(), names="value")
        self.box = self._arranged()

    @property
    def folder(self) -> Path | None:
        """The folder typed, or None for a new one."""
        typed = self.place.value.strip()
        return Path(typed) if typed else None

    @folder.setter
    def folder(self, folder: Path) -> None:
        self.place.value = str(folder)

    def config(self) -> SweepConfig:
        """What the fields ask for; raises `InputError` at the first that cannot be used."""
        grid: dict[str, Any] = {}
        for varied, values in zip(self.varied, self.values, strict=True):
            name = varied.value.strip()
            if name in grid:
                raise InputError(f"{name} is varied twice; leave one of its rows empty.")
            if name:
                grid[name] = _read(name, values.value)
        return SweepConfig.parse({"base": self._form.config().model_dump(), "grid": grid})

    def enable(self, enabled: bool) -> None:
        """Let the fields be edited, or not while a sweep goes."""
        self._form.enable(enabled)
        for widget in (*self.varied, *self.values, self.place):
            widget.disabled = not enabled

    def mark(self, complaint: str) -> None:
        """Mark the fields that ``complaint`` names."""
        self._form.mark(complaint)
        for varied, values in zip(self.varied, self.values, strict=True):
            name = varied.value.strip()
            named = bool(name) and name in complaint
            for widget in (varied, values):
                (widget.add_class if named else widget.remove_class)("wb-refused")

    def _arranged(self) -> widgets.Widget:
        base = [field for field in self._form.box.children if field in self._form.fields.values()]
        columns = [
            widgets.VBox([varied, values])
            for varied, values in zip(self.varied, self.values, strict=True)
        ]
        return widgets.VBox(
            [
                _heading("Every cell"),
                _grid(base, columns=4),
                self._form.advanced,
                _heading("What varies, in all combinations"),
                _grid(columns, columns=MOST_FIELDS),
            ]
        )


class SweepControls(widgets.HBox):
    """Start, Cancel and Retry failed, each to be pressed when it means something."""

    def __init__(
        self,
        place: widgets.Text,
        *,
        on_start: Callable[[], Any],
        on_cancel: Callable[[], Any],
        on_retry: Callable[[], Any],
    ) -> None:
        self.start = button("Start", "play", "Train every cell that is not done.", on_start)
        self.cancel = button("Cancel", "stop", "Finish the steps in hand and stop.", on_cancel)
        self.retry = button("Retry failed", "refresh", "Train failed cells again.", on_retry)
        self.bar = widgets.FloatProgress(
            max=1.0,
            layout={"width": "auto", "flex": "1 1 auto"},
        )
        self.cancel.disabled = self.retry.disabled = True
        super().__init__([self.start, self.cancel, self.retry, place, self.bar])

    def show(self, progress: SweepState) -> None:
        """Follow the sweep."""
        counts = progress.counts
        self.start.disabled = not progress.ended
        self.cancel.disabled = progress.phase != "running"
        self.retry.disabled = not (progress.ended and counts["failed"])
        self.bar.value = progress.ended_cells / (counts.total() or 1)


def _read(name: str, text: str) -> list[Any]:
    """The values typed, separated by commas."""
    try:
        values = read_yaml(f"[{text}]")
    except InputError:
        values = []
    if not values:
        raise InputError(
            f"The values of {name} are {shown(text)}; write them separated by commas, such as "
            "0.6, 0.8, as plain decimal numbers or words."
        )
    return values


def _field(number: int, name: str) -> widgets.Combobox:
    return widgets.Combobox(
        value=name,
        options=field_names(),
        description=f"Field {number}",
        tooltip="A field of the run by its name in the YAML; empty for none.",
        placeholder="none",
        continuous_update=False,
        style={"description_width": "60px"},
        **_PLACE,
    )


def _values(number: int, values: Sequence[Any]) -> widgets.Text:
    return widgets.Text(
        value=", ".join(v if isinstance(v, str) else json.dumps(v) for v in values),
        description=f"values {number}",
        tooltip="The values it takes, separated by commas.",
        placeholder="such as 0.6, 0.8, 1.2",
        continuous_update=False,
        style={"description_width": "60px"},
        **_PLACE,
    )


def _heading(text: str) -> widgets.HTML:
    return widgets.HTML(f'<div class="wb-heading">{text}</div>')


def _grid(children: Sequence[widgets.Widget], *, columns: int) -> widgets.GridBox:
    layout = {
        "grid_template_columns": f"repeat({columns}, minmax(0, 1fr))",
        "grid_gap": "4px 14px",
    }
    return widgets.GridBox(list(children), layout=layout)
