"""The fields of a training run, read back as a `RunConfig`, and its buttons."""

from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import ipywidgets as widgets

from workbench.config import ALTERNATIVES, MODEL_PRESETS, RunConfig
from workbench.corpora.builtin import CORPORA
from workbench.errors import InputError
from workbench.panels.common.controls import DELTA, button
from workbench.panels.common.formatting import number, written
from workbench.panels.run import cards
from workbench.panels.run.job import RunState


class _Field(NamedTuple):
    """A number to type, or with ``options`` a choice; ``open`` if any other text may be typed."""

    label: str
    tooltip: str
    options: tuple[Any, ...] = ()
    open: bool = False
    whole: bool = False


_MAIN = {
    "privacy.noise_multiplier": _Field("Noise σ", "Noise multiplier: noise per unit of C."),
    "privacy.target_epsilon": _Field(
        "or target ε", "The budget; σ is then the smallest that keeps it."
    ),
    "privacy.max_grad_norm": _Field("Clip norm C", "The largest norm one record may add."),
    "privacy.delta": _Field("δ", DELTA),
    "training.steps": _Field("Steps T", "Optimizer steps of the whole run.", whole=True),
    "training.epochs": _Field("or epochs", "Expected passes over the data."),
    "training.expected_batch_size": _Field("Batch B", "Records expected in one step.", whole=True),
    "training.learning_rate": _Field("Learning rate", "Step size of the optimizer."),
    "corpus.source": _Field(
        "Corpus",
        "A built-in corpus, or a file or folder of text, JSON, CSV or Parquet.",
        tuple(CORPORA),
        open=True,
    ),
    "model.source": _Field(
        "Model",
        "A preset, or the folder of a Hugging Face causal language model.",
        MODEL_PRESETS,
        open=True,
    ),
    "runtime.device": _Field("Device", "Where to compute.", ("auto", "cpu", "cuda", "mps")),
}
_ADVANCED = {
    "privacy.clipping": _Field(
        "Clipping",
        "Flat: down to C where larger. Normalised: to C always. Adaptive: C follows a quantile of "
        "the norms, the median by default.",
        ("flat", "normalised", "adaptive"),
    ),
    "training.optimizer": _Field(
        "Optimizer",
        "AdamW; AdamW-BC, which takes the noise out of its second moment; SGD with momentum.",
        (("AdamW", "adamw"), ("AdamW-BC", "adamw_bc"), ("SGD", "sgd")),
    ),
    "privacy.private": _Field(
        "Privacy",
        "The twin: the same records and initial weights without clipping and noise, to compare "
        "with. No ε holds for it.",
        (("private", True), ("non-private twin", False)),
    ),
    "randomness": _Field(
        "Randomness",
        "Seeded: the same run again, for teaching; whoever knows seed and records can redraw its "
        "noise. Secure: from the system, recorded nowhere; for weights that are released.",
        ("seeded", "secure"),
    ),
}
_FIELDS = _MAIN | _ADVANCED
_OF_PRIVACY = {dotted for dotted in _FIELDS if dotted.startswith("privacy.")} - {"privacy.private"}
_PAIRS = ALTERNATIVES | {other: one for one, other in ALTERNATIVES.items()}
_LABEL_WIDTHS = ("70px", "76px", "82px", "92px")  # of the four columns


class RunForm:
    """The fields; whatever they do not show stays as in the configuration given.

    ``box`` holds what every run needs, ``advanced`` the rest.
    """

    def __init__(self, config: RunConfig, *, on_change: Callable[[], None]) -> None:
        self._base, self._on_change = config, on_change
        self._quiet, self._enabled = False, True
        self._run_dir = widgets.Text(
            description="Run folder",
            tooltip="Where the run is kept; must be new or empty.",
            placeholder="in runs/",
            **_place(len(_MAIN)),
        )
        main, advanced = (
            {dotted: _widget(field, place) for place, (dotted, field) in enumerate(part.items())}
            for part in (_MAIN, _ADVANCED)
        )
        self.fields: dict[str, Any] = main | advanced
        self.box = _grid([*main.values(), self._run_dir])
        self.advanced = _grid(list(advanced.values()))
        self.show(config)
        for dotted, field in self.fields.items():
            field.observe(lambda _, dotted=dotted: self._edited(dotted), names="value")

    @property
    def run_dir(self) -> Path | None:
        """The folder typed, or None for one named by the time."""
        typed = self._run_dir.value.strip()
        return Path(typed) if typed else None

    def config(self) -> RunConfig:
        """What the fields ask for; raises `InputError` at the first that cannot be used."""
        changes = {dotted: self._read(dotted) for dotted in self.fields}
        for one, other in ALTERNATIVES.items():
            if changes[one] is None and changes[other] is None:
                label, alternative = _MAIN[one].label, _MAIN[other].label.removeprefix("or ")
                raise InputError(f"{label} and {alternative} are both empty; fill in one of them.")
        return self._base.with_changes(changes)

    def show(self, config: RunConfig) -> None:
        """Fill the fields from ``config`` without calling back."""
        self._base, self._quiet = config, True
        for dotted, field in self.fields.items():
            field.value = self._shown(dotted)
        self._quiet = False
        self.enable(self._enabled)

    def enable(self, enabled: bool) -> None:
        """Let the fields be edited, or not while a run goes; a twin has no noise to choose."""
        self._enabled = enabled
        private = self.fields["privacy.private"].value
        for dotted, field in self.fields.items():
            field.disabled = not enabled or (dotted in _OF_PRIVACY and not private)
        self._run_dir.disabled = not enabled

    def mark(self, complaint: str) -> None:
        """Mark the fields that ``complaint`` names, by label or by their name in the YAML."""
        for dotted, field in self.fields.items():
            label = _FIELDS[dotted].label
            named = dotted in complaint or complaint.startswith((f"{label} is ", f"{label} and "))
            (field.add_class if named else field.remove_class)("wb-refused")

    def _read(self, dotted: str) -> Any:
        value, kind = self.fields[dotted].value, _FIELDS[dotted]
        if kind.options:
            return value.strip() if kind.open else value
        if value == self._shown(dotted):
            return self._given(dotted)  # which may have more digits than are shown
        typed = value.strip()
        return None if not typed and dotted in _PAIRS else number(kind.label, typed)

    def _given(self, dotted: str) -> Any:
        """The field's value in the configuration given."""
        return reduce(getattr, dotted.split("."), self._base)

    def _shown(self, dotted: str) -> Any:
        """The same as the widget shows it."""
        value, kind = self._given(dotted), _FIELDS[dotted]
        if kind.options:
            return value
        return "" if value is None else written(value, whole=kind.whole)

    def _edited(self, dotted: str) -> None:
        if self._quiet:
            return
        if dotted in _PAIRS and self.fields[dotted].value.strip():
            self._quiet = True
            self.fields[_PAIRS[dotted]].value = ""
            self._quiet = False
        if dotted == "privacy.private":
            self.enable(self._enabled)
        self._on_change()


class RunControls(widgets.HBox):
    """Start, Pause and Cancel, which can be pressed when they mean something, and the bar."""

    def __init__(
        self,
        *,
        on_start: Callable[[], Any],
        on_pause: Callable[[], Any],
        on_cancel: Callable[[], Any],
    ) -> None:
        self.start = button("Start", "play", "Train with these settings.", on_start)
        self.pause = button("Pause", "pause", "Wait after the step in hand.", on_pause)
        self.cancel = button("Cancel", "stop", "Finish the step in hand and stop.", on_cancel)
        self.bar = widgets.FloatProgress(
            max=1.0,
            layout={"width": "auto", "flex": "1 1 auto"},
        )
        self.speed = widgets.HTML(layout={"width": "190px"})
        self.pause.disabled = self.cancel.disabled = True
        row = [self.start, self.pause, self.cancel, self.bar, self.speed]
        super().__init__(row, layout={"align_items": "center"})

    def show(self, progress: RunState) -> None:
        """Follow the run."""
        latest, ended = progress.latest, progress.ended
        paused = progress.phase in ("pausing", "paused")
        self.start.disabled = not ended
        self.pause.disabled = self.cancel.disabled = ended or progress.phase == "cancelling"
        self.start.description = "Start again" if ended else "Start"
        self.pause.description = "Go on" if paused else "Pause"
        self.pause.icon = "play" if paused else "pause"
        self.bar.value = latest.step / latest.steps if latest and latest.steps else 0.0
        self.speed.value = cards.speed(progress.metrics)


def _widget(field: _Field, place: int) -> Any:
    named = {"description": field.label, "tooltip": field.tooltip, **_place(place)}
    if field.open:
        return widgets.Combobox(options=field.options, continuous_update=False, **named)
    if field.options:
        return widgets.Dropdown(options=field.options, **named)
    return widgets.Text(continuous_update=False, **named)


def _place(place: int) -> dict[str, Any]:
    """A field as wide as its column, with a label as wide as the column's longest."""
    return {
        "style": {"description_width": _LABEL_WIDTHS[place % len(_LABEL_WIDTHS)]},
        "layout": {"width": "auto"},
    }


def _grid(fields: list[widgets.Widget]) -> widgets.GridBox:
    layout = {"grid_template_columns": "repeat(4, minmax(0, 1fr))", "grid_gap": "4px 14px"}
    return widgets.GridBox(fields, layout=layout)
