"""From a privacy budget back to a noise multiplier or a number of steps, never overspending.

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
from workbench.privacy.accountant import SMALLEST_SIGMA, checked_history, compose, epsilon
from workbench.privacy.schedule import first_steps

_LARGEST_SIGMA = 1e6
_MOST_STEPS = 10**8


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
    target_epsilon = positive("target_epsilon", target_epsilon, remedy="choose a budget such as 8")
    shape = checked_history(history)
    smallest = SMALLEST_SIGMA / min((sigma for sigma, _, _ in shape), default=1.0)
    known: dict[float, float] = {}

    def spent(scale: float) -> float:
        if scale not in known:
            # A product may fall a rounding error below the least σ, which stands for it then.
            scaled = [(max(scale * sigma, SMALLEST_SIGMA), rate, n) for sigma, rate, n in shape]
            known[scale] = compose(scaled, delta, accountant=accountant)
        return known[scale]

    low, high = smallest, max(1.0, smallest)
    while spent(high) > target_epsilon:
        low, high = high, high * 2
        if high > _LARGEST_SIGMA:
            raise InputError(
                f"target_epsilon is {target_epsilon:g} but no noise multiplier below "
                f"{_LARGEST_SIGMA:g} reaches it; raise it or delta, or take fewer steps."
            )
    while low == smallest < high:
        below = max(high / 2, smallest)
        if spent(below) > target_epsilon:
            low = below
            break
        high = below
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
    target_epsilon = positive("target_epsilon", target_epsilon, remedy="choose a budget such as 8")
    checked_history(history)

    def spent(steps: int) -> float:
        return compose(first_steps(history, steps), delta, accountant=accountant)

    high = sum(int(steps) for _, _, steps in history)
    after = spent(high)
    if after <= target_epsilon:
        return high
    return _last_within(spent, target_epsilon, (0, 0.0), (high, after))


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
    target_epsilon = positive("target_epsilon", target_epsilon, remedy="choose a budget such as 8")

    def spent(steps: int) -> float:
        return epsilon(noise_multiplier, sample_rate, steps, delta, accountant=accountant)

    low, high = (0, 0.0), (1, spent(1))
    while high[1] <= target_epsilon:
        if high[0] >= _MOST_STEPS:
            raise InputError(
                f"target_epsilon is {target_epsilon:g} but {_MOST_STEPS:g} steps stay within it; "
                "lower the target or the noise."
            )
        more = min(high[0] * 16, _MOST_STEPS)
        low, high = high, (more, spent(more))
    return _last_within(spent, target_epsilon, low, high)


def _last_within(
    spent: Callable[[int], float],
    target: float,
    low: tuple[int, float],
    high: tuple[int, float],
) -> int:
    """Steps within the target, one more of which exceeds it, between two pairs of steps and ε.

    ε is nearly a power of the steps, so a straight line between logarithms comes close at once; as
    it comes from one side only, every second guess is the middle.
    """
    (within, least), (beyond, most) = low, high
    by_line = True
    while beyond - within > 1:
        guess = (within + beyond) // 2
        if by_line and 0 < least < target < most < math.inf:
            slope = math.log(beyond / within) / math.log(most / least)
            guess = math.floor(within * (target / least) ** slope)
        by_line = not by_line
        guess = min(max(guess, within + 1), beyond - 1)
        value = spent(guess)
        if value <= target:
            within, least = guess, value
        else:
            beyond, most = guess, value
    return within


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
