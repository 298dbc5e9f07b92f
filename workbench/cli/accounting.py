"""What a run costs in ε, and the noise that a target needs."""

from typing import Any

import click

from workbench.cli.answers import say
from workbench.cli.options import ACCOUNTANT, DELTA, JSON, SAMPLE_RATE, STEPS


@click.command()
@click.option(
    "--noise-multiplier",
    type=float,
    required=True,
    help="σ: the noise's standard deviation over C.",
)
@SAMPLE_RATE
@STEPS
@DELTA
@ACCOUNTANT
@JSON
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
    say(guarantee.as_dict() if as_json else str(guarantee))


@click.command()
@click.option("--target-epsilon", type=float, required=True, help="Largest ε allowed at δ.")
@SAMPLE_RATE
@STEPS
@DELTA
@ACCOUNTANT
@JSON
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
        say({"noise_multiplier": noise, **guarantee.as_dict()})
    else:
        say(f"σ = {noise:g} gives {guarantee}")
