"""Losses in nats or bits a token, perplexity, and bits a byte: interchangeable, never confused.

>>> import pandas as pd
>>> float(to_nats([20.0], "perplexity").round(3)[0])
2.996
>>> with_loss(pd.DataFrame({"perplexity": [20.0]}))["loss"].round(3).tolist()
[2.996]
>>> from_nats([2.0], "bits_per_byte", bytes_per_token=4.0).round(3).tolist()
[0.721]
"""

from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from workbench.errors import InputError, shown

Unit = Literal["nats", "bits", "perplexity", "bits_per_byte"]
UNITS: tuple[Unit, ...] = get_args(Unit)
_COLUMNS: dict[str, Unit] = {
    "loss": "nats",
    "perplexity": "perplexity",
    "bits": "bits",
    "bits_per_byte": "bits_per_byte",
}
_LARGEST_LOSS = 14.0  # nats a token: guessing evenly among 1.2 million tokens
_AGREE = 0.01  # relative, of two columns that tell the same loss


def to_nats(
    values: ArrayLike, unit: Unit, *, bytes_per_token: ArrayLike | None = None
) -> np.ndarray:
    """Losses in nats a token, of the shape of ``values``.

    Args:
        values: in ``unit``.
        unit: ``nats`` or ``bits`` a token, ``perplexity`` a token, or ``bits_per_byte``.
        bytes_per_token: for ``bits_per_byte``, of the text that the loss was measured on.

    Raises: InputError for an unknown unit, a perplexity below 1 or no bytes a token.
    """
    array = np.asarray(values, dtype=float)
    match _known(unit):
        case "nats":
            return array
        case "bits":
            return array * np.log(2)
        case "perplexity":
            if (array < 1).any():
                raise InputError(
                    f"perplexity is {array[array < 1].min():g} but is at least 1 for any model; if "
                    "these are losses in nats, call the column loss."
                )
            return np.log(array)
        case "bits_per_byte":
            return array * np.log(2) * _bytes(bytes_per_token)


def from_nats(
    loss: ArrayLike, unit: Unit, *, bytes_per_token: ArrayLike | None = None
) -> np.ndarray:
    """Losses of nats a token in ``unit``; arguments and errors as in `to_nats`."""
    array = np.asarray(loss, dtype=float)
    match _known(unit):
        case "nats":
            return array
        case "bits":
            return array / np.log(2)
        case "perplexity":
            return np.exp(array)
        case "bits_per_byte":
            return array / np.log(2) / _bytes(bytes_per_token)


def with_loss(frame: pd.DataFrame, unit: Unit | None = None) -> pd.DataFrame:
    """The frame with a column ``loss`` in nats a token, from whichever column tells it.

    Args:
        frame: has ``loss``, ``perplexity``, ``bits`` (a token) or ``bits_per_byte`` (then also
            ``bytes_per_token``); a column ``unit`` says what ``loss`` is in.
        unit: what ``loss`` is in, nats if neither this nor a column says.

    Raises: InputError if none is there, two disagree, or units are mixed.
    """
    there = [name for name in _COLUMNS if name in frame]
    if not there:
        raise InputError(
            f"The points have no column {', '.join(_COLUMNS)} to tell the loss from; give one."
        )
    nats = {}
    for name in there:
        own = _unit_of(frame, unit) if name == "loss" else _COLUMNS[name]
        per_token = frame.get("bytes_per_token")
        try:
            nats[name] = to_nats(frame[name].to_numpy(), own, bytes_per_token=per_token)
        except (TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{name} holds something that is no number; give numbers only."
            ) from None
    first = there[0]
    for name in there[1:]:
        off = np.abs(nats[name] / nats[first] - 1)
        if (off > _AGREE).any():
            row = int(np.argmax(off > _AGREE))
            raise InputError(
                f"{name} and {first} tell different losses in row {row} ({nats[name][row]:.4g} and "
                f"{nats[first][row]:.4g} nats); mend one or leave it out."
            )
    return frame.assign(loss=nats[first]).drop(columns=["unit"], errors="ignore")


def refuse_other_units(frame: pd.DataFrame, losses: np.ndarray) -> None:
    """Raise `InputError` where ``losses`` cannot be nats a token."""
    if "unit" in frame and (unit := _unit_of(frame, None)) != "nats":
        raise InputError(
            f"unit is {shown(unit)} but the law takes losses in nats; convert them with "
            "scaling.with_loss."
        )
    too_high = losses > _LARGEST_LOSS
    if too_high.any():
        row = int(np.argmax(too_high))
        raise InputError(
            f"loss is {losses[row]:g} in row {row} but a loss in nats a token is at most "
            f"{_LARGEST_LOSS:g}; if the column holds perplexities, call it perplexity."
        )
    if "unigram_loss" in frame and (losses > 1.5 * frame["unigram_loss"].to_numpy(float)).any():
        row = int(np.argmax(losses > 1.5 * frame["unigram_loss"].to_numpy(float)))
        raise InputError(
            f"loss is {losses[row]:g} in row {row}, far above the unigram_loss "
            f"{frame['unigram_loss'].iloc[row]:g} of a model that only counts tokens; check the "
            "unit, or leave out the run, which has diverged."
        )


def _unit_of(frame: pd.DataFrame, given: Unit | None) -> Unit:
    if "unit" not in frame:
        return given or "nats"
    units = frame["unit"].unique().tolist()
    if len(units) > 1:
        raise InputError(
            f"unit is {' in some rows and '.join(map(shown, units[:2]))} in others; give all "
            "losses in one unit."
        )
    if given is not None and units[0] != given:
        raise InputError(
            f"unit is {shown(units[0])} in the points but {given} was asked for; give one of both."
        )
    return _known(units[0])


def _known(unit: object) -> Unit:
    for name in UNITS:
        if unit == name:
            return name
    raise InputError(f"unit is {shown(unit)} but must be one of {', '.join(UNITS)}; choose one.")


def _bytes(per_token: ArrayLike | None) -> np.ndarray:
    if per_token is None:
        raise InputError(
            "bits_per_byte needs bytes_per_token, the mean length of a token; give that, too."
        )
    array = np.asarray(per_token, dtype=float)
    if not (np.isfinite(array) & (array > 0)).all():
        raise InputError("bytes_per_token must be a finite number above 0; give the mean length.")
    return array
