"""Rényi accounting by dp-accounting, over orders up to 16 384."""

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
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
    with quiet(), _in_a_sentence():
        return _answer(float(_composed(history, batches).get_epsilon(delta)))


def renyi_delta(history: History, epsilon: float) -> float:
    """δ of a checked history at ``epsilon``."""
    with quiet(), _in_a_sentence():
        return float(_composed(history, POISSON).get_delta(epsilon))


def best_of_trials(history: History, delta: float, *, mean: float, shape: float) -> float:
    """The Rényi ε of publishing the best of a random number of runs (see `privacy.tuning`)."""
    from dp_accounting.dp_event import RepeatAndSelectDpEvent

    with _in_a_sentence():
        event = RepeatAndSelectDpEvent(_event(history, POISSON), mean, shape)
    with quiet(), _in_a_sentence():
        accountant = _rounded_up(_accountant().compose(event), _steps(history))
        return _answer(float(accountant.get_epsilon(delta)))


def _answer(epsilon: float) -> float:
    if math.isnan(epsilon):
        raise _refusal("its answer is no number")
    return epsilon


def _accountant(batches: Batches = POISSON) -> "dp_accounting.rdp.RdpAccountant":
    from dp_accounting import NeighboringRelation as Relation
    from dp_accounting import rdp

    fixed_size = batches.sampling == "fixed_size"
    relation = Relation.REPLACE_ONE if fixed_size else Relation.ADD_OR_REMOVE_ONE
    return rdp.RdpAccountant(_ORDERS, relation)


def _composed(history: History, batches: Batches) -> "dp_accounting.rdp.RdpAccountant":
    """The accountant after all steps; divergences add, so that each kind of step is asked once."""
    accountant = _accountant(batches)
    for sigma, rate, steps in history:
        accountant._rdp = accountant._rdp + steps * _one_step(sigma, rate, batches)
    return _rounded_up(accountant, _steps(history))


@lru_cache(maxsize=256)
def _one_step(sigma: float, rate: float, batches: Batches) -> np.ndarray:
    """The divergences of one step at each order, by dp-accounting: half a second for a new one."""
    divergences = _accountant(batches).compose(_event([(sigma, rate, 1)], batches))._rdp
    divergences.flags.writeable = False
    return divergences


def _rounded_up(
    accountant: "dp_accounting.rdp.RdpAccountant", steps: int
) -> "dp_accounting.rdp.RdpAccountant":
    """With what rounding of each step's moment may have taken added to it.

    A moment of order α is 1 + O(q²), of which a float keeps nothing where q is below about 1e-8;
    the divergence is its logarithm over α − 1.
    """
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
