"""A training run in a terminal: a progress bar, and signals that finish the step in hand.

Ctrl-C, what ``kill``, ``docker stop`` and SLURM send at the end (SIGTERM), and what SLURM sends
ahead of a time limit if asked to (SIGUSR1) all mean the same.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

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
    with stop_on_signals() as stop, ExitStack() as closing:
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
    return result if _is_first() else None


def _bar() -> tqdm:
    """A bar on standard error, in the first process of a run alone."""
    return tqdm(unit="step", dynamic_ncols=True, disable=not _is_first())


def _is_first() -> bool:
    """Whether this is the first process of a run, or its only one."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """An event that the first signal sets; the second acts as it would have without this block.

    Not so for the processes of ``torchrun``: it passes signals on that they may have had already.
    """
    stop, repeats = threading.Event(), "TORCHELASTIC_RUN_ID" in os.environ

    def first(*_: object) -> None:
        if not stop.is_set():
            _say("\nFinishing the step in hand; a second signal gives it up.\n")
        stop.set()
        if not repeats:
            _put_back(before)

    before = _handled_by(first)
    try:
        yield stop
    finally:
        _put_back(before)


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Have every signal that asks to stop do what Ctrl-C does; the second acts as usual."""

    def first(*_: object) -> None:
        _put_back(before)
        raise KeyboardInterrupt

    before = _handled_by(first)
    try:
        yield
    finally:
        _put_back(before)


_Handlers = dict[int, Any]
# Windows has no SIGUSR1.
_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
]


def _handled_by(handler: Callable[..., None]) -> _Handlers:
    """Set ``handler`` for every signal and return what was there."""
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in _SIGNALS}
    _put_back(dict.fromkeys(_SIGNALS, handler))
    return before


def _put_back(handlers: _Handlers) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _say(text: str) -> None:
    """On standard error, past Python's buffers: a signal may arrive while they are being filled."""
    with suppress(OSError):
        os.write(2, text.encode())
