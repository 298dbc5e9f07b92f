"""What audits have found: verdict, curves, a threshold to drag, the ruler of ε, and the folds."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets
import numpy as np

from workbench.analysis.audited import AuditedRun
from workbench.errors import InputError
from workbench.panels.audit import text
from workbench.panels.audit.choice import ViewForm
from workbench.panels.audit.figures import AuditFigures, Shown
from workbench.panels.audit.form import signal_name
from workbench.panels.audit.threshold import Threshold
from workbench.panels.audit.views import AuditViews
from workbench.panels.common.controls import status_line
from workbench.panels.common.markup import status_html

START_FPR = 0.1  # where the threshold stands at first
_NEAREST = 3  # records that are told of each cell
_RULER_HEADING = '<div class="wb-heading">How private, and by which kind of statement</div>'


class Findings(widgets.VBox):
    """Empty until `show`; ``lock`` is the panel's, because callbacks come on any thread.

    ``on_measure()`` is called when the mechanism of the run on display is to be measured.
    """

    def __init__(self, lock: "threading.RLock", *, on_measure: Callable[[], Any]) -> None:
        self._lock = lock
        self.runs: tuple[AuditedRun, ...] = ()
        self.shown: Shown | None = None
        self.figures: AuditFigures | None = None
        self.view = ViewForm(on_change=self._view_changed)
        self.threshold = Threshold(on_change=self._moved, on_bad_input=self._refused)
        self.views = AuditViews(on_measure=on_measure)
        self.verdict, self.counts, self.fallen, self.words = (widgets.HTML() for _ in range(4))
        self.status = status_line()
        columns = {"grid_template_columns": "repeat(2, minmax(0, 1fr))"}
        self._pictures, self._ruler = widgets.GridBox(layout=columns), widgets.VBox()
        super().__init__([widgets.HTML(text.EMPTY)], layout={"overflow": "hidden"})

    def show(self, runs: Sequence[AuditedRun]) -> None:
        """Put these runs on display, the first with what was chosen before where it has it."""
        with self._lock:
            self.runs = tuple(runs)
            signals = dict.fromkeys(signal for run in runs for signal in run.signals)
            self.view.offer([run.label for run in runs], list(signals))
            run = self._run()
            if self.view.signal.value not in run.signals:
                self.view.choose(run.label, run.signals[0])
            shown = self._asked()
            assert shown is not None
            self._rebuild(shown)

    def _rebuild(self, shown: Shown) -> None:
        """Draw new pictures for a new set of runs."""
        self.shown = shown
        self._fit_threshold(shown)
        old, outcome = self.figures, shown.run.ranking(shown.signal).at(self.threshold.value)
        self.figures = AuditFigures(self.runs, shown, outcome, on_click=self._clicked)
        self._pictures.children = [self.figures.roc, self.figures.scores]
        self._ruler.children = [self.figures.ruler]
        if old is not None:
            old.close()
        self._show_findings(shown)
        self._show_counts(shown)
        self.children = [
            self.verdict,
            self.view.box,
            self._pictures,
            self.threshold.row,
            self.status,
            self.counts,
            self.fallen,
            widgets.HTML(
                '<div class="wb-heading">How private, and by which kind of statement</div>'
            ),
            self.view.ruler,
            self._ruler,
            self.words,
            self.views,
        ]

    def _view_changed(self) -> None:
        with self._lock:
            before, shown = self.shown, self._asked()
            if self.figures is None or before is None or shown is None:
                return
            self.shown = shown
            if (before.run, before.signal) != (shown.run, shown.signal):
                self._fit_threshold(shown)
                self._show_findings(shown)
            outcome = shown.run.ranking(shown.signal).at(self.threshold.value)
            self.figures.show(shown, outcome)
            self._show_counts(shown)

    def _run(self) -> AuditedRun:
        return next(run for run in self.runs if run.label == self.view.model.value)

    def _asked(self) -> Shown | None:
        """What the controls ask for; None, said in words, where a run lacks the signal."""
        run, signal, view = self._run(), str(self.view.signal.value), self.view
        if signal not in run.signals:
            why = run.audit.left_out.get(signal, "it was audited without")
            self.status.value = status_html(
                f"{run.label} has no {signal_name(signal)}: {why}. Shown is what there was before.",
                kind="Not shown",
            )
            return None
        self.status.value = status_html("")
        scales = bool(view.axes.value), str(view.band.value), bool(view.ruler.value)
        return Shown(run, signal, *scales)

    def _fit_threshold(self, shown: Shown) -> None:
        ranking = shown.run.ranking(shown.signal)
        self.threshold.fit(*ranking.span)
        self.threshold.show(ranking.threshold_at(START_FPR))

    def _show_findings(self, shown: Shown) -> None:
        self.verdict.value = text.verdict(shown.run, shown.signal)
        self.words.value = text.ruler_words(shown.run.marks(shown.signal))
        self.views.show(self.runs, shown.run, shown.signal)

    def _show_counts(self, shown: Shown) -> None:
        ranking, threshold = shown.run.ranking(shown.signal), self.threshold.value
        self.counts.value = text.counts(ranking.at(threshold), auc=ranking.curve.auc)
        scores, _, texts = shown.run.scores(shown.signal)
        self.fallen.value = text.fallen(ranking.nearest(threshold, _NEAREST), texts, scores)

    def _moved(self, threshold: float) -> None:
        """The slider or its field: only what the threshold changes is drawn."""
        with self._lock:
            if self.figures is None or self.shown is None:
                return
            self.status.value = status_html("")
            ranking = self.shown.run.ranking(self.shown.signal)
            self.figures.show_threshold(self.shown, ranking.at(threshold))
            self._show_counts(self.shown)

    def _clicked(self, name: str, fpr: float, tpr: float) -> None:
        """A corner of a curve: its threshold, and its model if that was another."""
        with self._lock:
            run = next((run for run in self.runs if run.label == name), None)
            if run is None or self.shown is None or self.shown.signal not in run.signals:
                return
            signal = self.shown.signal
            if run is not self.shown.run:
                self.view.choose(run.label, signal)
                self._view_changed()
            curve = run.ranking(signal).curve
            near = np.abs(curve.fpr - fpr) + np.abs(curve.tpr - tpr)
            threshold = float(curve.thresholds[int(near.argmin())])
            if not np.isfinite(threshold):  # where nobody is called a member
                threshold = run.ranking(signal).span[1]
            self.threshold.show(threshold)
            self._moved(threshold)

    def _refused(self, error: InputError) -> None:
        with self._lock:
            self.status.value = status_html(str(error), kind="Not used")
