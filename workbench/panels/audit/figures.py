"""The pictures of the threshold: curves, scores and ruler, drawn once for some runs, then moved."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from workbench.analysis.audited import AuditedRun
from workbench.analysis.thresholds import Outcome, drawn_corners
from workbench.figures import audit_roc, audit_ruler, audit_scores
from workbench.figures.live import LiveFigure
from workbench.panels.audit.form import signal_name

_NOTHING = np.array([np.nan])


@dataclass(frozen=True, eq=False)
class Shown:
    """What is on display: the run and signal whose threshold it is, and how it is drawn."""

    run: AuditedRun
    signal: str
    log: bool = True
    band: str = "exact"
    log_ruler: bool = True


class AuditFigures:
    """``roc``, ``scores`` and ``ruler`` for a set of runs; to be used under the panel's lock.

    ``on_click(name, fpr, tpr)`` is called when a corner of a run's curve is clicked.
    """

    def __init__(
        self,
        runs: Sequence[AuditedRun],
        shown: Shown,
        outcome: Outcome,
        *,
        on_click: Callable[[str, float, float], None],
    ) -> None:
        self.runs = tuple(runs)
        self._bands: dict[tuple[str, str, str], tuple[np.ndarray, ...]] = {}
        self.roc = LiveFigure(
            audit_roc.audit_roc_figure(
                [run.label for run in runs],
                {**self._curves(shown), **_ring(outcome)},
                _scale(shown),
                shows=_told(shown, outcome),
            ),
            on_click=on_click,
        )
        scores, member, _ = shown.run.scores(shown.signal)
        name = signal_name(shown.signal)
        self.scores = LiveFigure(
            audit_scores.scores_figure(scores, member, name, threshold=outcome.threshold)
        )
        found = shown.run.marks(shown.signal)
        self.ruler = LiveFigure(audit_ruler.ruler_figure(found, log=shown.log_ruler))
        self._top = audit_scores.score_traces(scores, member)[1]["yaxis.range"][1]

    def close(self) -> None:
        """Take the pictures off the page."""
        for figure in (self.roc, self.scores, self.ruler):
            figure.close()

    def show(self, shown: Shown, outcome: Outcome) -> None:
        """Redraw all for another run, signal or scale."""
        traces = {**self._curves(shown), **_ring(outcome)}
        self.roc.redraw(traces, _scale(shown), shows=_told(shown, outcome))
        scores, member, _ = shown.run.scores(shown.signal)
        bars, ranges = audit_scores.score_traces(scores, member)
        self._top = ranges["yaxis.range"][1]
        line = audit_scores.threshold_traces(outcome.threshold, self._top)
        known = ~np.isnan(scores)
        sides = {"members": int((member & known).sum()), "others": int((~member & known).sum())}
        said = audit_scores.told(signal_name(shown.signal), **sides)
        self.scores.redraw({**bars, **line}, ranges, shows=said)
        found, log = shown.run.marks(shown.signal), shown.log_ruler
        self.ruler.redraw(
            audit_ruler.ruler_traces(found, log=log),
            audit_ruler.ruler_layout(found, log=log),
            shows=audit_ruler.told(found),
        )

    def show_threshold(self, shown: Shown, outcome: Outcome) -> None:
        """Move the ring and the line alone."""
        self.roc.redraw(_ring(outcome), shows=_told(shown, outcome))
        self.scores.redraw(audit_scores.threshold_traces(outcome.threshold, self._top))

    def _curves(self, shown: Shown) -> audit_roc.Traces:
        curves = [self._curve(run, shown.signal, shown.band) for run in self.runs]
        return {
            **audit_roc.curve_traces(curves),
            **audit_roc.allowed_traces(*shown.run.allowed(shown.signal)),
            **audit_roc.resolution_traces(shown.run.ranking(shown.signal).curve.nonmembers),
            **audit_roc.article_traces(shown=shown.signal == "loss"),
        }

    def _curve(self, run: AuditedRun, signal: str, band: str) -> audit_roc.Curve:
        if signal not in run.signals:
            return audit_roc.Curve(run.label, *[_NOTHING] * 5)
        curve = run.ranking(signal).curve
        corners = drawn_corners(curve)
        key = (run.label, signal, band)
        if key not in self._bands:
            self._bands[key] = _band(run, signal, band)
        return audit_roc.Curve(run.label, curve.fpr[corners], curve.tpr[corners], *self._bands[key])


def _band(run: AuditedRun, signal: str, band: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rates and limits, (places,) each."""
    curve = run.ranking(signal).curve
    if band == "exact":
        corners = drawn_corners(curve)
        low, high = curve.band()
        return curve.fpr[corners], low[corners], high[corners]
    if band == "bootstrap":
        low_rates = np.geomspace(1 / curve.nonmembers, 1, 80)
        rates = np.unique(np.concatenate([[0.0], low_rates, np.linspace(0, 1, 41)]))
        return rates, *curve.bootstrap_band(rates)
    return _NOTHING, _NOTHING, _NOTHING


def _ring(outcome: Outcome) -> audit_roc.Traces:
    return audit_roc.ring_traces(fpr=outcome.fpr, tpr=outcome.tpr)


def _scale(shown: Shown) -> dict[str, object]:
    others = shown.run.ranking(shown.signal).curve.nonmembers
    return audit_roc.audit_scale(log=shown.log, nonmembers=others)


def _told(shown: Shown, outcome: Outcome) -> str:
    return audit_roc.told(
        shown.run.label,
        signal_name(shown.signal),
        auc=shown.run.result(shown.signal).curve.auc,
        fpr=outcome.fpr,
        tpr=outcome.tpr,
    )
