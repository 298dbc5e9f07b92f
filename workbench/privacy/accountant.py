"""Certified (ε, δ) of DP-SGD.

What happened is a *history* ``[(noise_multiplier, sample_rate, steps), …]``; how it is accounted is
one of three published accountants: ``pld`` (Google's dp-accounting, pessimistic discretisation,
refined here until ε settles), ``rdp`` (dp-accounting, orders up to 16 384) and ``prv`` (Opacus,
Gopi et al. 2021, its upper bound). Neighbours differ by adding or removing one record, except under
``fixed_size`` sampling, where one record is replaced.

>>> round(epsilon(1.0, 0.01, 10_000, 1e-5), 2)
6.19
"""

import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.config import Accountant, NeighbouringRelation, Sampling
from workbench.errors import InputError, positive, probability, whole
from workbench.privacy.pld import POISSON, Batches, rounding, settled
from workbench.privacy.schedule import History

if TYPE_CHECKING:
    import dp_accounting

SMALLEST_SIGMA = 0.01  # below this ε is in the thousands after one step at any useful sample rate
_MOST = 1e9  # of σ and of steps; far beyond it the accountants' own numbers overflow
_TYPICAL_DELTA = 1e-6  # only scales the first discretisation where δ is what is asked for
_RDP_ORDERS = (
    [1.001, 1.01, 1.02, 1.05]
    + [1 + tenth / 10 for tenth in range(1, 100)]
    + list(range(11, 64))
    + [round(64 * 2 ** (half / 2)) for half in range(17)]
)


@dataclass(frozen=True)
class Guarantee:
    """An ε with everything it means nothing without."""

    epsilon: float
    delta: float
    accountant: Accountant
    sampling: Sampling = "poisson"
    neighbouring_relation: NeighbouringRelation = "add_or_remove_one"
    unit: str = "record"

    def as_dict(self) -> dict[str, float | str | None]:
        """Its fields, for JSON, which has no infinity: null is the ε of what is not private."""
        return {**asdict(self), "epsilon": self.epsilon if math.isfinite(self.epsilon) else None}

    def __str__(self) -> str:
        relation = self.neighbouring_relation.replace("_", " ")
        sampling = self.sampling.replace("_", " ")
        return (
            f"ε = {written_epsilon(self.epsilon)} at δ = {self.delta:.3g} "
            f"({self.accountant.upper()}, {sampling} sampling, {relation} {self.unit})"
        )


def rounded_up(value: float, digits: int) -> float:
    """``value`` to so many significant digits, never smaller by more than 1e-9 of the last one."""
    if not (math.isfinite(value) and value > 0):
        return value
    unit = 10.0 ** (math.floor(math.log10(value)) - digits + 1)
    return math.ceil(value / unit - 1e-9) * unit


def written_epsilon(epsilon: float) -> str:
    """ε to four digits, rounded up, as everything that is called certified is written."""
    if epsilon in (0, math.inf):
        return "∞" if epsilon else "0"
    return f"{rounded_up(epsilon, 4):#.4g}".rstrip(".")


def epsilon(
    noise_multiplier: float,
    sample_rate: float,
    steps: int,
    delta: float,
    *,
    accountant: Accountant = "pld",
    sampling: Sampling = "poisson",
    dataset_size: int | None = None,
    truncated_batch_size: int | None = None,
) -> float:
    """The smallest certified ε of ``steps`` equal DP-SGD steps at ``delta``.

    ``sample_rate`` is expected batch size over data set size. ``truncated_poisson`` also needs
    ``dataset_size`` and ``truncated_batch_size``; ``fixed_size`` needs ``dataset_size`` and
    ``accountant="rdp"``; ``shuffle`` is refused. Raises `InputError` on anything outside its
    bounds.
    """
    return compose(
        [(noise_multiplier, sample_rate, steps)],
        delta,
        accountant=accountant,
        sampling=sampling,
        dataset_size=dataset_size,
        truncated_batch_size=truncated_batch_size,
    )


def compose(
    history: Sequence[tuple[float, float, int]],
    delta: float,
    *,
    accountant: Accountant = "pld",
    sampling: Sampling = "poisson",
    dataset_size: int | None = None,
    truncated_batch_size: int | None = None,
) -> float:
    """The certified ε of a heterogeneous history; the order of its parts does not matter."""
    probability("delta", delta, remedy="choose one well below 1/N, such as 1e-5")
    checked = checked_history(history)
    if not checked:
        return 0.0
    batches = Batches(sampling, dataset_size, truncated_batch_size)
    _refuse_what_is_not_covered(accountant, batches)
    match accountant:
        case "pld":
            return _pld_epsilon(checked, delta, batches)
        case "rdp":
            return float(_rdp(checked, batches).get_epsilon(delta))
        case "prv":
            return _prv_epsilon(checked, delta)


def delta(
    noise_multiplier: float,
    sample_rate: float,
    steps: int,
    epsilon: float,
    *,
    accountant: Accountant = "pld",
) -> float:
    """The smallest certified δ at ``epsilon`` ≥ 0; ``prv`` has none and is refused."""
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise InputError(f"epsilon is {epsilon:g} but must be finite and at least 0; choose one.")
    checked = checked_history([(noise_multiplier, sample_rate, steps)])
    match accountant:
        case "pld":
            value, trusted = settled(
                lambda pld: float(pld.get_delta_for_epsilon(epsilon)), checked, delta=_TYPICAL_DELTA
            )
            value += rounding(checked)
            return value if trusted else min(value, float(_rdp(checked).get_delta(epsilon)))
        case "rdp":
            return float(_rdp(checked).get_delta(epsilon))
        case _:
            raise InputError(
                "accountant is 'prv' but it gives no δ at a given ε; choose 'pld' or 'rdp'."
            )


def checked_history(history: Sequence[tuple[float, float, int]]) -> History:
    """The history with every field in bounds, equal mechanisms merged, parts in a fixed order.

    Sorting makes the result independent of the order to the last bit.
    """
    merged: dict[tuple[float, float], int] = {}
    for noise_multiplier, sample_rate, steps in history:
        positive("noise_multiplier", noise_multiplier, remedy="add noise, for example 1.0")
        if noise_multiplier < SMALLEST_SIGMA:
            raise InputError(
                f"noise_multiplier is {noise_multiplier:g} but accounting starts at "
                f"{SMALLEST_SIGMA:g}; add more noise."
            )
        probability(
            "sample_rate", sample_rate, one=True, remedy="keep the batch within the data set"
        )
        steps = whole("steps", steps, least=0, remedy="count optimizer steps")
        for name, value in (("noise_multiplier", noise_multiplier), ("steps", steps)):
            if value > _MOST:
                raise InputError(
                    f"{name} is {value:g} but accounting ends at {_MOST:g}; choose a smaller one."
                )
        key = (float(noise_multiplier), float(sample_rate))
        merged[key] = merged.get(key, 0) + steps
    return [(sigma, rate, steps) for (sigma, rate), steps in sorted(merged.items()) if steps]


def _refuse_what_is_not_covered(accountant: Accountant, batches: Batches) -> None:
    """Raise `InputError` where no published accountant holds for the sampling scheme."""
    match batches.sampling:
        case "poisson":
            return
        case "shuffle":
            raise InputError(
                "sampling is 'shuffle' but no accountant here covers shuffled batches, and Poisson "
                "accounting can understate their ε (Chua et al. 2024, arXiv 2403.17673); sample "
                "with 'poisson'."
            )
        case "truncated_poisson":
            needed, allowed = {"dataset_size", "truncated_batch_size"}, "pld"
        case "fixed_size":
            needed, allowed = {"dataset_size"}, "rdp"
        case _:
            raise InputError(
                f"sampling is {batches.sampling!r} but must be poisson, truncated_poisson or "
                "fixed_size; choose one."
            )
    if accountant != allowed:
        raise InputError(
            f"accountant is {accountant!r} but {batches.sampling!r} sampling is covered only by "
            f"{allowed!r}; choose that."
        )
    missing = sorted(name for name in needed if getattr(batches, name) is None)
    if missing:
        raise InputError(
            f"{batches.sampling!r} sampling needs {' and '.join(missing)}; give a value."
        )


def _pld_epsilon(history: History, delta: float, batches: Batches) -> float:
    """The settled reading; where rounding drowns it, the Rényi bound if that is lower."""
    target = delta - rounding(history)
    if target > 0:
        value, trusted = settled(
            lambda pld: float(pld.get_epsilon_for_delta(target)),
            history,
            delta=delta,
            batches=batches,
        )
        if trusted:
            return value
    if batches.sampling != "poisson":
        raise InputError(
            f"delta is {delta:g} but over so many steps a privacy loss distribution cannot resolve "
            "it; raise delta."
        )
    return float(_rdp(history, batches).get_epsilon(delta))


def rdp_of_best(history: History, delta: float, *, mean: float, shape: float) -> float:
    """The Rényi ε of publishing the best of a random number of runs (see `privacy.tuning`)."""
    from dp_accounting.dp_event import RepeatAndSelectDpEvent

    event = RepeatAndSelectDpEvent(_event(history, POISSON), mean, shape)
    return float(_rdp_of(event, fixed_size=False).get_epsilon(delta))


def _rdp(history: History, batches: Batches = POISSON) -> "dp_accounting.rdp.RdpAccountant":
    """dp-accounting's Rényi accountant, composed."""
    return _rdp_of(_event(history, batches), fixed_size=batches.sampling == "fixed_size")


def _rdp_of(
    event: "dp_accounting.DpEvent", *, fixed_size: bool
) -> "dp_accounting.rdp.RdpAccountant":
    from dp_accounting import NeighboringRelation as Relation
    from dp_accounting import rdp

    relation = Relation.REPLACE_ONE if fixed_size else Relation.ADD_OR_REMOVE_ONE
    with _quiet():
        return rdp.RdpAccountant(_RDP_ORDERS, relation).compose(event)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the libraries' remarks on orders they leave out, which is safe: ε only rises."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _event(history: History, batches: Batches) -> "dp_accounting.DpEvent":
    """What happened, as dp-accounting describes it."""
    import dp_accounting as dp

    def one(sigma: float, rate: float) -> "dp_accounting.DpEvent":
        gaussian = dp.GaussianDpEvent(sigma)
        if batches.sampling == "fixed_size":
            assert batches.dataset_size is not None
            size = batches.dataset_size
            return dp.SampledWithoutReplacementDpEvent(size, round(rate * size), gaussian)
        return dp.PoissonSampledDpEvent(rate, gaussian)

    return dp.ComposedDpEvent(
        [dp.SelfComposedDpEvent(one(sigma, rate), steps) for sigma, rate, steps in history]
    )


def _prv_epsilon(history: History, delta: float) -> float:
    """Opacus's numerical accountant: an upper bound that adds its ε error of 0.01."""
    from opacus.accountants import PRVAccountant

    accountant: Any = PRVAccountant()
    accountant.history = list(history)
    try:
        with _quiet():
            return float(accountant.get_epsilon(delta))
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"Opacus's PRV accountant cannot follow these steps ({reason}); choose 'pld'."
        ) from None
