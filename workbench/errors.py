"""The one exception for bad input, and the checks that raise it.

A message names the field, the value, the bound and the remedy in one sentence. The command line
prints it on standard error and exits with status 2; a panel shows it in its status line.
"""

import math
import os
from pathlib import Path

_SHOWN = 100  # characters of a value in a message


class InputError(ValueError):
    """Something the user gave cannot be used; the message is one sentence for the user."""


def positive(name: str, value: float, *, remedy: str) -> float:
    """Return ``value`` if it is a finite number above 0, else raise `InputError`."""
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"{name} is {value:g} but must be a finite number above 0; {remedy}.")
    return value


def probability(name: str, value: float, *, remedy: str, one: bool = False) -> float:
    """Return ``value`` if it lies in (0, 1), or in (0, 1] with ``one``, else raise `InputError`."""
    if not (0 < value < 1 or (one and value == 1)):
        bound = "above 0 and at most 1" if one else "strictly between 0 and 1"
        raise InputError(f"{name} is {value:g} but must lie {bound}; {remedy}.")
    return value


def whole(name: str, value: float, *, least: int, remedy: str) -> int:
    """Return ``value`` as an integer if it is a whole number ≥ ``least``, else raise."""
    if not math.isfinite(value) or value != int(value) or value < least:
        raise InputError(
            f"{name} is {value:g} but must be a whole number of at least {least}; {remedy}."
        )
    return int(value)


def shown(value: object) -> str:
    """``value`` as a message quotes it: on one line and cut where it is long."""
    try:
        text = " ".join(repr(value).split())
    except (ValueError, RecursionError):  # Python writes out no integer of 5000 digits
        return f"a {type(value).__name__} too large to show"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 20]} … {text[-15:]}"


def usable_path(name: str, value: str | Path) -> Path:
    """``value`` as a path that the system can be asked about, its ``~`` replaced.

    Nothing needs to be there. Raises `InputError`, which calls it ``name``, for what no path can
    be: an unknown user's home, a name too long, an odd character, a folder that cannot be entered.
    """
    try:
        path = Path(value).expanduser()
        os.stat(path)  # noqa: PTH116 - unlike Path.exists, it tells every reason
    except (FileNotFoundError, NotADirectoryError):
        return Path(value).expanduser()
    except OSError as error:
        raise InputError(
            f"{name} {shown(str(value))} cannot be reached ({error.strerror}); give another path."
        ) from None
    except (RuntimeError, ValueError) as error:  # no such user; a character that no path has
        raise InputError(
            f"{name} {shown(str(value))} is no path ({_one_line(error)}); give another path."
        ) from None
    return path


def sentence(error: BaseException, *, what: str = "The run") -> str:
    """What has stopped ``what``, in one line."""
    if isinstance(error, InputError):
        return str(error)
    text = _one_line(error).rstrip(".")[:300]
    return f"{what} stopped with {type(error).__name__}: {text or 'no further words'}."


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
