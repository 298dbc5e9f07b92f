"""The one exception for bad input, and the checks that raise it.

A message names the field, the value, the bound and the remedy in one sentence. The command line
prints it on standard error and exits with status 2; a panel shows it in its status line.
"""

import math
from numbers import Integral, Real

_SHOWN = 60  # characters of a value that is no number


class InputError(ValueError):
    """Something the user gave cannot be used; the message is one sentence for the user."""


def number(name: str, value: object, *, remedy: str) -> float:
    """Return ``value`` as a float, maybe not finite, if it is one real number, else raise."""
    if not isinstance(value, Real) or isinstance(value, bool):
        shown = repr(value)
        shown = shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "…"
        raise InputError(f"{name} is {shown} but must be a number; {remedy}.")
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


def sentence(error: BaseException, *, what: str = "The run") -> str:
    """What has stopped ``what``, in one line."""
    if isinstance(error, InputError):
        return str(error)
    text = " ".join(str(error).split()).rstrip(".")[:300]
    return f"{what} stopped with {type(error).__name__}: {text or 'no further words'}."
