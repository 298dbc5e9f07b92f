"""The laws by their names.

Losses are nats a token; parameters and tokens are counts.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from workbench.errors import InputError
from workbench.scaling.law import Law, distinct, logs
from workbench.scaling.private_law import PrivateLaw
from workbench.scaling.repeated_data import RepeatedDataLaw
from workbench.scaling.sum_law import Covariates, SumLaw, Term


def _logs(*columns: str) -> Covariates:
    return lambda frame: logs(frame, *columns)


def _excess_and_compute(frame: pd.DataFrame) -> np.ndarray:
    """Log M and log C of M = D/N tokens a parameter and C = 6ND, (points, 2)."""
    n, d = (np.log(frame[name].to_numpy(dtype=float)) for name in ("n_params", "tokens"))
    return np.stack([d - n, np.log(6) + n + d], axis=1)


CHINCHILLA = SumLaw(
    "chinchilla",
    (Term("A", (("alpha", 0, -1.0),)), Term("B", (("beta", 1, -1.0),)), Term("E")),
    ("alpha", "beta"),
    ("n_params", "tokens"),
    _logs("n_params", "tokens"),
    "L = E + A/N^α + B/D^β",
)
OVERTRAINING = SumLaw(
    "overtraining",
    (
        Term("a", (("eta", 0, 1.0), ("eta", 1, -1.0))),
        Term("b", (("eta", 0, -1.0), ("eta", 1, -1.0))),
        Term("E"),
    ),
    ("eta",),
    ("n_params", "tokens"),
    _excess_and_compute,
    "L = E + (a·M^η + b·M^−η)·C^−η",
)


def power(column: str) -> SumLaw:
    """L = A/x^α of one covariate."""
    term = Term("A", (("alpha", 0, -1.0),))
    return SumLaw("power", (term,), ("alpha",), (column,), _logs(column), "L = A/x^α")


def power_floor(column: str) -> SumLaw:
    """L = E + A/x^α of one covariate."""
    terms = (Term("A", (("alpha", 0, -1.0),)), Term("E"))
    return SumLaw("power_floor", terms, ("alpha",), (column,), _logs(column), "L = E + A/x^α")


NOISE_POWER = SumLaw(
    "noise_power",
    (Term("A", (("gamma", 0, 1.0),)), Term("E")),
    ("gamma",),
    ("noise_batch_ratio",),
    _logs("noise_batch_ratio"),
    "L = E + A·σ̄^γ",
    may_be_zero=("noise_batch_ratio",),
)


def law_of(name: str, frame: pd.DataFrame) -> Law:
    """The law called ``name`` for this frame.

    Laws of one covariate take ``tokens``, or where those do not vary ``compute`` or ``n_params``.
    Raises `InputError` if there is no such law.
    """
    match name:
        case "chinchilla":
            return CHINCHILLA
        case "overtraining":
            return OVERTRAINING
        case "power" | "power_floor":
            return (power if name == "power" else power_floor)(_varying(frame))
        case "noise_power":
            return NOISE_POWER
        case "repeated_data":
            return RepeatedDataLaw()
        case "private":
            return PrivateLaw.of(frame)
        case _:
            raise InputError(f"law is {name!r} but must be one of {', '.join(NAMES)}; choose one.")


def _varying(frame: pd.DataFrame) -> str:
    for column in ("tokens", "compute", "n_params"):
        if column in frame and distinct(frame, column) > 1:
            return column
    raise InputError(
        "The points have no column tokens, compute or n_params whose values differ; a law of one "
        "covariate needs one."
    )


NAMES = (
    "chinchilla",
    "power",
    "power_floor",
    "overtraining",
    "repeated_data",
    "isoflop",
    "isoflop_akima",
    "noise_batch",
    "noise_power",
    "private",
)
Fixed = Mapping[str, float]
