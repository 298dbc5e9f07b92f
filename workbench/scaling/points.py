"""Measured points as a table, checked before anything is fitted to them."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from workbench.errors import InputError
from workbench.scaling.law import Law, distinct
from workbench.scaling.units import refuse_other_units

_LONGEST = 60  # characters of a list of columns in a message


def checked(frame: pd.DataFrame, law: Law, fixed: Mapping[str, float]) -> pd.DataFrame:
    """The rows of ``frame`` with every value a law needs in bounds, and ``run`` if there is one.

    Raises `InputError` for missing columns, values that are no finite numbers above 0, losses that
    look like perplexities or are in mixed units, points given twice, covariates that never change,
    and no more points than parameters.
    """
    kept = checked_covariates(frame, law)
    kept["loss"] = checked_losses(frame)
    columns, parameters = list(law.columns), len(law.parameters) - len(fixed)
    different = len(kept[columns].drop_duplicates())
    if different <= parameters:
        raise InputError(
            f"There are {different} different points for {parameters} parameters; measure more, or "
            "give some parameters by fixed."
        )
    refuse_copies(frame)
    for column in columns:
        if distinct(kept, column) == 1 and column not in _CONSTANTS and not _given(law, fixed):
            raise InputError(
                f"{column} is {kept[column].iloc[0]:g} in every row, so that the law {law.name} "
                "cannot tell how the loss falls with it; measure at least three values, or choose "
                "a law without it."
            )
    return kept.assign(run=frame["run"].to_numpy()) if "run" in frame else kept


_CONSTANTS = ("unigram_loss", "expected_batch_size")  # may be the same in all rows


def checked_losses(frame: pd.DataFrame) -> np.ndarray:
    """The column ``loss`` in nats a token, (rows,); raise `InputError` for what cannot be one."""
    losses = checked_column(frame, "loss")
    refuse_other_units(frame, losses)
    return losses


def checked_covariates(frame: pd.DataFrame, law: Law) -> pd.DataFrame:
    """The columns that a law reads as floats; raise `InputError` unless all are in bounds."""
    require(frame, law.columns)
    optional = [name for name in getattr(law, "optional", ()) if name in frame]
    values = {
        name: checked_column(frame, name, zero=name in law.may_be_zero)
        for name in (*law.columns, *optional)
    }
    return pd.DataFrame(values, index=frame.index)


def require(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    """Raise `InputError` if a column is missing or there are no rows."""
    missing = [name for name in columns if name not in frame]
    if missing:
        there = ", ".join(map(str, frame.columns)) or "none"
        there = there if len(there) <= _LONGEST else f"{there[:_LONGEST]} …"
        raise InputError(
            f"The points have no column {', '.join(missing)} but only {there}; name the columns as "
            "the law does."
        )
    if frame.empty:
        raise InputError("There are no points; give some.")


def checked_column(frame: pd.DataFrame, name: str, *, zero: bool = False) -> np.ndarray:
    """A column as floats, (rows,); raise `InputError` unless all are finite and above 0.

    With ``zero``, 0 is allowed, too.
    """
    require(frame, [name])
    try:
        numbers = frame[name].to_numpy(dtype=float)
    except (TypeError, ValueError):
        raise InputError(f"{name} holds something that is no number; give numbers only.") from None
    low = (numbers >= 0) if zero else (numbers > 0)
    if (row := first(~(np.isfinite(numbers) & low))) is not None:
        bound = "of at least 0" if zero else "above 0"
        raise InputError(
            f"{name} is {numbers[row]:g} in row {row} but must be a finite number {bound}; "
            "leave that row out."
        )
    return numbers


def refuse_copies(frame: pd.DataFrame) -> None:
    """Raise `InputError` if two rows are the same in every column."""
    copies = frame.duplicated().to_numpy()
    if (row := first(copies)) is not None:
        same = first((frame == frame.iloc[row]).all(axis=1).to_numpy())
        raise InputError(
            f"Row {row} is the same as row {same} in every column, so that one measurement would "
            "count twice; leave one out, or tell repeated runs apart by a column run."
        )


def runs(frame: pd.DataFrame) -> np.ndarray:
    """Which run each point is of, as numbers from 0; each is its own without a column ``run``."""
    if "run" not in frame:
        return np.arange(len(frame))
    return pd.factorize(frame["run"])[0]


def ranges(frame: pd.DataFrame, columns: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Least and greatest value above 0 of each column."""
    found = {}
    for name in columns:
        values = frame[name].to_numpy(dtype=float)
        values = values[values > 0]
        found[name] = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
    return found


def first(wrong: np.ndarray) -> int | None:
    """The first row where something is wrong."""
    return int(np.argmax(wrong)) if wrong.any() else None


def _given(law: Law, fixed: Mapping[str, float]) -> bool:
    """Whether all exponents are given, so that nothing has to be told from how covariates vary."""
    return all(name in fixed for name in law.exponents)
