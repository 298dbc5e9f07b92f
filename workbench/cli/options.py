"""Options that several commands take."""

import click

ACCOUNTANT = click.option(
    "--accountant",
    type=click.Choice(["pld", "rdp", "prv"]),
    default="pld",
    show_default=True,
    help="Published accountant that certifies ε.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
SAMPLE_RATE = click.option(
    "--sample-rate", type=float, required=True, help="Expected batch size over data set size."
)
STEPS = click.option("--steps", type=int, required=True, help="Optimizer steps.")
DELTA = click.option(
    "--delta",
    type=float,
    default=1e-5,
    show_default=True,
    help="δ, well below one over the number of records.",
)
