"""The one exception for bad input, and the checks that raise it.

A message names the field, the value, the bound and the remedy in one sentence. The command line
prints it on standard error and exits with status 2; a panel shows it in its status line.
"""

import math
import os
from numbers import Integral, Real
from pathlib import Path

_SHOWN = 100  # characters of a value in a message


class InputError(ValueError):
    """Something the user gave cannot be used; the message is one sentence for the user."""


def number(name: str, value: object, *, remedy: str) -> float:
    """Return ``value`` as a float, maybe not finite, if it is one real number, else raise."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise InputError(f"{name} is {shown(value)} but must be a number; {remedy}.")
    try:
        return float(value)
    except OverflowError:  # a whole number or a fraction that is larger than any float
        return math.inf if int(math.floor(value)) > 0 else -math.inf  # noqa: RUF046


def positive(name: str, value: object, *, remedy: str) -> float:
    """Return ``value`` if it is a finite number above 0, else raise `InputError`."""
    checked = number(name, value, remedy=remedy)
    if not (math.isfinite(checked) and checked > 0):
        raise InputError(f"{name} is {checked:g} but must be a finite number above 0; {remedy}.")
    return checked


def probability(name: str, value: object, *, remedy: str, one: bool = False) -> float:
    """Return ``value`` if it lies in (0, 1), or in (0, 1] with ``one``, else raise `InputError`."""
    checked = number(name, value, remedy=remedy)
    if not (0 < checked < 1 or (one and checked == 1)):
        bound = "above 0 and at most 1" if one else "strictly between 0 and 1"
        raise InputError(f"{name} is {checked:g} but must lie {bound}; {remedy}.")
    return checked


def whole(name: str, value: object, *, least: int, remedy: str) -> int:
    """Return ``value`` as an integer if it is a whole number ≥ ``least``, else raise."""
    checked = number(name, value, remedy=remedy)
    if not math.isfinite(checked) or checked != int(checked) or checked < least:
        raise InputError(
            f"{name} is {checked:g} but must be a whole number of at least {least}; {remedy}."
        )
    return int(value) if isinstance(value, Integral) else int(checked)


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
