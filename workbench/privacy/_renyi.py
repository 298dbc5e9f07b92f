"""Rényi accounting by dp-accounting, over orders up to 16 384."""

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from workbench.errors import InputError
from workbench.privacy._losses import POISSON, Batches
from workbench.privacy.schedule import History

if TYPE_CHECKING:
    import dp_accounting

_ORDERS = (
    [1.001, 1.01, 1.02, 1.05]
    + [1 + tenth / 10 for tenth in range(1, 100)]
    + list(range(11, 64))
    + [round(64 * 2 ** (half / 2)) for half in range(17)]
)
_ROUNDING = 64 * 2.0**-53  # of log E[(P/Q)^α], a step


def renyi_epsilon(history: History, delta: float, batches: Batches = POISSON) -> float:
    """ε of a checked history at ``delta``."""
    fixed_size = batches.sampling == "fixed_size"
    return _epsilon(_event(history, batches), _steps(history), delta, fixed_size=fixed_size)


def renyi_delta(history: History, epsilon: float) -> float:
    """δ of a checked history at ``epsilon``."""
    with quiet(), _in_a_sentence():
        accountant = _accountant(_event(history, POISSON), _steps(history), fixed_size=False)
        return float(accountant.get_delta(epsilon))


def best_of_trials(history: History, delta: float, *, mean: float, shape: float) -> float:
    """The Rényi ε of publishing the best of a random number of runs (see `privacy.tuning`)."""
    from dp_accounting.dp_event import RepeatAndSelectDpEvent

    with _in_a_sentence():
        event = RepeatAndSelectDpEvent(_event(history, POISSON), mean, shape)
    return _epsilon(event, _steps(history), delta, fixed_size=False)


def _epsilon(
    event: "dp_accounting.DpEvent", steps: int, delta: float, *, fixed_size: bool
) -> float:
    with quiet(), _in_a_sentence():
        epsilon = float(_accountant(event, steps, fixed_size=fixed_size).get_epsilon(delta))
    if math.isnan(epsilon):
        raise _refusal("its answer is no number")
    return epsilon


def _accountant(
    event: "dp_accounting.DpEvent", steps: int, *, fixed_size: bool
) -> "dp_accounting.rdp.RdpAccountant":
    """The composed event, with what rounding of each step's moment may have taken added to it.

    A moment of order α is 1 + O(q²), of which a float keeps nothing where q is below about 1e-8;
    the divergence is its logarithm over α − 1.
    """
    from dp_accounting import NeighboringRelation as Relation
    from dp_accounting import rdp

    relation = Relation.REPLACE_ONE if fixed_size else Relation.ADD_OR_REMOVE_ONE
    accountant = rdp.RdpAccountant(_ORDERS, relation).compose(event)
    orders = np.asarray(_ORDERS)
    accountant._rdp = accountant._rdp + steps * _ROUNDING * orders / (orders - 1)
    return accountant


@contextmanager
def _in_a_sentence() -> Iterator[None]:
    """What dp-accounting cannot compute is refused."""
    try:
        yield
    except (ArithmeticError, ValueError, AssertionError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise _refusal(reason) from None


def _refusal(reason: str) -> InputError:
    return InputError(
        f"The Rényi accountant cannot follow these steps ({reason}); choose values that are less "
        "extreme."
    )


def _steps(history: History) -> int:
    return sum(steps for _, _, steps in history)


@contextmanager
def quiet() -> Iterator[None]:
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
