"""The ROC explorer: audit runs, drag the threshold, and see what each ε can and cannot prove.

Training and attacking go on in a thread of their own (`job`), which a second thread follows.
Callbacks arrive on different threads, so all that touches the state holds one lock.
"""

import threading
from collections.abc import Sequence
from pathlib import Path

import ipywidgets as widgets

from workbench.analysis.audited import AuditedRun
from workbench.analysis.past_runs import past_runs
from workbench.panels.audit import job, text
from workbench.panels.audit.findings import Findings
from workbench.panels.audit.form import AuditControls, AuditForm, run_label
from workbench.panels.audit.job import AuditJob, AuditState
from workbench.panels.common.markup import message_html
from workbench.panels.common.panel import JobPanel

FOLDERS = ("runs", "runs/audit-demo")
FOLLOW_SECONDS = 0.2
_SHEET = Path(__file__).parent / "assets" / "audit.css"


class Auditor(JobPanel[AuditForm]):
    """The panel; ``Auditor("runs/mine")`` offers these runs, chosen, beside those in ``runs/``.

    ``runs`` are the audited runs on display; ``findings.show(runs)`` puts others there. ``job`` is
    the work last begun here, with ``job.wait()`` and ``await job.until_end()``.

    Args:
        runs: folders of runs.
        folders: folders in which to look for more.
        demo: where “Train and audit” keeps what it trains.
    """

    def __init__(
        self,
        *runs: str | Path,
        folders: Sequence[str | Path] = FOLDERS,
        demo: str | Path = FOLDERS[1],
    ) -> None:
        self._lock = threading.RLock()
        self._given = [Path(run) for run in runs]
        self._folders, self._demo = [Path(folder) for folder in folders], Path(demo)
        self.job: AuditJob | None = None
        self.form = AuditForm()
        self.controls = AuditControls(
            on_audit=lambda: self._attempt(self.begin),
            on_train=lambda: self._attempt(self.begin_demo),
            on_cancel=self._cancel,
            on_look=self._look,
        )
        self.message = widgets.HTML()
        self.findings = Findings(self._lock, on_measure=lambda: self._attempt(self._measure))
        super().__init__(
            "Audit", [self.form.box, self.controls, self.message, self.findings], sheets=[_SHEET]
        )
        with self._lock:
            self.message.value = message_html(text.READY)
            self._look()
            self.form.choose(self._given)
            going = job.latest()
            if going is not None and going.active:
                self._watch(going)

    def close(self) -> None:
        """Take the panel away; work that is going goes on."""
        with self._lock:
            self.job = None
        super().close()

    def begin(self) -> AuditJob:
        """Audit the runs that are chosen, as the Audit button does.

        Raises `InputError` for settings that cannot be used, or while another audit is going.
        """
        with self._lock:
            return self._start(self.form.paths())

    def begin_demo(self) -> AuditJob:
        """Train what is missing of the demo, then audit it with the runs that are chosen.

        Raises `InputError` as `begin`.
        """
        with self._lock:
            wanted = job.demo_runs(self._demo, **self.form.demo())
            return self._start(self.form.paths(), wanted)

    @property
    def runs(self) -> tuple[AuditedRun, ...]:
        """The audited runs on display."""
        return self.findings.runs

    def _start(self, paths: list[Path], wanted: Sequence[job.Wanted] = ()) -> AuditJob:
        self.form.mark("")
        begun = job.start_audit(
            paths,
            wanted=wanted,
            signals=tuple(self.form.signals.value),
            most=self.form.records(),
        )
        self._watch(begun)
        return begun

    def _measure(self) -> AuditJob:
        with self._lock:
            assert self.findings.shown is not None
            begun = job.start_mechanism(self.findings.shown.run.config)
            self._watch(begun)
            return begun

    def _cancel(self) -> None:
        with self._lock:
            if self.job is not None:
                self.job.cancel()
                self._follow_once(self.job.progress())

    def _look(self) -> None:
        """Offer the runs that have weights."""
        with self._lock:
            found = past_runs([*self._folders, *{path.parent for path in self._given}])
            offered = {
                run_label(run.path.name, run.epsilon, private=run.config.privacy.private): run.path
                for run in found
                if run.config is not None and any((run.path / "checkpoints").glob("*"))
            }
            self.form.offer(offered)

    def _watch(self, begun: AuditJob) -> None:
        self.job = begun
        self._follow_once(begun.progress())
        threading.Thread(target=self._follow, args=(begun,), daemon=True).start()

    def _follow(self, begun: AuditJob) -> None:
        """Show how the work moves on, at most every `FOLLOW_SECONDS`."""
        pause, version = threading.Event(), -1
        while True:
            state = begun.progress(newer_than=version)
            version = state.version
            with self._lock:
                if self.job is not begun:
                    return
                self._follow_once(state)
                if state.ended:
                    self._ended(state)
                    return
            pause.wait(FOLLOW_SECONDS)

    def _follow_once(self, state: AuditState) -> None:
        self.controls.show(
            going=not state.ended, cancelling=state.phase == "cancelling", share=state.share
        )
        self.form.enable(state.ended)
        self.findings.views.measure.disabled = not state.ended
        self.message.value = text.message(state)

    def _ended(self, state: AuditState) -> None:
        self._look()
        if state.runs:
            self.form.choose([run.path for run in state.runs])
            self.findings.show(state.runs)
        if state.mechanism is not None:
            self.findings.views.show_mechanism(state.mechanism)
