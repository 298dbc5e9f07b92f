"""One session of a run: the loop around the steps, from where it stands to an end.

What a step is stands in `workbench.training.step`; here are evaluation, checkpoints, when to stop,
and what the folder and whoever follows are told.
"""

import math
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from workbench.config import RunConfig
from workbench.errors import InputError, sentence
from workbench.privacy import Guarantee
from workbench.runs.folder import LEDGER, RunFolder, RunRecord
from workbench.runs.ledger import Ledger
from workbench.runs.ledger import read as read_ledger
from workbench.runs.report import RunResult, State, StepReport
from workbench.runs.stopping import Reason, reason_to_stop
from workbench.training import checkpoint, models, progress
from workbench.training.checkpoint import Position
from workbench.training.distributed import World
from workbench.training.memory.predict import physical_batch_size
from workbench.training.optimizer import optimizer
from workbench.training.plan import remaining
from workbench.training.prepare import Prepared
from workbench.training.randomness import Randomness, renewed, seeded
from workbench.training.replay import can_replay, fingerprint
from workbench.training.same_run import refuse_other_terms
from workbench.training.spending import Reading, Spending
from workbench.training.step import Stepper

_SAMPLE_TOKENS = 60
_SAVE_SECONDS = 60.0  # about how much training a kill can cost where evaluations are rare
_SAVE_SHARE = 0.02  # of the run's time, which large models would exceed once a minute
OnStep = Callable[[StepReport], None]


class Run:
    """One run in progress and what it keeps between steps; only the first process writes."""

    folder: RunFolder | None = None
    ledger: Ledger | None = None

    def __init__(self, config: RunConfig, prepared: Prepared, world: World) -> None:
        self.config, self.prepared, self.world = config, prepared, world
        with torch.no_grad():
            world.take_from_first(dict(prepared.model.named_parameters()))
        self.optimizer = optimizer(prepared.model, config.training)
        self.stepper = Stepper(config, prepared, self.optimizer, world)
        self.stepper.try_out()
        self.spending = Spending(prepared.terms, prepared.plan)
        own = None if self.stepper.draws_elsewhere else fingerprint(config, prepared)
        self.position = Position(fingerprint=world.joint(own))
        self._draw_from(seeded(prepared.randomness, self.position.fingerprint))
        self.began, self.clock = datetime.now(UTC), time.perf_counter()
        self.save_due = self.clock + _SAVE_SECONDS
        self.same_noise = True

    def restore(self, record: RunRecord, state: Mapping[str, Any] | None) -> None:
        """Stand where the newest checkpoint of ``record`` stands, or at the start without one.

        ``state`` is that checkpoint's, as `same_run.refuse_edits` has read it.
        """
        refuse_other_terms(record, self.prepared.terms, self.prepared.corpus)
        own, saved = self.position.fingerprint, Position()
        if record.checkpoint is not None and state is not None:
            saved = checkpoint.restore(
                record.checkpoint,
                state,
                self.prepared.model,
                self.optimizer,
                self.prepared.randomness,
                fingerprint=own,
            )
        self.position = replace(saved, fingerprint=own)
        self.same_noise = self.world.agreed(can_replay(record.ledger, saved, own))
        if not self.same_noise:
            self._draw_from(renewed(self.prepared.randomness, own))
        prepared = self.prepared
        recorded = self.position.recorded if self.same_noise else record.ledger.steps
        before, since = record.ledger.first(recorded), self.position.step
        plan = remaining(prepared.plan, self.config, before=before, since=since)
        self.prepared = self.stepper.prepared = replace(prepared, plan=plan)
        self.spending = Spending(prepared.terms, plan, before=before, since=since)
        self.stepper.max_grad_norm = self.position.max_grad_norm
        self.clock = time.perf_counter() - self.position.seconds

    def _draw_from(self, chance: Randomness) -> None:
        self.prepared = self.stepper.prepared = replace(self.prepared, randomness=chance)

    def to_the_end(self, on_step: OnStep | None, stop: threading.Event | None) -> RunResult:
        """Run until done, stopped or failed; the folder says which."""
        self._write_summary("running")
        try:
            reason = self._steps(on_step or (lambda _: None), stop or threading.Event())
            self._save()
            return self._finish(reason)
        except BaseException as error:
            with suppress(OSError):  # the disk itself may be what failed
                if self.folder is not None:
                    self.folder.write_metrics()
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
        while self.position.step < plan.steps:
            # Of several processes a signal may reach only one.
            stopped = any(self.world.gathered(stop.is_set()))
            reason: Reason | None = "cancelled" if stopped else self.world.agreed(self._reason())
            if reason is not None:
                return reason
            began = time.perf_counter()
            outcome = self.stepper.take(self.position.step, self.ledger)
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
        self.position = replace(
            self.position,
            step=self.position.step + 1,
            recorded=self.ledger.recorded if self.ledger else 0,
            max_grad_norm=self.stepper.max_grad_norm,
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
            size = physical_batch_size(self.config, model)  # no more memory than training takes
            loss = models.mean_loss(model, heldout.tokens, heldout.labels, batch_size=size)
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"The held-out loss is not finite after step {self.position.step}; lower the "
                    "learning rate."
                )
            watch = self.position.watch.after(loss)
            self.position = replace(self.position, heldout_loss=loss, watch=watch)

    def _save(self) -> None:
        if self.folder is not None and self.ledger is not None:
            began = time.perf_counter()
            checkpoint.save(
                self.folder.checkpoints,
                self.prepared.model,
                self.prepared.tokenizer,
                self.optimizer,
                self.prepared.randomness,
                replace(self.position, ledger_head=self.ledger.head),
                config=self.config,
                saving=partial(self.ledger.saving, step=self.position.step),
            )
            now = time.perf_counter()
            self.save_due = now + max(_SAVE_SECONDS, (now - began) / _SAVE_SHARE)

    def _write_sample(self, when: str) -> None:
        model, tokenizer = self.prepared.model, self.prepared.tokenizer
        text = models.sample_text(model, tokenizer, tokens=_SAMPLE_TOKENS)
        samples = {**(self.position.samples or {}), when: text}
        self.position = replace(self.position, samples=samples)

    def _tell(self, on_step: OnStep, report: StepReport, *, save: bool) -> None:
        if self.folder is not None:
            # A kill between the two costs a row that is told again, not one that is missing.
            self.folder.add(report)
            if save or time.perf_counter() > self.save_due:
                self._save()
            began = time.perf_counter()
            on_step(report)
            self.clock += time.perf_counter() - began  # a pause is no training

    def _finish(self, reason: Reason) -> RunResult:
        state: State = "cancelled" if reason == "cancelled" else "done"
        self._write_sample("after")
        if self.folder is not None:
            self.folder.write_metrics()
        self._write_summary(state, reason=reason)
        terms, position = self.prepared.plan.at(0), self.position
        return RunResult(
            run_dir=self.folder.path if self.folder else Path(),
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
        ledger, folder = self.ledger, self.folder
        if ledger and folder and (ledger.is_ahead or state == "failed"):
            record = read_ledger(folder.path / LEDGER)
            if ledger.head not in record.heads:
                raise InputError(f"{folder.path / LEDGER} is another run's; put back the own one.")
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
        if self.folder is not None:
            self.folder.write_summary(self.summary(state, **more))

    def summary(self, state: State = "running", **more: Any) -> dict[str, Any]:
        """What the folder's summary says now; ``more`` is how it ended, or what went wrong."""
        if state != "running" and self.ledger is not None:
            more["guarantee"], more["ledger_head"] = self._spent_if_known(state), self.ledger.head
        return progress.summary(
            self.config, self.prepared, self.position, state=state, began=self.began, **more
        )
