"""The pictures of a run, live: built once, then moved along with it."""

from collections.abc import Mapping
from dataclasses import dataclass

import ipywidgets as widgets
import numpy as np
import pandas as pd

from workbench.figures import gradients, training
from workbench.figures.live import LiveFigure
from workbench.figures.picture import Picture


@dataclass(frozen=True, eq=False)
class View:
    """What the pictures show: a run as it stands, its plan, and runs of the past beside it."""

    metrics: pd.DataFrame
    gradient_norms: np.ndarray  # (records,) of the newest batch
    max_grad_norm: float
    steps: int
    budget: float  # planned ε; NaN while it is being computed
    past: training.Past

    def pictures(self) -> Mapping[str, Picture]:
        """Every picture by name, in reading order."""
        metrics, steps = self.metrics, self.steps
        return {
            "learning": training.learning(metrics, steps=steps, past=self.past),
            "spending": training.spending(metrics, steps=steps, budget=self.budget, past=self.past),
            "histogram": gradients.histogram(self.gradient_norms, max_grad_norm=self.max_grad_norm),
            "clipping": gradients.clipping(metrics, steps=steps),
            "noise": gradients.noise(metrics, steps=steps),
            "speed": training.speed(metrics, steps=steps),
        }


class Pictures(widgets.GridBox):
    """The pictures in two columns; `show` may be called from any thread."""

    def __init__(self, view: View) -> None:
        self.figures = {
            name: LiveFigure(picture.figure()) for name, picture in view.pictures().items()
        }
        super().__init__(
            list(self.figures.values()),
            layout={"grid_template_columns": "repeat(2, minmax(0, 1fr))", "grid_gap": "4px 14px"},
        )

    def show(self, view: View) -> None:
        """Move every picture on to ``view``, each as one message to the browser."""
        for name, picture in view.pictures().items():
            self.figures[name].redraw(picture.traces, picture.ranges, shows=picture.shows)
