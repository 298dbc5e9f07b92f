"""The ``workbench`` command: thin wrappers that parse, call one function and print.

Bad input is answered with one sentence on standard error and exit status 2.
"""

import json
import sys
from typing import Any

import click

from workbench import __version__
from workbench.errors import InputError

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
_DELTA = click.option("--delta", type=float, default=1e-5, show_default=True, help="δ, below 1/N.")


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


@click.group(cls=_OneSentence)
@click.version_option(__version__, prog_name="workbench")
def main() -> None:
    """See, measure and plan what differential privacy costs a language model."""


@main.command()
@click.option("--noise-multiplier", type=float, required=True, help="σ, noise over C.")
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

    value = privacy.epsilon(noise_multiplier, sample_rate, steps, delta, accountant=accountant)
    guarantee = privacy.Guarantee(value, delta, accountant)
    _say(guarantee.as_dict() if as_json else str(guarantee))


@main.command()
@click.option("--target-epsilon", type=float, required=True, help="The budget.")
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
    value = privacy.epsilon(noise, sample_rate, steps, delta, accountant=accountant)
    guarantee = privacy.Guarantee(value, delta, accountant)
    if as_json:
        _say({"noise_multiplier": noise, **guarantee.as_dict()})
    else:
        _say(f"σ = {noise:g} gives {guarantee}")


@main.command(context_settings={"ignore_unknown_options": True})
@click.option("--notebooks", metavar="FOLDER", help="Open this copy of the notebooks instead.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def lab(notebooks: str | None, arguments: tuple[str, ...]) -> None:
    """Open JupyterLab on the series; ARGUMENTS such as --port 8890 are JupyterLab's own."""
    from workbench.lab import open_lab

    open_lab(arguments, notebooks)


def _say(answer: str | dict[str, Any]) -> None:
    click.echo(answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False))
