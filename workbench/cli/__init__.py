"""The ``workbench`` command: thin wrappers that parse, call one function and print.

Bad input is answered with one sentence on standard error and exit status 2, whatever else stops a
command with one and exit status 1.
"""

import click

from workbench import __version__
from workbench.cli.accounting import epsilon, sigma
from workbench.cli.answers import OneSentence
from workbench.cli.audits import audit
from workbench.cli.laws import fit, plan, study
from workbench.cli.runs import lab, sweep, train, verify


@click.group(cls=OneSentence)
@click.version_option(__version__, prog_name="workbench")
def main() -> None:
    """See and measure what differential privacy costs a language model."""


for _command in (epsilon, sigma, train, verify, sweep, audit, fit, plan, study, lab):
    main.add_command(_command)
