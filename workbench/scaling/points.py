"""Measured points as a table, checked before anything is fitted to them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from workbench.errors import InputError

_LARGEST_LOSS = 30.0  # nats a token; a model that guesses among 1e13 tokens has as much


def checked(frame: pd.DataFrame, columns: Sequence[str], *, parameters: int) -> pd.DataFrame:
    """The rows of ``frame`` with every value a law needs in bounds.

    Raises `InputError` for missing columns, values that are no finite numbers above 0, losses that
    look like perplexities, and no more points than ``parameters``.
    """
    covariates = checked_covariates(frame, [*columns, "loss"])
    losses = covariates["loss"].to_numpy(dtype=float)
    if (row := _first(losses > _LARGEST_LOSS)) is not None:
        raise InputError(
            f"loss is {losses[row]:g} in row {row} but a loss in nats a token is at most "
            f"{_LARGEST_LOSS:g}; if the column holds perplexities, give their logarithms."
        )
    distinct = len(covariates[list(columns)].drop_duplicates())
    if distinct <= parameters:
        raise InputError(
            f"There are {distinct} different points for {parameters} parameters; measure more, or "
            "give some parameters by fixed."
        )
    kept = covariates.copy()
    if "run" in frame:
        kept["run"] = frame["run"].to_numpy()
    return kept


def checked_covariates(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The columns as floats; raise `InputError` unless all are finite numbers above 0."""
    missing = [name for name in columns if name not in frame]
    if missing:
        raise InputError(
            f"The points have no column {', '.join(missing)} but only "
            f"{', '.join(map(str, frame.columns)) or 'none'}; name the columns as the law does."
        )
    if frame.empty:
        raise InputError("There are no points; give some.")
    values = {}
    for name in columns:
        try:
            numbers = frame[name].to_numpy(dtype=float)
        except (TypeError, ValueError):
            raise InputError(
                f"{name} holds something that is no number; give numbers only."
            ) from None
        if (row := _first(~(np.isfinite(numbers) & (numbers > 0)))) is not None:
            raise InputError(
                f"{name} is {numbers[row]:g} in row {row} but must be a finite number above 0; "
                "leave that row out."
            )
        values[name] = numbers
    return pd.DataFrame(values, index=frame.index)


def runs(frame: pd.DataFrame) -> np.ndarray:
    """Which run each point is of, as numbers from 0; each is its own without a column ``run``."""
    if "run" not in frame:
        return np.arange(len(frame))
    return pd.factorize(frame["run"])[0]


def _first(wrong: np.ndarray) -> int | None:
    return int(np.argmax(wrong)) if wrong.any() else None
