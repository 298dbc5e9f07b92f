"""What stands below the threshold; each fold is made when it is opened."""

from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets
import numpy as np

from workbench.analysis.audited import CANARIES, AuditedRun
from workbench.analysis.exposure import lower_risk, most_exposed, token_gains
from workbench.audit.mechanism import MechanismReport
from workbench.figures.audit_views import gaps_figure, layers_figure, mechanism_figure
from workbench.figures.live import LiveFigure
from workbench.panels.audit import tables
from workbench.panels.audit.text import short
from workbench.panels.common.controls import button

TITLES = (
    "All signals",
    "Most exposed records, and where in them",
    "Canaries",
    "The article's thresholds, and what lower risk means",
    "Layers: what hidden states give away",
    "Mechanism: σ claimed and σ measured",
)
_SIGNALS, _EXPOSED, _CANARIES, _ARTICLE, _LAYERS, _MECHANISM = range(len(TITLES))
_NORMAL = 1.96  # deviations that a 95 % interval reaches


class AuditViews(widgets.Accordion):
    """The folds; `show` may be called from any thread under the panel's lock."""

    def __init__(self, *, on_measure: Callable[[], Any]) -> None:
        self.parts = [widgets.VBox() for _ in TITLES]
        self.measure = button(
            "Measure", "tachometer", "Take steps with planted gradients.", on_measure
        )
        self.record = widgets.Dropdown(
            description="Record",
            tooltip="The record whose tokens are coloured.",
            layout={"width": "auto"},
            style={"description_width": "64px"},
        )
        self.record.observe(lambda _: self._show_tokens(), names="value")
        self._tokens = widgets.HTML()
        self._runs: tuple[AuditedRun, ...] = ()
        self._run: AuditedRun | None = None
        self._signal = ""
        self._report: MechanismReport | None = None
        self._made: set[int] = set()
        super().__init__(self.parts, titles=TITLES)
        self.add_class("wb-audit-views")
        self.observe(lambda _: self._make_open(), names="selected_index")

    def show(self, runs: Sequence[AuditedRun], run: AuditedRun, signal: str) -> None:
        """Show these runs, and of ``run`` what ``signal`` says."""
        new = (tuple(runs), run, signal) != (self._runs, self._run, self._signal)
        self._runs, self._run, self._signal = tuple(runs), run, signal
        if new:
            self._made.clear()
            self._make_open()

    def show_mechanism(self, report: MechanismReport) -> None:
        """Show what was measured of the mechanism."""
        self._report = report
        self._made.discard(_MECHANISM)
        self._make_open()

    def _make_open(self) -> None:
        """Make the part that is open, unless it is there already."""
        part = self.selected_index
        if self._run is None or part is None or part in self._made:
            return
        self._made.add(part)
        makers = {
            _SIGNALS: self._signals,
            _EXPOSED: self._exposed,
            _CANARIES: self._canaries,
            _ARTICLE: self._article,
            _LAYERS: self._layers,
            _MECHANISM: self._mechanism,
        }
        before = self.parts[part].children
        self.parts[part].children = makers[part](self._run)
        for widget in before:
            if isinstance(widget, LiveFigure):
                widget.close()

    def _signals(self, run: AuditedRun) -> list[widgets.Widget]:
        return [widgets.HTML(tables.signals(run))]

    def _exposed(self, run: AuditedRun) -> list[widgets.Widget]:
        beside = self._comparable(run)
        _, member, texts = run.scores(self._signal)
        frame = most_exposed(
            {other.label: other.scores(self._signal)[0] for other in beside},
            member,
            texts,
            by=run.label,
        )
        parts = [widgets.HTML(tables.exposed(frame, [other.label for other in beside]))]
        if self._signal == CANARIES:
            return [*parts, widgets.HTML("<p>A canary is scored on its own last token alone.</p>")]
        self.record.options = [
            (f"{place}. {short(str(row['text']))}", int(row["record"]))
            for place, row in enumerate(frame.to_dict("records"), start=1)
        ]
        self.record.index = 0 if len(frame) else None
        self._show_tokens()
        return [*parts, self.record, self._tokens]

    def _comparable(self, run: AuditedRun) -> list[AuditedRun]:
        """The run and all that were tested on the same records."""
        others = [
            other
            for other in self._runs
            if other is not run and run.same_records(other, self._signal)
        ]
        return [run, *others]

    def _show_tokens(self) -> None:
        run, record = self._run, self.record.value
        if run is None or record is None or self._signal == CANARIES:
            return
        pieces = []
        for other in self._comparable(run):
            target = other.audit.target
            if target.reference is None:
                continue
            gains = token_gains(target.told, target.reference, record)
            start = target.told.offsets[record]
            ids = target.told.ids[start : start + len(gains)]
            words = [other.tokens[int(token)] for token in ids]
            pieces.append(tables.heat(words, gains, other.label))
        self._tokens.value = (
            "".join(pieces)
            + "<small>Orange, bold from 2 nats on: training has made the token likelier than it "
            "was before. Blue: less likely. Much of that is plain learning, which words such as "
            "“the” get in every record; a leak is what members get and others do not.</small>"
        )

    def _canaries(self, _run: AuditedRun) -> list[widgets.Widget]:
        return [widgets.HTML(tables.canaries(self._runs))]

    def _article(self, run: AuditedRun) -> list[widgets.Widget]:
        parts: list[widgets.Widget] = [widgets.HTML(tables.article(run))]
        gaps = {
            other.label: _gap(*other.scores("loss")[:2])
            for other in self._runs
            if "loss" in other.signals
        }
        if gaps:
            parts.append(LiveFigure(gaps_figure(gaps)))
        for other in self._comparable(run):
            if other is not run and run.private != other.private:
                first, second = (other, run) if run.private else (run, other)
                own, lowered = (of.scores(self._signal)[0] for of in (first, second))
                risks = lower_risk(own, lowered, run.scores(self._signal)[1])
                told = tables.lower(risks, first.label, second.label, self._signal)
                parts.append(widgets.HTML(told))
        if len(parts) <= 2:
            parts.append(
                widgets.HTML(
                    "<p>“65.9 % lower membership risk”, the article says. To see what runs give "
                    "instead, audit one with and one without privacy on the same records.</p>"
                )
            )
        return parts

    def _layers(self, _run: AuditedRun) -> list[widgets.Widget]:
        attacks = {run.label: run.layers for run in self._runs if run.layers is not None}
        if not attacks:
            return [widgets.HTML("<p>Too few records for an attack on hidden states.</p>")]
        note = (
            "<p>A linear classifier on each layer's pooled hidden state, cross-fitted by group of "
            "duplicates; bars are 95 % intervals. One ε covers embeddings, too: they are computed "
            "from the weights.</p>"
        )
        return [LiveFigure(layers_figure(attacks)), widgets.HTML(note)]

    def _mechanism(self, run: AuditedRun) -> list[widgets.Widget]:
        words = (
            "<p>The run's own steps are taken again on a throw-away model, with gradients planted "
            "among its records. What comes out of the noisy sums shows what σ, q and clipping "
            "really are. This audits the code that trains, not the weights.</p>"
            if run.private
            else "<p>This run has no privacy, so there is no mechanism to measure; choose a "
            "private one above.</p>"
        )
        parts: list[widgets.Widget] = [widgets.HTML(words)]
        if run.private:
            parts.append(self.measure)
        if self._report is not None:
            report = self._report
            parts.append(LiveFigure(mechanism_figure(report.findings, report.flagged)))
            parts.append(widgets.HTML(tables.mechanism(report)))
        return parts


def _gap(scores: np.ndarray, member: np.ndarray) -> tuple[float, float]:
    """The loss gap and half its 95 % interval (Welch)."""
    sides = [scores[member == side] for side in (True, False)]
    own, others = [of[np.isfinite(of)] for of in sides]
    error = np.sqrt(own.var(ddof=1) / len(own) + others.var(ddof=1) / len(others))
    return float(own.mean() - others.mean()), float(_NORMAL * error)
