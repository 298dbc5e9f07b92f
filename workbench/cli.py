"""The ``workbench`` command: thin wrappers that parse, call one function and print.

Bad input is answered with one sentence on standard error and exit status 2.
"""

import json
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from workbench import __version__
from workbench.errors import InputError

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
    """Turns every `InputError` and usage error into one line and exit status 2."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().main(*args, **{**kwargs, "standalone_mode": False})
        except click.exceptions.Abort:
            click.echo("Stopped.", err=True)
            sys.exit(130)
        except click.ClickException as error:
            click.echo(f"workbench: {error.format_message()}", err=True)
            sys.exit(2)
        except InputError as error:
            click.echo(f"workbench: {error}", err=True)
            sys.exit(2)
        except FloatingPointError as error:  # a run diverged, and says what to do
            click.echo(f"workbench: {error}", err=True)
            sys.exit(1)


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

    With both, the run must have been begun as RUN.YAML says.
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
    """Run the cells of SWEEP.YAML that are not done yet; Ctrl-C leaves a sweep to go on with."""
    from tqdm import tqdm

    from workbench.sweeps.sweep import SweepConfig, SweepCost, run_sweep

    config = SweepConfig.load(file)
    with tqdm(total=len(config.cells()), unit="cell") as bar:

        def show(frame: "pd.DataFrame") -> None:
            counts = Counter(frame["state"])
            bar.n = counts["done"] + counts["failed"]
            bar.set_postfix({state: counts[state] for state in ("running", "failed")})

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


@main.command(context_settings={"ignore_unknown_options": True})
@click.option("--notebooks", metavar="FOLDER", help="Open this copy of the notebooks instead.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def lab(notebooks: str | None, arguments: tuple[str, ...]) -> None:
    """Open JupyterLab on the series; ARGUMENTS such as --port 8890 are JupyterLab's own."""
    from workbench.lab import open_lab

    open_lab(arguments, notebooks)


def _say(answer: str | dict[str, Any]) -> None:
    click.echo(answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False))
