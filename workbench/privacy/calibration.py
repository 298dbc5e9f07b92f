"""From a budget back to a noise multiplier or a number of steps, never overspending.

>>> from workbench.privacy.accountant import epsilon
>>> sigma = noise_multiplier(8.0, 0.01, 1000, 1e-5)
>>> epsilon(sigma, 0.01, 1000, 1e-5) <= 8.0
True
"""

import math
from collections.abc import Callable, Sequence

from scipy.optimize import root_scalar

from workbench.config import Accountant
from workbench.errors import InputError, positive
from workbench.privacy.accountant import SMALLEST_SIGMA, compose, epsilon
from workbench.privacy.schedule import first_steps

_LARGEST_SIGMA = 1e6


def noise_multiplier(
    target_epsilon: float,
    sample_rate: float,
    steps: int,
    delta: float,
    *,
    accountant: Accountant = "pld",
) -> float:
    """The smallest σ, rounded up to four digits, whose certified ε is at most the target.

    Never too small: the returned σ itself was accounted. Raises `InputError` if no σ below 10⁶
    suffices.
    """
    history = [(1.0, sample_rate, steps)]
    return noise_scale(target_epsilon, history, delta, accountant=accountant)


def noise_scale(
    target_epsilon: float,
    history: Sequence[tuple[float, float, int]],
    delta: float,
    *,
    accountant: Accountant = "pld",
) -> float:
    """The smallest factor on every σ of ``history``, rounded up, that keeps within the target.

    ``history`` gives the shape of a schedule as ``[(noise_multiplier, sample_rate, steps), …]``;
    otherwise as `noise_multiplier`, which is this for a constant σ of 1.
    """
    positive("target_epsilon", target_epsilon, remedy="choose a budget such as 8")
    smallest = SMALLEST_SIGMA / min(sigma for sigma, _, _ in history)

    def spent(scale: float) -> float:
        scaled = [(scale * sigma, rate, steps) for sigma, rate, steps in history]
        return compose(scaled, delta, accountant=accountant)

    low, high = smallest, max(1.0, smallest)
    while spent(high) > target_epsilon:
        low, high = high, high * 2
        if high > _LARGEST_SIGMA:
            raise InputError(
                f"target_epsilon is {target_epsilon:g} but no noise multiplier below "
                f"{_LARGEST_SIGMA:g} reaches it; raise it or delta, or take fewer steps."
            )
    while low == smallest and high > smallest:
        below = max(high / 2, smallest)
        low, high = (low, below) if spent(below) <= target_epsilon else (below, high)
    if high == smallest:
        return high
    bracketed = root_scalar(
        lambda scale: spent(scale) - target_epsilon, bracket=(low, high), rtol=1e-5
    )
    return _rounded_up_within(bracketed.root, lambda scale: spent(scale) <= target_epsilon)


def steps_within(
    target_epsilon: float,
    history: Sequence[tuple[float, float, int]],
    delta: float,
    *,
    accountant: Accountant = "pld",
) -> int:
    """How many steps of ``history``, from its beginning, keep within the target; maybe all."""
    positive("target_epsilon", target_epsilon, remedy="choose a budget such as 8")

    def within(steps: int) -> bool:
        return compose(first_steps(history, steps), delta, accountant=accountant) <= target_epsilon

    low, high = 0, sum(steps for _, _, steps in history)
    if within(high):
        return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if within(middle) else (low, middle)
    return low


def max_steps(
    target_epsilon: float,
    noise_multiplier: float,
    sample_rate: float,
    delta: float,
    *,
    accountant: Accountant = "pld",
) -> int:
    """The most steps whose certified ε is at most the target; 0 if one step already exceeds it.

    Raises `InputError` if even 10⁸ steps stay within it.
    """
    positive("target_epsilon", target_epsilon, remedy="choose a budget such as 8")

    def within(steps: int) -> bool:
        spent = epsilon(noise_multiplier, sample_rate, steps, delta, accountant=accountant)
        return spent <= target_epsilon

    low, high = 0, 1
    while within(high):
        low, high = high, high * 4
        if low >= 10**8:
            raise InputError(
                f"target_epsilon is {target_epsilon:g} but 1e8 steps stay within it; "
                "lower the target or the noise."
            )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if within(middle) else (low, middle)
    return low


def _rounded_up_within(sigma: float, within: Callable[[float], bool]) -> float:
    """The least four-digit number near ``sigma`` that is ``within`` the budget."""
    digits = 3 - math.floor(math.log10(sigma))
    tick = 10.0**-digits
    rounded = round(math.ceil(sigma / tick) * tick, digits)
    while not within(rounded):
        rounded = round(rounded + tick, digits)
    while within(round(rounded - tick, digits)):
        rounded = round(rounded - tick, digits)
    return rounded
