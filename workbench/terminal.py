"""A training run in a terminal: a progress bar, and Ctrl-C that finishes the step in hand."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

from tqdm import tqdm

from workbench import training
from workbench.config import RunConfig
from workbench.errors import InputError
from workbench.fast import shortened
from workbench.privacy.accountant import written_epsilon
from workbench.training import RunResult, StepReport


def train_with_bar(
    file: str | Path | None, *, resume: str | Path | None, run_dir: str | Path | None
) -> RunResult | None:
    """Run the configuration in ``file``, or go on with the run in folder ``resume``.

    Before the first step it tells which records are used and which were left out. Under
    ``torchrun`` only the first process draws a bar and has a result. Raises `InputError` if
    neither is given, or both and the run was begun with another configuration.
    """
    config = None if file is None else shortened(RunConfig.load(str(file)))
    if config is None and resume is None:
        raise InputError("Give a RUN.YAML to start, or --resume RUN to go on.")
    if resume is not None and run_dir is not None:
        raise InputError("--run-dir is for a new run, --resume goes on in its own; drop one.")
    if resume is not None and config is not None and training.read_run(resume).config != config:
        raise InputError(
            f"{file} is not the configuration that {resume} was begun with; leave it out to go on "
            "with the run's own."
        )
    with _stop_on_interrupt() as stop, ExitStack() as closing:
        # Drawn with the first report, so that a refusal stands alone.
        the_bar = cache(lambda: closing.enter_context(_bar()))

        def show(report: StepReport) -> None:
            bar = the_bar()
            if report.records is not None:
                bar.write(str(report.records), file=sys.stderr)
            bar.total, bar.n = report.steps, report.step
            if report.heldout_loss is not None:
                shown["held-out perplexity"] = f"{report.heldout_perplexity:.4g}"
            if report.step:
                bound = "" if report.epsilon_exact else "≤ "
                shown.update(
                    {"loss": f"{report.loss:.3f}", "ε": f"{bound}{written_epsilon(report.epsilon)}"}
                )
            bar.set_postfix(shown)

        shown: dict[str, str] = {}
        if resume is not None:
            result = training.resume(resume, on_step=show, stop=stop)
        else:
            assert config is not None
            result = training.train(config, on_step=show, stop=stop, run_dir=run_dir)
    return result if result.run_dir.name else None


def _bar() -> tqdm:
    """A bar on standard error, in the first process of a run alone."""
    return tqdm(unit="step", dynamic_ncols=True, disable=os.environ.get("RANK", "0") != "0")


@contextmanager
def _stop_on_interrupt() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; the second interrupts as usual."""
    stop, before = threading.Event(), signal.getsignal(signal.SIGINT)

    def first(*_: object) -> None:
        print("\nFinishing the step in hand; Ctrl-C again gives it up.", file=sys.stderr)  # noqa: T201
        stop.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, first)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
