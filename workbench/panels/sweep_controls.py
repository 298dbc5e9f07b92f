"""The buttons of a sweep with its folder and its progress bar."""

from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from workbench.panels.controls import button
from workbench.panels.follow_sweep import SweepProgress


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
        self.bar = widgets.FloatProgress(max=1.0, layout={"width": "auto", "flex": "1 1 auto"})
        self.cancel.disabled = self.retry.disabled = True
        super().__init__([self.start, self.cancel, self.retry, place, self.bar])

    def show(self, progress: SweepProgress) -> None:
        """Follow the sweep."""
        counts = progress.counts
        self.start.disabled = not progress.ended
        self.cancel.disabled = progress.phase != "running"
        self.retry.disabled = not (progress.ended and counts["failed"])
        self.bar.value = progress.ended_cells / (counts.total() or 1)
