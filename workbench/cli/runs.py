"""Runs: trained, gone on with, verified, swept over; and the notebooks that show them."""

import sys
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import click

from workbench.cli.answers import say
from workbench.cli.options import JSON

if TYPE_CHECKING:
    import pandas as pd


@click.command()
@click.argument("file", metavar="[RUN.YAML]", required=False)
@click.option("--resume", metavar="RUN", help="Go on with the run in this folder.")
@click.option(
    "--run-dir",
    metavar="FOLDER",
    help="Where to keep it, new or empty; runs/ and the time if not given.",
)
@JSON
def train(file: str | None, resume: str | None, run_dir: str | None, as_json: bool) -> None:
    """Train as RUN.YAML says, or go on with a run; Ctrl-C finishes the step in hand.

    SIGTERM and SIGUSR1 do as Ctrl-C does. With both arguments, the run must have been begun as
    RUN.YAML says.
    """
    from workbench.terminal import train_with_bar

    result = train_with_bar(file, resume=resume, run_dir=run_dir)
    if result is None:  # another process of this run tells
        return
    if as_json:
        guarantee = result.guarantee.as_dict()
        say({**asdict(result), "run_dir": str(result.run_dir), "guarantee": guarantee})
    else:
        ended = "Cancelled" if result.state == "cancelled" else f"Done ({result.reason})"
        perplexity = result.heldout_perplexity
        learnt = "" if perplexity is None else f"Held-out perplexity {perplexity:.4g}. "
        say(
            f"{ended} after {result.steps} steps in "
            f"{result.minutes:.3g} minutes. {learnt}{result.guarantee}\nKept in {result.run_dir}"
        )
    if result.state == "cancelled":
        sys.exit(130)


@click.command()
@click.argument("run", metavar="RUN")
@JSON
def verify(run: str, as_json: bool) -> None:
    """Check that the ledger of the run in folder RUN is whole, and recompute ε from it."""
    from workbench import training

    guarantee = training.verify(run)
    record = training.read_run(run).ledger
    if as_json:
        say({**guarantee.as_dict(), "steps": record.steps, "ledger_head": record.head})
    else:
        say(f"The ledger of {record.steps} steps is whole: {guarantee}")


@click.command()
@click.argument("file", metavar="SWEEP.YAML", type=click.Path(path_type=Path))
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Dask scheduler or its scheduler file; without it, processes on this machine.",
)
@click.option(
    "--out",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Sweep folder, new or to go on with; sweeps/ and the file's name if not given.",
)
@click.option("--retry-failed", is_flag=True, help="Run failed cells again, too.")
def sweep(file: Path, scheduler: str | None, out: Path | None, retry_failed: bool) -> None:
    """Run the cells of SWEEP.YAML that are not done yet; Ctrl-C leaves a sweep to go on with.

    SIGTERM and SIGUSR1 do as Ctrl-C does.
    """
    from tqdm import tqdm

    from workbench.sweeps.cluster import scheduler_at
    from workbench.sweeps.config import SweepConfig
    from workbench.terminal import interrupted_by_signals

    config = SweepConfig.load(file)
    if scheduler is not None:
        scheduler_at(scheduler)  # before anything is written or drawn
    from workbench.sweeps.sweep import SweepCost, run_sweep

    with ExitStack() as closing:
        # Drawn with the first results, so that a refusal stands alone.
        the_bar = cache(lambda: closing.enter_context(tqdm(total=len(config.cells()), unit="cell")))

        def show(frame: "pd.DataFrame") -> None:
            bar = the_bar()
            counts = Counter(frame["state"])
            bar.n = counts["done"] + counts["failed"]
            note = frame.attrs.get("note")
            bar.set_postfix_str(
                note or ", ".join(f"{state}={counts[state]}" for state in ("running", "failed"))
            )

        with interrupted_by_signals():
            frame = run_sweep(
                config,
                folder=out or Path("sweeps") / file.stem,
                scheduler=scheduler,
                retry_failed=retry_failed,
                on_change=show,
            )
    failed = frame[frame["state"] == "failed"]
    say(frame.drop(columns=["id", "error"]).to_string(index=False, float_format="{:.4g}".format))
    say(f"All cells together: {SweepCost.from_dict(frame.attrs['privacy'])}")
    for folder, error in zip(failed["folder"], failed["error"], strict=True):
        click.echo(f"{folder}: {error}", err=True)
    if len(failed):
        sys.exit(1)


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--notebooks", metavar="FOLDER", help="Open this copy of the notebooks instead.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def lab(notebooks: str | None, arguments: tuple[str, ...]) -> None:
    """Open JupyterLab on the series; ARGUMENTS such as --port 8890 are JupyterLab's own."""
    from workbench.lab import open_lab

    open_lab(arguments, notebooks)
