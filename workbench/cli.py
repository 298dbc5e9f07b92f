"""The ``workbench`` command: thin wrappers that parse, call one function and print.

Bad input is answered with one sentence on standard error and exit status 2, whatever else stops a
command with one and exit status 1.
"""

import errno
import json
import os
import re
import sys
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from workbench import __version__
from workbench.errors import InputError, sentence

if TYPE_CHECKING:
    import pandas as pd

_ACCOUNTANT = click.option(
    "--accountant",
    type=click.Choice(["pld", "rdp", "prv"]),
    default="pld",
    show_default=True,
    help="Published accountant that certifies ε.",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
_SAMPLE_RATE = click.option(
    "--sample-rate", type=float, required=True, help="Expected batch size over data set size."
)
_STEPS = click.option("--steps", type=int, required=True, help="Optimizer steps.")
_DELTA = click.option(
    "--delta",
    type=float,
    default=1e-5,
    show_default=True,
    help="δ, well below one over the number of records.",
)


class _OneSentence(click.Group):
    """Turns whatever stops a command into one line on standard error.

    The exit status is 2 for input that cannot be used and 1 for all else. Only with
    ``WORKBENCH_DEBUG=1`` is there a traceback.
    """

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().main(*args, **{**kwargs, "standalone_mode": False})
        except click.exceptions.Abort:
            click.echo("Stopped.", err=True)
            sys.exit(130)
        except Exception as error:
            if os.environ.get("WORKBENCH_DEBUG") == "1":
                raise
            _end_with(error)
        except BaseException as error:
            # Libraries written in Rust give up with an exception of their own.
            if type(error).__name__ != "PanicException" or os.environ.get("WORKBENCH_DEBUG") == "1":
                raise
            _end_with(error)


def _end_with(error: BaseException) -> NoReturn:
    """Say what has stopped the command, and exit."""
    if isinstance(error, BrokenPipeError):  # whoever read the answer has heard enough
        sys.stderr.close()
        sys.exit(1)
    words = " ".join(_words(error).split())
    click.echo(f"workbench: {words}", err=True)
    sys.exit(2 if isinstance(error, InputError | click.ClickException) else 1)


def _words(error: BaseException) -> str:
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, InputError | FloatingPointError):  # a run that diverged says what to do
        return str(error)
    text = str(error)
    if isinstance(error, MemoryError) or re.search(r"out of memory|allocate memory", text, re.I):
        return (
            "There is not enough memory; lower runtime.physical_batch_size, corpus.record_tokens "
            "or the size of the model."
        )
    if isinstance(error, OSError) and error.errno in _OF_A_DISK:
        return _about_the_disk(error)
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        return f"The system refused what was asked of it ({error.strerror}{where})."
    told = sentence(error, what="The command").rstrip(".")
    return (
        f"{told}; this is a fault of the workbench, so please report it with what it prints under "
        "WORKBENCH_DEBUG=1."
    )


_OF_A_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.EFBIG)


def _about_the_disk(error: OSError) -> str:
    file = error.filename or "its files"
    return (
        f"Cannot write or read {file}: {error.strerror}; make room or let this user write there, "
        "and go on: a run with --resume, a sweep with the same command."
    )


@click.group(cls=_OneSentence)
@click.version_option(__version__, prog_name="workbench")
def main() -> None:
    """See and measure what differential privacy costs a language model."""


@main.command()
@click.option(
    "--noise-multiplier",
    type=float,
    required=True,
    help="σ: the noise's standard deviation over C.",
)
@_SAMPLE_RATE
@_STEPS
@_DELTA
@_ACCOUNTANT
@_JSON
def epsilon(
    noise_multiplier: float,
    sample_rate: float,
    steps: int,
    delta: float,
    accountant: Any,
    as_json: bool,
) -> None:
    """The certified ε of a run with Poisson sampling."""
    from workbench import privacy
    from workbench.errors import positive

    positive("noise_multiplier", noise_multiplier, remedy="add noise, for example 1.0")
    terms = privacy.PrivacyTerms.of_training(delta, accountant=accountant)
    guarantee = privacy.guarantee([(noise_multiplier, sample_rate, steps)], terms)
    _say(guarantee.as_dict() if as_json else str(guarantee))


@main.command()
@click.option("--target-epsilon", type=float, required=True, help="Largest ε allowed at δ.")
@_SAMPLE_RATE
@_STEPS
@_DELTA
@_ACCOUNTANT
@_JSON
def sigma(
    target_epsilon: float,
    sample_rate: float,
    steps: int,
    delta: float,
    accountant: Any,
    as_json: bool,
) -> None:
    """The smallest noise multiplier, rounded up, that keeps within a target ε."""
    from workbench import privacy

    noise = privacy.noise_multiplier(
        target_epsilon, sample_rate, steps, delta, accountant=accountant
    )
    terms = privacy.PrivacyTerms.of_training(delta, accountant=accountant)
    guarantee = privacy.guarantee([(noise, sample_rate, steps)], terms)
    if as_json:
        _say({"noise_multiplier": noise, **guarantee.as_dict()})
    else:
        _say(f"σ = {noise:g} gives {guarantee}")


@main.command()
@click.argument("file", metavar="[RUN.YAML]", required=False)
@click.option("--resume", metavar="RUN", help="Go on with the run in this folder.")
@click.option(
    "--run-dir",
    metavar="FOLDER",
    help="Where to keep it, new or empty; runs/ and the time if not given.",
)
@_JSON
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
        _say({**asdict(result), "run_dir": str(result.run_dir), "guarantee": guarantee})
    else:
        ended = "Cancelled" if result.state == "cancelled" else f"Done ({result.reason})"
        perplexity = result.heldout_perplexity
        learnt = "" if perplexity is None else f"Held-out perplexity {perplexity:.4g}. "
        _say(
            f"{ended} after {result.steps} steps in "
            f"{result.minutes:.3g} minutes. {learnt}{result.guarantee}\nKept in {result.run_dir}"
        )
    if result.state == "cancelled":
        sys.exit(130)


@main.command()
@click.argument("run", metavar="RUN")
@_JSON
def verify(run: str, as_json: bool) -> None:
    """Check that the ledger of the run in folder RUN is whole, and recompute ε from it."""
    from workbench import training

    guarantee = training.verify(run)
    record = training.read_run(run).ledger
    if as_json:
        _say({**guarantee.as_dict(), "steps": record.steps, "ledger_head": record.head})
    else:
        _say(f"The ledger of {record.steps} steps is whole: {guarantee}")


@main.command()
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
    _say(frame.drop(columns=["id", "error"]).to_string(index=False, float_format="{:.4g}".format))
    _say(f"All cells together: {SweepCost.from_dict(frame.attrs['privacy'])}")
    for folder, error in zip(failed["folder"], failed["error"], strict=True):
        click.echo(f"{folder}: {error}", err=True)
    if len(failed):
        sys.exit(1)


@main.command()
@click.argument("run", metavar="[RUN]", required=False)
@click.option("--model", metavar="FOLDER", help="A causal language model trained elsewhere.")
@click.option(
    "--members", metavar="FILE", help="What it was trained on: text, JSONL, CSV, Parquet."
)
@click.option("--nonmembers", metavar="FILE", help="Not trained on.")
@click.option("--text-field", default="text", show_default=True, help="Column with the text.")
@click.option(
    "--fair-coins",
    is_flag=True,
    help="Each record went to its file by an independent fair coin; certificates need that.",
)
@click.option("--reference", metavar="FOLDER", help="A run or model to compare log p with.")
@click.option("--twin", metavar="FOLDER", help="The same without privacy, as a positive control.")
@click.option("--shadows", metavar="SWEEP", help="A sweep over seed, whose runs are shadow models.")
@click.option(
    "--signal", "signals", multiple=True, help="One signal, or several; all if not given."
)
@click.option("--records", type=int, default=4000, show_default=True, help="Records at most.")
@click.option("--significance", type=float, default=0.05, show_default=True, help="Of all ε.")
@click.option("--delta", type=float, default=1e-5, show_default=True, help="δ, with --model.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of all that is drawn.")
@click.option(
    "--out", metavar="FOLDER", help="For audit.json; RUN/audit or audits/NAME if not given."
)
@_JSON
def audit(run: str | None, as_json: bool, **options: Any) -> None:
    """Attack the last weights of RUN, or of --model with --members and --nonmembers.

    Prints a table with every signal and what its success says of ε, each ε with its kind, and
    writes audit.json and scores.parquet. Ctrl-C keeps what was scored; the same command goes on.
    """
    from workbench.terminal_audit import audit_with_bar

    found = audit_with_bar(run, **options)
    _say(found.as_dict() if as_json else str(found))


@main.command()
@click.argument("file", metavar="POINTS.CSV")
@click.option("--law", default="chinchilla", show_default=True, help="Law to fit.")
@click.option("--unit", help="What the column loss is in: nats (default), bits.")
@click.option("--fixed", multiple=True, metavar="NAME=VALUE", help="Parameter that is given.")
@click.option("--bootstrap", type=int, default=0, show_default=True, help="Resamples of runs.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the resamples.")
@_JSON
def fit(
    file: str,
    law: str,
    unit: Any,
    fixed: tuple[str, ...],
    bootstrap: int,
    seed: int,
    as_json: bool,
) -> None:
    """Fit a scaling law to the points of POINTS.CSV and say how sure its numbers are."""
    from workbench import scaling
    from workbench.scaling.files import given_parameters, read_points
    from workbench.scaling.written import as_dict, as_text

    frame = scaling.with_loss(read_points(file), unit)
    given = given_parameters(fixed)
    fitted = scaling.fit(frame, law, fixed=given, bootstrap=bootstrap, seed=seed)
    _say(as_dict(fitted) if as_json else as_text(fitted))


@main.command()
@click.option("--target-epsilon", type=float, required=True, help="Largest ε allowed at δ.")
@click.option("--records", type=float, help="Records there are; the fewest are sought without.")
@click.option("--target-perplexity", type=float, help="Perplexity a token to be reached.")
@click.option("--compute", type=float, help="FLOPs that may be spent.")
@click.option("--delta", type=float, default=1e-8, show_default=True, help="δ.")
@click.option("--record-tokens", type=int, default=512, show_default=True, help="Tokens a record.")
@click.option("--points", metavar="POINTS.CSV", help="Runs of your own to plan on.")
@click.option("--law", default="private", show_default=True, help="Law to fit to them.")
@click.option("--source", type=click.Choice(["measured", "published"]), help="Without points.")
@click.option("--card", default="A100 80GB", show_default=True, help="Card to count hours of.")
@click.option("--memory/--no-memory", default=True, help="Predict how many records fit (seconds).")
@_JSON
def plan(
    target_epsilon: float,
    records: float | None,
    target_perplexity: float | None,
    compute: float | None,
    delta: float,
    record_tokens: int,
    points: str | None,
    law: str,
    source: str | None,
    card: str,
    memory: bool,
    as_json: bool,
) -> None:
    """Plan a run within a privacy budget: forward from compute, backward from a perplexity."""
    from workbench import scaling
    from workbench.scaling.files import read_points
    from workbench.scaling.written import plan_as_text

    if points is not None and source is not None:
        raise InputError("points and source were both given; plan on one of them.")
    planned_on: Any = source
    if points is not None:
        planned_on = scaling.fit(scaling.with_loss(read_points(points)), law)
    planned = scaling.plan(
        planned_on,
        target_epsilon=target_epsilon,
        records=records,
        delta=delta,
        compute=compute,
        target_perplexity=target_perplexity,
        record_tokens=record_tokens,
    ).certified()
    found = {kind: getattr(planned, kind) for kind in ("compute_optimal", "saturating", "target")}
    machines = {
        kind: scaling.hardware(each, card=card, memory=memory)
        for kind, each in found.items()
        if each is not None
    }
    if as_json:
        plans = {
            kind: {**found[kind].as_dict(), "hardware": asdict(each)}
            for kind, each in machines.items()
        }
        _say({"source": planned.source, "status": planned.status, **plans})
        return
    for kind, each in machines.items():
        _say(plan_as_text(found[kind], each))
    if planned.status:
        _say(planned.status)


@main.command()
@click.option("--block", "blocks", multiple=True, metavar="NAME", help="Only this; repeatable.")
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Dask scheduler or its scheduler file; without it, processes on this machine.",
)
@click.option("--hours", type=click.FloatRange(min=0), help="End after so long, to go on later.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes; one a core if not given.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Where rows are kept; data/measured/study of the checkout if not given.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("sweeps/study"),
    show_default=True,
    help="Where the runs themselves are kept.",
)
@click.option("--disturbed", is_flag=True, help="Say in the rows that the machine does other work.")
@click.option("--estimate", "only_estimate", is_flag=True, help="Say how long it takes, and end.")
def study(
    blocks: tuple[str, ...],
    scheduler: str | None,
    hours: float | None,
    workers: int | None,
    data: Path | None,
    out: Path,
    disturbed: bool,
    only_estimate: bool,
) -> None:
    """Measure what is missing of our scaling study; Ctrl-C leaves it to go on with.

    A run whose rows are there is not trained again. SIGTERM and SIGUSR1 do as Ctrl-C does.
    """
    from workbench.scaling.study import ORDER, Progress, estimate, run_study
    from workbench.sweeps.cluster import scheduler_at
    from workbench.terminal import interrupted_by_signals

    asked = blocks or ORDER
    if scheduler is not None:
        scheduler_at(scheduler)
    times = estimate(asked, data)
    for block, seconds in times.items():
        click.echo(f"Block {block}: about {seconds / 3600:.2g} hours of one core", err=True)
    for block in (name for name in asked if name not in times):
        click.echo(f"Block {block}: known once those before it are measured", err=True)
    if only_estimate:
        return

    def show(progress: Progress) -> None:
        click.echo(f"Block {progress.block}: {progress.measured} of {progress.runs}", err=True)

    with interrupted_by_signals():
        left = run_study(
            asked,
            data=data,
            out=out,
            scheduler=scheduler,
            workers=workers,
            hours=hours,
            disturbed=disturbed,
            on_progress=show,
        )
    missing = {block: left.get(block) for block in asked if left.get(block) != 0}
    told = ", ".join(f"{b} ({'all' if n is None else n})" for b, n in missing.items())
    _say(f"Still to measure: {told}." if told else "Everything asked for is measured.")


@main.command(context_settings={"ignore_unknown_options": True})
@click.option("--notebooks", metavar="FOLDER", help="Open this copy of the notebooks instead.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def lab(notebooks: str | None, arguments: tuple[str, ...]) -> None:
    """Open JupyterLab on the series; ARGUMENTS such as --port 8890 are JupyterLab's own."""
    from workbench.lab import open_lab

    open_lab(arguments, notebooks)


def _say(answer: str | dict[str, Any]) -> None:
    click.echo(answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False))
