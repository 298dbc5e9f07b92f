"""The buttons of a run with its progress bar."""

from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from workbench.panels import run_readouts
from workbench.panels.controls import button
from workbench.panels.follow import Progress


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
        self.bar = widgets.FloatProgress(max=1.0, layout={"width": "auto", "flex": "1 1 auto"})
        self.speed = widgets.HTML(layout={"width": "190px"})
        self.pause.disabled = self.cancel.disabled = True
        row = [self.start, self.pause, self.cancel, self.bar, self.speed]
        super().__init__(row, layout={"align_items": "center"})

    def show(self, progress: Progress) -> None:
        """Follow the run."""
        latest, ended = progress.latest, progress.ended
        paused = progress.phase in ("pausing", "paused")
        self.start.disabled = not ended
        self.pause.disabled = self.cancel.disabled = ended or progress.phase == "cancelling"
        self.start.description = "Start again" if ended else "Start"
        self.pause.description = "Go on" if paused else "Pause"
        self.pause.icon = "play" if paused else "pause"
        self.bar.value = latest.step / latest.steps if latest and latest.steps else 0.0
        self.speed.value = run_readouts.speed(progress.metrics)
