"""What a finished run, or any model, gives away."""

from typing import Any

import click

from workbench.cli.answers import say
from workbench.cli.options import JSON


@click.command()
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
@JSON
def audit(run: str | None, as_json: bool, **options: Any) -> None:
    """Attack the last weights of RUN, or of --model with --members and --nonmembers.

    Prints a table with every signal and what its success says of ε, each ε with its kind, and
    writes audit.json and scores.parquet. Ctrl-C keeps what was scored; the same command goes on.
    """
    from workbench.terminal_audit import audit_with_bar

    found = audit_with_bar(run, **options)
    say(found.as_dict() if as_json else str(found))
