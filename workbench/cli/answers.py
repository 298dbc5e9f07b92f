"""How every command answers: on standard output, or with one sentence on standard error."""

import errno
import json
import os
import re
import sys
from typing import Any, NoReturn

import click

from workbench.errors import InputError, sentence


class OneSentence(click.Group):
    """Turns whatever stops a command into one line on standard error.

    The exit status is 2 for input that cannot be used and 1 for all else. Only with
    ``WORKBENCH_DEBUG=1`` is there a traceback.
    """

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command and end the process with its status."""
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


def say(answer: str | dict[str, Any]) -> None:
    """Print an answer: text as it is, a dictionary as one line of JSON."""
    click.echo(answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False))
