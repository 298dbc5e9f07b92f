"""The explorer's controls: a knob a quantity, what is held, presets, buttons, what to copy."""

from collections.abc import Callable

import ipywidgets as widgets

from workbench.analysis import Hold, Point
from workbench.analysis.snippets import as_opacus, as_python, as_yaml
from workbench.errors import InputError
from workbench.panels.common.controls import DELTA, CopyBox, Knob, toggle
from workbench.presets import presets

FORMATS = {"YAML": as_yaml, "Python": as_python, "Opacus call": as_opacus}
LENGTH_UNITS = ("steps", "epochs")
LABELS = "108px"  # as wide as the longest of them
_KNOBS = (
    ("noise_multiplier", "Noise σ", "Noise multiplier: noise per unit of C.", 0.3, 100, False),
    ("max_grad_norm", "Clipping norm C", "The largest norm one record may add.", 0.01, 100, False),
    ("expected_batch_size", "Batch B", "Records expected in one step.", 1, 1e7, True),
    ("dataset_size", "Records N", "Records in the training set.", 10, 1e11, True),
    ("steps", "Steps T", "Optimizer steps of the whole run.", 1, 1e6, True),
    ("epochs", "Epochs", "Expected passes over the data.", 0.01, 1e4, False),
    ("delta", "δ", DELTA, 1e-12, 1e-2, False),
    ("n_params", "Parameters d", "Number of trained weights.", 1e2, 1e12, True),
    (
        "mean_gradient_norm",
        "Mean gradient ḡ",
        "Norm of the mean gradient, clipped.",
        1e-4,
        100,
        False,
    ),
    ("record_tokens", "Tokens a record", "Tokens in one record.", 1, 1e5, True),
    (
        "target_epsilon",
        "Target ε",
        "The budget, drawn dashed; “Hold ε” keeps to it.",
        0.01,
        1e3,
        False,
    ),
)
_HOLDS = [("off", "nothing"), ("ε", "epsilon"), ("σ/B", "noise_batch_ratio")]


class ExplorerForm:
    """The widgets; ``box`` holds those that stand beside the pictures."""

    def __init__(
        self,
        *,
        on_change: Callable[[str, float], None],
        on_bad_input: Callable[[InputError], None],
    ) -> None:
        self.knobs = {
            name: Knob(
                name,
                label,
                tooltip,
                low=low,
                high=high,
                whole=whole,
                on_change=on_change,
                on_bad_input=on_bad_input,
            )
            for name, label, tooltip, low, high, whole in _KNOBS
        }
        self.preset = widgets.Dropdown(
            options=[(preset.title, preset.name) for preset in presets()],
            description="Start from",
            tooltip="Load the settings of a published run, of the article, or of the default run.",
            style={"description_width": LABELS},
            layout={"width": "auto"},
        )
        self.unit = toggle(
            "Length in",
            [(unit, unit) for unit in LENGTH_UNITS],
            "Whether steps or epochs stay put while the batch moves.",
            label_width=LABELS,
        )
        self.hold = toggle(
            "Hold", _HOLDS, "What stays put while you move something else.", label_width=LABELS
        )
        self.undo = _button("Undo", "undo", "Back to the settings before the last change.")
        self.reset = _button("Reset", "refresh", "Back to the preset's settings.")
        self.pin = _button("Pin", "thumb-tack", "Keep these settings beside what follows.")
        self.train = _button("Train", "play", "Open the training panel with these settings.")
        self.roc_scale = toggle(
            "ROC axes",
            [("log–log", True), ("linear", False)],
            "Scale of the ROC picture.",
            label_width=LABELS,
        )
        self.format = toggle(
            "Copy as",
            list(FORMATS.items()),
            "What to copy the settings as.",
            label_width=LABELS,
        )
        self.copy = CopyBox(label="Copy to the clipboard")
        self.box = widgets.VBox(
            [
                *(self.preset, self.unit, self.hold),
                *(knob.row for knob in self.knobs.values()),
                widgets.HBox([self.undo, self.reset, self.pin, self.train]),
            ]
        )

    def show(self, point: Point, hold: Hold) -> None:
        """Put every knob where ``point`` and ``hold`` say, calling nobody back."""
        for name, knob in self.knobs.items():
            knob.show(float(getattr(point, name)))
        for name in LENGTH_UNITS:
            self.knobs[name].row.layout.display = None if name == point.length_unit else "none"
        self.knobs["noise_multiplier"].disable(hold.kind == "epsilon")


def _button(label: str, icon: str, tooltip: str) -> widgets.Button:
    return widgets.Button(
        description=label, icon=icon, tooltip=tooltip, layout={"width": "auto", "flex": "1"}
    )
