"""Training, auditing and measuring in a thread of its own, and what can be seen of it meanwhile.

Runs that are missing are trained first, by the job of the training panel, so that a process still
trains one at a time. A process audits one at a time, too.
"""

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from workbench import audit, fast
from workbench.analysis.audited import QUICK, AuditedRun, audited_run, told_apart, twin_of
from workbench.config import RunConfig
from workbench.errors import InputError, sentence
from workbench.panels.common.job import Job
from workbench.panels.run import job as training_job
from workbench.runs.folder import read_run

if TYPE_CHECKING:
    from workbench.audit.forward import Progress

Phase = Literal["working", "cancelling", "done", "cancelled", "failed"]
ENDED: tuple[Phase, ...] = ("done", "cancelled", "failed")
MECHANISM_STEPS = 60
_FAST_STEPS = 4


@dataclass(frozen=True, eq=False)
class AuditState:
    """The work as it stood at one moment.

    ``share`` of what it is ``doing`` is done, and ``seconds`` of that are left, NaN where nobody
    knows. ``runs`` and ``mechanism`` are what has been found so far.
    """

    version: int
    phase: Phase
    doing: str = ""
    share: float = 0.0
    seconds: float = math.nan
    runs: tuple[AuditedRun, ...] = ()
    mechanism: "audit.MechanismReport | None" = None
    error: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.phase in ENDED


@dataclass(frozen=True)
class Wanted:
    """A run to train where its folder does not have it yet."""

    path: Path
    config: RunConfig


class AuditJob(Job[AuditState]):
    """Some work in a thread; every method can be called from any thread."""

    def __init__(self, work: "Callable[[AuditJob], dict[str, Any]]") -> None:
        super().__init__(AuditState(0, "working"))
        self.stop = threading.Event()
        self._work = work
        self._thread = threading.Thread(target=self._to_the_end, name="audit", daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        """Finish the step or batch in hand and stop; what was trained and scored is kept."""
        self.stop.set()
        self.tell(phase="cancelling")

    def tell(self, **changes: Any) -> None:
        """Move on."""
        with self._changed:
            self._become(replace(self._now, version=self._now.version + 1, **changes))

    def _to_the_end(self) -> None:
        try:
            found = self._work(self)
        except audit.CancelledError:
            self.tell(phase="cancelled")
        except Exception as error:
            self.tell(phase="failed", error=sentence(error, what="The audit"))
        else:
            self.tell(phase="done", share=1.0, seconds=0.0, **found)


_latest: AuditJob | None = None
_one_at_a_time = threading.Lock()


def start_audit(
    runs: Sequence[Path],
    *,
    wanted: Sequence[Wanted] = (),
    signals: Sequence[str] = QUICK,
    most: int = 4000,
) -> AuditJob:
    """Train ``wanted`` where it is missing, then audit all of these and ``runs``.

    Raises `InputError` while another audit is going, or if there is nothing to audit.
    """
    paths = list(dict.fromkeys([*(run.path for run in wanted), *runs]))
    if not paths:
        raise InputError("No run is chosen; choose some, or train what is missing.")
    if not signals:
        raise InputError("No signal is chosen; choose at least one, such as loss.")

    def work(own: AuditJob) -> dict[str, Any]:
        for run in wanted:
            _train(run, own)
        return {"runs": _audit(paths, signals, most, own)}

    return _begin(work)


def start_mechanism(config: RunConfig, *, steps: int = MECHANISM_STEPS) -> AuditJob:
    """Measure σ, q and clipping from inside the run's own steps; the model is thrown away.

    Raises `InputError` while another audit is going.
    """
    steps = min(steps, _FAST_STEPS) if fast.enabled() else steps

    def work(own: AuditJob) -> dict[str, Any]:
        clock = _Clock("measuring the mechanism", own)

        def stepped(done: int) -> None:
            clock.at(done, steps)
            if own.stop.is_set():
                raise audit.CancelledError("stopped")

        clock.at(0, steps)
        return {"mechanism": audit.audit_trainer(config, steps=steps, on_step=stepped)}

    return _begin(work)


def latest() -> AuditJob | None:
    """The work that is going, or the last that went; None if this process has done none."""
    return _latest


def demo_runs(
    folder: Path, *, source: str, epsilons: Sequence[float], canaries: int
) -> list[Wanted]:
    """A tiny model without privacy and one for each ε, with the same records and canaries."""
    terms = {"source": source, "count": canaries}
    plain = audit.demo_config(private=False, **terms)
    found = [Wanted(folder / f"{source}-{canaries}-not-private", plain)]
    for epsilon in epsilons:
        config = audit.demo_config(private=True, target_epsilon=epsilon, **terms)
        found.append(Wanted(folder / f"{source}-{canaries}-epsilon-{epsilon:g}", config))
    return found


def _begin(work: "Callable[[AuditJob], dict[str, Any]]") -> AuditJob:
    global _latest
    with _one_at_a_time:
        if _latest is not None and _latest.active:
            raise InputError(
                "An audit is already going in this kernel; cancel it or wait for its end before "
                "starting another."
            )
        _latest = AuditJob(work)
        return _latest


def _train(wanted: Wanted, own: AuditJob) -> None:
    """Have the run trained to its end, or go on with it; Cancel is passed on."""
    run = _started(wanted)
    if run is None:
        return
    clock = _Clock(f"training {wanted.path.name}", own)
    clock.at(0, 1)
    progress = run.progress()
    while not progress.ended:
        progress = run.progress(newer_than=progress.version, timeout=0.2)
        if own.stop.is_set():
            run.cancel()
        if progress.latest is not None:
            clock.at(progress.latest.step, progress.latest.steps)
    if progress.phase == "failed":
        raise InputError(progress.error)
    if progress.phase == "cancelled" or own.stop.is_set():
        raise audit.CancelledError(f"{wanted.path} was cancelled")


def _started(wanted: Wanted) -> training_job.RunJob | None:
    """The run, begun or resumed; None if it is done."""
    if not wanted.path.exists():
        return training_job.start(wanted.config, run_dir=wanted.path)
    there = read_run(wanted.path)
    if there.config != wanted.config:
        raise InputError(
            f"{wanted.path} holds a run with other settings; move it away, or audit it as it is."
        )
    return None if there.summary.get("state") == "done" else training_job.resume(wanted.path)


def _audit(
    paths: Sequence[Path], signals: Sequence[str], most: int, own: AuditJob
) -> tuple[AuditedRun, ...]:
    """Every run in turn; what is found is shown at once."""
    configs = {path: read_run(path).config for path in paths}
    found: list[AuditedRun] = []

    def told(progress: "Progress") -> None:
        own.tell(
            doing=f"run {len(found) + 1} of {len(paths)}: scoring with {progress.what}",
            share=(len(found) + progress.done / max(1, progress.total)) / len(paths),
            seconds=progress.eta_seconds,
        )

    # One cache for all, because each twin is scored for its own audit and as a control.
    passes = audit.Passes(cache=paths[0] / "audit" / "cache", on_progress=told, stop=own.stop)
    for path in paths:
        if own.stop.is_set():
            raise audit.CancelledError("stopped between two runs")
        own.tell(doing=f"auditing {path.name}", share=len(found) / len(paths), seconds=math.nan)
        twin = twin_of(configs[path], configs)
        found.append(audited_run(path, signals=signals, twin=twin, most=most, passes=passes))
        own.tell(runs=told_apart(found))
    return told_apart(found)


class _Clock:
    """Tells how far something is, and by its pace how long the rest takes."""

    def __init__(self, doing: str, own: AuditJob) -> None:
        self._doing, self._own = doing, own
        self._began: tuple[float, int] | None = None

    def at(self, done: int, total: int) -> None:
        """So many of ``total`` are done."""
        now = time.monotonic()
        if self._began is None and done:
            self._began = now, done
        left = math.nan
        if self._began is not None and done > self._began[1]:
            left = (now - self._began[0]) / (done - self._began[1]) * (total - done)
        self._own.tell(doing=self._doing, share=done / total, seconds=left)
