"""The fields of a training run: what a person types, read back as a `RunConfig`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from workbench.config import RunConfig
from workbench.corpora.builtin import CORPORA
from workbench.panels.controls import number, written

# One of two may be empty: typing into one empties the other.
_ALTERNATIVES = {
    "privacy.noise_multiplier": "privacy.target_epsilon",
    "training.steps": "training.epochs",
}
_NUMBERS = {
    "privacy.noise_multiplier": ("Noise σ", "Noise multiplier: noise per unit of C."),
    "privacy.target_epsilon": ("or target ε", "The budget; σ is then the smallest that keeps it."),
    "privacy.max_grad_norm": ("Clip norm C", "The largest norm one record may add."),
    "privacy.delta": ("δ", "Chance that ε is allowed to fail; keep it far below 1/N."),
    "training.steps": ("Steps T", "Optimizer steps of the whole run."),
    "training.epochs": ("or epochs", "Expected passes over the data."),
    "training.expected_batch_size": ("Batch B", "Records expected in one step."),
    "training.learning_rate": ("Learning rate", "Step size of AdamW."),
}
_WHOLE = ("training.steps", "training.expected_batch_size")
_MODELS = ("tiny-llama", "tiny-gpt2")
_DEVICES = ("auto", "cpu", "cuda", "mps")


class RunForm:
    """Twelve fields; whatever they do not show stays as in the configuration given."""

    def __init__(self, config: RunConfig, *, on_change: Callable[[], None]) -> None:
        self._base, self._on_change = config, on_change
        self._quiet = False
        self.fields: dict[str, Any] = {
            dotted: _text(label, tooltip) for dotted, (label, tooltip) in _NUMBERS.items()
        }
        self.fields["corpus.source"] = _choice(
            "Corpus",
            CORPORA,
            "A built-in corpus, or a text, JSONL, CSV or Parquet file.",
        )
        self.fields["model.source"] = _choice(
            "Model", _MODELS, "A preset, or the folder of a Hugging Face causal language model."
        )
        self.fields["runtime.device"] = widgets.Dropdown(
            description="Device", options=_DEVICES, tooltip="Where to compute.", **_PLACE
        )
        self._run_dir = _text("Run folder", "Where the run is kept; must be new or empty.")
        self._run_dir.placeholder = "runs/ and the time"
        self.box = widgets.GridBox(
            [*self.fields.values(), self._run_dir],
            layout={"grid_template_columns": "repeat(4, minmax(0, 1fr))", "grid_gap": "4px 14px"},
        )
        self._fill()
        for dotted, field in self.fields.items():
            field.observe(lambda _, dotted=dotted: self._edited(dotted), names="value")

    @property
    def run_dir(self) -> Path | None:
        """The folder typed, or None for one named by the time."""
        typed = self._run_dir.value.strip()
        return Path(typed) if typed else None

    def config(self) -> RunConfig:
        """What the fields ask for; raises `InputError` at the first that cannot be used."""
        return self._base.with_changes({dotted: self._read(dotted) for dotted in self.fields})

    def enable(self, enabled: bool) -> None:
        """Let the fields be edited, or not while a run goes."""
        for field in (*self.fields.values(), self._run_dir):
            field.disabled = not enabled

    def _read(self, dotted: str) -> float | str | None:
        typed = self.fields[dotted].value.strip()
        if dotted not in _NUMBERS:
            return typed
        optional = {*_ALTERNATIVES.keys(), *_ALTERNATIVES.values()}
        return None if not typed and dotted in optional else number(_NUMBERS[dotted][0], typed)

    def _fill(self) -> None:
        values = self._base.model_dump()
        for dotted, field in self.fields.items():
            section, name = dotted.split(".")
            value = values[section][name]
            if dotted in _NUMBERS:
                value = "" if value is None else written(value, whole=dotted in _WHOLE)
            field.value = value

    def _edited(self, dotted: str) -> None:
        if self._quiet:
            return
        pairs = {**_ALTERNATIVES, **{b: a for a, b in _ALTERNATIVES.items()}}
        if dotted in pairs and self.fields[dotted].value.strip():
            self._quiet = True
            self.fields[pairs[dotted]].value = ""
            self._quiet = False
        self._on_change()


_PLACE: dict[str, Any] = {"style": {"description_width": "104px"}, "layout": {"width": "auto"}}


def _text(label: str, tooltip: str) -> widgets.Text:
    return widgets.Text(description=label, tooltip=tooltip, continuous_update=False, **_PLACE)


def _choice(label: str, options: Any, tooltip: str) -> widgets.Combobox:
    return widgets.Combobox(
        description=label,
        options=list(options),
        tooltip=tooltip,
        ensure_option=False,
        continuous_update=False,
        **_PLACE,
    )
