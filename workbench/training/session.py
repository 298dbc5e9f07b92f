"""One session of a run: the loop around the steps, from where it stands to an end.

What a step is stands in `workbench.training.step`; here are evaluation, checkpoints, when to stop,
and what the folder and whoever follows are told.
"""

import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from workbench.errors import InputError, sentence
from workbench.privacy import Guarantee
from workbench.runs.folder import LEDGER, RunFolder
from workbench.runs.ledger import Ledger
from workbench.runs.ledger import read as read_ledger
from workbench.runs.report import RunResult, State, StepReport
from workbench.runs.stopping import Reason, reason_to_stop
from workbench.training import checkpoint, models, progress
from workbench.training.spending import Reading
from workbench.training.start import Start

_SAMPLE_TOKENS = 60
_SAVE_SECONDS = 60.0  # about how much training a kill can cost where evaluations are rare
_SAVE_SHARE = 0.02  # of the run's time, which large models would exceed once a minute
OnStep = Callable[[StepReport], None]


@dataclass(frozen=True)
class Writer:
    """A run's folder and its open ledger, which the first process alone has."""

    folder: RunFolder
    ledger: Ledger


class Session:
    """One session of a run, and what it keeps between steps.

    ``run_dir`` is where the first process writes, by its ``writer``; the others have none.
    """

    def __init__(self, start: Start, *, run_dir: Path, writer: Writer | None) -> None:
        self.config, self.prepared, self.world = start.config, start.prepared, start.world
        self.optimizer, self.stepper = start.optimizer, start.stepper
        self.spending, self.position, self.began = start.spending, start.position, start.began
        self.tail, self.run_dir, self.writer = start.tail, run_dir, writer
        now = time.perf_counter()
        self.clock, self.save_due = now - self.position.seconds, now + _SAVE_SECONDS

    def to_the_end(self, on_step: OnStep | None, stop: threading.Event | None) -> RunResult:
        """Run until done, stopped or failed; the folder says which."""
        self._write_summary("running")
        try:
            reason = self._steps(on_step or (lambda _: None), stop or threading.Event())
            self._save()
            return self._finish(reason)
        except BaseException as error:
            with suppress(OSError):  # the disk itself may be what failed
                if self.writer is not None:
                    self.writer.folder.write_metrics()
            with suppress(OSError):
                self._write_summary("failed", error=sentence(error))
            raise

    def _steps(self, on_step: OnStep, stop: threading.Event) -> Reason:
        plan = self.prepared.plan
        if self.position.step == 0:
            if self.position.samples is None:
                self._evaluate()
                self._write_sample("before")
                self._save()  # so that whoever goes on knows what the first steps came from
            self._tell(on_step, progress.first_report(self.prepared, self.position), save=False)
        every = self.config.training.evaluate_every
        ledger = self.writer.ledger if self.writer else None
        while self.position.step < plan.steps:
            # Of several processes a signal may reach only one.
            stopped = any(self.world.gathered(stop.is_set()))
            reason: Reason | None = "cancelled" if stopped else self.world.agreed(self._reason())
            if reason is not None:
                return reason
            began = time.perf_counter()
            outcome = self.stepper.take(self.position.step, ledger)
            self._moved_on()
            last = self.position.step == plan.steps
            evaluated = last or self.position.step % every == 0
            step_seconds = time.perf_counter() - began
            if evaluated:
                self._evaluate()
            if self.world.first:
                report = progress.step_report(
                    self.prepared,
                    self.position,
                    outcome,
                    self._reading(exact=last, evaluated=evaluated),
                    evaluated=evaluated,
                    step_seconds=step_seconds,
                )
                self._tell(on_step, report, save=evaluated)
        return "all steps" if plan.whole else "budget"

    def _moved_on(self) -> None:
        if self.tail is not None:
            self.tail.add(self.prepared.model)
        self.position = replace(
            self.position,
            step=self.position.step + 1,
            recorded=self.writer.ledger.recorded if self.writer else 0,
            seconds=time.perf_counter() - self.clock,
        )

    def _reading(self, *, exact: bool, evaluated: bool) -> Reading:
        """What is shown of ε after the step just taken."""
        position, every = self.position, self.config.training.evaluate_every
        if exact or (evaluated and self.spending.affords(every, seconds=position.seconds)):
            return self.spending.exact(position.step)
        return self.spending.bound(position.step, seconds=position.seconds)

    def _reason(self) -> Reason | None:
        return reason_to_stop(self.config.training, self.position.watch, self.position.seconds)

    def _evaluate(self) -> None:
        if self.world.first:
            model, heldout = self.prepared.model, self.prepared.heldout
            size = self.stepper.physical_batch_size  # no more memory than training takes
            loss = models.mean_loss(model, heldout.tokens, heldout.labels, batch_size=size)
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"The held-out loss is not finite after step {self.position.step}; lower the "
                    "learning rate."
                )
            watch = self.position.watch.after(loss)
            self.position = replace(
                self.position,
                heldout_loss=loss,
                heldout_loss_tail=self._tail_loss(size),
                watch=watch,
            )

    def _tail_loss(self, batch_size: int) -> float | None:
        """The held-out loss of the mean of the latest weights; None without enough of them."""
        if self.tail is None:
            return None
        self.tail.evaluated()
        if not self.tail.complete:
            return None
        model, heldout = self.prepared.model, self.prepared.heldout
        with self.tail.in_place(model):
            return models.mean_loss(model, heldout.tokens, heldout.labels, batch_size=batch_size)

    def _save(self) -> None:
        if self.writer is not None:
            ledger, began = self.writer.ledger, time.perf_counter()
            checkpoint.save(
                self.writer.folder.checkpoints,
                self.prepared.model,
                self.prepared.tokenizer,
                self.optimizer,
                self.prepared.randomness,
                replace(
                    self.position,
                    max_grad_norm=self.stepper.max_grad_norm,
                    ledger_head=ledger.head,
                ),
                config=self.config,
                saving=partial(ledger.saving, step=self.position.step),
                tail=self.tail,
            )
            now = time.perf_counter()
            self.save_due = now + max(_SAVE_SECONDS, (now - began) / _SAVE_SHARE)

    def _write_sample(self, when: str) -> None:
        model, tokenizer = self.prepared.model, self.prepared.tokenizer
        text = models.sample_text(model, tokenizer, tokens=_SAMPLE_TOKENS)
        samples = {**(self.position.samples or {}), when: text}
        self.position = replace(self.position, samples=samples)

    def _tell(self, on_step: OnStep, report: StepReport, *, save: bool) -> None:
        if self.writer is not None:
            # A kill between the two costs a row that is told again, not one that is missing.
            self.writer.folder.add(report)
            if save or time.perf_counter() > self.save_due:
                self._save()
            began = time.perf_counter()
            on_step(report)
            self.clock += time.perf_counter() - began  # a pause is no training

    def _finish(self, reason: Reason) -> RunResult:
        state: State = "cancelled" if reason == "cancelled" else "done"
        self._write_sample("after")
        if self.writer is not None:
            self.writer.folder.write_metrics()
        self._write_summary(state, reason=reason)
        terms, position = self.prepared.plan.at(0), self.position
        return RunResult(
            run_dir=self.run_dir,
            state=state,
            reason=reason,
            steps=position.step,
            guarantee=self._spent(state),
            noise_multiplier=terms.noise_multiplier,
            sample_rate=terms.sample_rate,
            n_params=self.prepared.n_params,
            heldout_loss=position.heldout_loss,
            minutes=position.seconds / 60,
            samples=dict(position.samples or {}),
        )

    def _spent(self, state: State) -> Guarantee:
        """What the ledger holds, also where a run ends among steps that it takes again.

        A run that failed may have recorded a step that never reached the weights.
        """
        if self.writer and (self.writer.ledger.is_ahead or state == "failed"):
            path = self.writer.folder.path / LEDGER
            record = read_ledger(path)
            if self.writer.ledger.head not in record.heads:
                raise InputError(f"{path} is another run's; put back the own one.")
            return record.guarantee()
        return self.spending.guarantee(self.position.step)

    def _spent_if_known(self, state: State) -> Guarantee | None:
        try:
            return self._spent(state)
        except Exception:
            if state == "failed":  # accounting itself may be what failed
                return None
            raise

    def _write_summary(self, state: State, **more: Any) -> None:
        """``more`` is how the run ended, or what went wrong."""
        if self.writer is None:
            return
        if state != "running":
            more["guarantee"] = self._spent_if_known(state)
            more["ledger_head"] = self.writer.ledger.head
        self.writer.folder.write_summary(
            progress.summary(
                self.config, self.prepared, self.position, state=state, began=self.began, **more
            )
        )
