"""An audit in a terminal: a progress bar a pass, and signals that keep what was scored."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import click
from tqdm import tqdm

from workbench import audit
from workbench.audit.attacks import ATTACKS
from workbench.audit.forward import Progress
from workbench.audit.report import write
from workbench.errors import InputError, usable_path
from workbench.terminal import stop_on_signals


def audit_with_bar(
    run: str | None,
    *,
    model: str | None,
    members: str | None,
    nonmembers: str | None,
    text_field: str,
    fair_coins: bool,
    reference: str | None,
    twin: str | None,
    shadows: str | None,
    signals: Sequence[str],
    records: int,
    significance: float,
    delta: float,
    seed: int,
    out: str | None,
) -> audit.Audit:
    """Audit a run, or a model on files, and write what was found; see `workbench.audit.attack`.

    Raises `InputError` if neither or both are given, `click.Abort` if a signal stopped it.
    """
    if (run is None) == (model is None):
        raise InputError("Give a RUN, or --model with --members and --nonmembers, and not both.")
    if model is not None and (members is None or nonmembers is None):
        raise InputError("--model needs --members and --nonmembers; give a file for each.")
    if run is not None and (members or nonmembers):
        raise InputError(
            "--members and --nonmembers are for --model; a RUN knows its own, so leave them out."
        )
    if model is not None and shadows is not None:
        raise InputError("--shadows is for a RUN, whose sweep split the same corpus; leave it out.")
    source = usable_path("RUN" if run is not None else "--model", run or str(model))
    folder = _out(source, out, of_run=run is not None)
    with stop_on_signals() as stop, ExitStack() as closing:
        bar = _Bars(closing)
        passes = audit.Passes(cache=folder / "cache", on_progress=bar, stop=stop)
        common = {
            "signals": tuple(signals) or ATTACKS,
            "reference": reference,
            "twin": twin,
            "significance": significance,
            "seed": seed,
            "passes": passes,
        }
        try:
            if run is not None:
                found = audit.audit_run(run, shadows=shadows, most=records, **common)
            else:
                given = audit.file_records(
                    str(members),
                    str(nonmembers),
                    text_field=text_field,
                    fair_coins=fair_coins,
                    most=records,
                    seed=seed,
                )
                found = audit.audit_model(str(model), given, delta=delta, **common)
        except audit.CancelledError:
            raise click.exceptions.Abort from None
    write(found, folder)
    return found


def _out(source: Path, out: str | None, *, of_run: bool) -> Path:
    if out is not None:
        return usable_path("--out", out)
    return source / "audit" if of_run else Path("audits") / source.resolve().name


class _Bars:
    """One bar a pass, drawn with the first progress so that a refusal stands alone."""

    def __init__(self, closing: ExitStack) -> None:
        self._closing, self._bar, self._what = closing, None, ""

    def __call__(self, progress: Progress) -> None:
        if self._bar is None or progress.what != self._what:
            if self._bar is not None:
                self._bar.close()
            self._what = progress.what
            self._bar = tqdm(total=progress.total, unit="record", desc=progress.what, leave=False)
            self._closing.callback(self._bar.close)
        self._bar.n = progress.done
        self._bar.refresh()
