"""Why a fit should not be relied on: the reasons, each as one word and in words."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from workbench.scaling.law import Law, distinct, taken

Reason = Literal[
    "",
    "too_few_points",
    "too_few_values",
    "no_interior_minimum",
    "exponent_not_identified",
    "floor_not_identified",
    "noise_follows_steps",
    "units_mixed",
]

_FLOOR_SHARE = 0.98  # of the lowest loss: a floor that may lie there is not told from the points
_LEAST_FREEDOM = 3
_COLLINEAR = 0.05  # of the variance of ln σ̄ that the other covariates must leave
_BITS = abs(np.log(np.log(2)))  # between the logarithms of a loss in bits and in nats
_REPETITIONS = ("R_D", "R_N")
_WIDEST_REPETITIONS = 100.0


class Refusal(NamedTuple):
    """A reason, and a sentence with what was seen and what to do."""

    reason: Reason
    words: str


NONE = Refusal("", "")


def before_fitting(law: Law, frame: pd.DataFrame, fixed: Mapping[str, float]) -> Refusal:
    """What the points alone tell."""
    free = len(law.parameters) - len(fixed)
    different = len(frame[list(law.columns)].drop_duplicates())
    for column in law.columns:
        count = distinct(frame, column)
        if column != "unigram_loss" and 1 < count < 3 and not _given(law, column, fixed):
            return Refusal(
                "too_few_values",
                f"{column} has only {count} different values, too few to tell how the loss "
                "falls with it; measure at least three.",
            )
    if different - free < _LEAST_FREEDOM:
        return Refusal(
            "too_few_points",
            f"There are only {different} different points for {free} parameters, too few to tell "
            f"how far to trust them; measure at least {free + _LEAST_FREEDOM}.",
        )
    if "noise_batch_ratio" in law.columns and "steps" in law.columns:
        return noise_follows_steps(frame, law.columns)
    return NONE


def noise_follows_steps(frame: pd.DataFrame, columns: tuple[str, ...]) -> Refusal:
    """Whether σ̄ can be foretold from the other covariates, as in runs of one ε.

    At one ε, σ̄ is about ρ·σ_GM·√T over the number of records: what noise does to the loss cannot
    then be told from what steps and data do.
    """
    private = taken(frame, np.asarray(frame["noise_batch_ratio"]) > 0)
    others = [c for c in ("steps", "n_params", "unique_tokens") if c in columns]
    others += ["tokens"] * ("tokens" in columns and "steps" not in columns)
    if len(private) < len(others) + 2:
        return NONE
    noise = np.log(np.asarray(private["noise_batch_ratio"], dtype=float))
    known = np.log(np.asarray(private[others], dtype=float))
    known = np.c_[np.ones(len(known)), known]
    left = noise - known @ np.linalg.lstsq(known, noise, rcond=None)[0]
    total = float(noise.var())
    if total > 0 and float((left**2).mean()) < _COLLINEAR * total:
        return Refusal(
            "noise_follows_steps",
            f"noise_batch_ratio follows from {', '.join(others)} to within "
            f"{left.std():.2g} of its logarithm, as in runs of one ε, so that what noise does "
            "cannot be told from what steps do; add runs of the same steps with other noise.",
        )
    return NONE


def after_fitting(
    law: Law,
    intervals: Mapping[str, tuple[float, float]],
    residuals: np.ndarray,
    frame: pd.DataFrame,
    fixed: Mapping[str, float],
) -> Refusal:
    """What the fit tells of itself."""
    for found in (
        _mixed_units(residuals),
        _floor(law, intervals, float(np.min(np.asarray(frame["loss"], dtype=float))), fixed),
        *(_exponent(n, intervals[n]) for n in law.exponents if n not in fixed),
        *(_repetitions(n, intervals[n]) for n in _REPETITIONS if n in intervals and n not in fixed),
    ):
        if found.reason:
            return found
    return NONE


def _mixed_units(residuals: np.ndarray) -> Refusal:
    """Some points exactly 1/ln 2 times above, or below, the law of the others."""
    for sign, unit in ((-1, "bits among nats"), (1, "nats among bits")):
        far = np.abs(residuals - sign * _BITS) < 0.08
        near = np.abs(residuals) < 0.08
        if far.sum() >= 2 and (far | near).mean() > 0.95 and far.sum() < near.sum():
            return Refusal(
                "units_mixed",
                f"{int(far.sum())} of {len(residuals)} losses lie about 1.44 times "
                f"{'above' if sign < 0 else 'below'} the law of the others, like {unit}; "
                "give all losses in one unit.",
            )
    return NONE


def _floor(
    law: Law,
    intervals: Mapping[str, tuple[float, float]],
    lowest: float,
    fixed: Mapping[str, float],
) -> Refusal:
    if law.floor is None or law.floor in fixed:
        return NONE
    low, high = intervals[law.floor]
    if low > 1e-3 * lowest and high < _FLOOR_SHARE * lowest:
        return NONE
    return Refusal(
        "floor_not_identified",
        f"The floor {law.floor} is not identified: its interval, {low:.3g} to {high:.3g}, "
        f"reaches 0 or the lowest loss {lowest:.3g}; measure larger runs, or give it by fixed.",
    )


def _exponent(name: str, interval: tuple[float, float]) -> Refusal:
    low, high = interval
    if low > 0.02 and high <= 4 * low:
        return NONE
    return Refusal(
        "exponent_not_identified",
        f"The exponent {name} is not identified: its interval is {low:.3g} to {high:.3g}; "
        "measure over a wider range.",
    )


def _repetitions(name: str, interval: tuple[float, float]) -> Refusal:
    low, high = interval
    if low > 0 and high <= _WIDEST_REPETITIONS * low:
        return NONE
    what = "data" if name == "R_D" else "parameters"
    return Refusal(
        "exponent_not_identified",
        f"{name}, what repeated {what} are worth, is not identified: its interval is {low:.3g} to "
        f"{high:.3g}; measure more repetitions, or give it by fixed.",
    )


def _given(law: Law, column: str, fixed: Mapping[str, float]) -> bool:
    """Whether how the loss falls with a column is given."""
    exponents = {"n_params": "alpha", "tokens": "beta"}
    if len(law.columns) == 1:
        return all(name in fixed for name in law.exponents)
    return law.name in ("chinchilla", "repeated_data") and exponents.get(column) in fixed
