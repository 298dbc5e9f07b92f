"""What choosing the best of several private runs costs in privacy.

Publishing only the best of k runs is not free: the choice itself depends on the private data.

>>> run = [(1.0, 0.01, 1000)]
>>> composed_trials(run, 1e-5, trials=1) < composed_trials(run, 1e-5, trials=10)
True
"""

import math
from collections.abc import Sequence
from typing import Literal

from workbench.config import Accountant
from workbench.errors import InputError, number, probability, whole
from workbench.privacy._renyi import best_of_trials
from workbench.privacy.accountant import checked_history, compose

TrialCount = Literal["geometric", "poisson", "logarithmic"]
_SHAPES: dict[TrialCount, float] = {
    "logarithmic": 0.0,
    "geometric": 1.0,
    "poisson": float("inf"),
}


def composed_trials(
    history: Sequence[tuple[float, float, int]],
    delta: float,
    *,
    trials: int,
    accountant: Accountant = "pld",
) -> float:
    """ε of ``trials`` runs of the same history, all of them published: plain composition."""
    trials = whole("trials", trials, least=1, remedy="count the runs you tuned with")
    repeated = [(sigma, rate, steps * trials) for sigma, rate, steps in checked_history(history)]
    return compose(repeated, delta, accountant=accountant)


def random_trials(
    history: Sequence[tuple[float, float, int]],
    delta: float,
    *,
    mean_trials: float,
    distribution: TrialCount = "poisson",
) -> float:
    """ε of publishing only the best of a *random* number of runs, with the given mean.

    Papernot & Steinke 2022 (2110.03620): Theorem 2 for the geometric and logarithmic, Theorem 6
    for the Poisson distribution, as dp-accounting's Rényi accountant evaluates them. The number
    must really be drawn at random and kept secret. It holds for Rényi accounting, so compare it
    with ``composed_trials(..., accountant="rdp")``; it may exceed the PLD's composition.
    """
    probability("delta", delta, remedy="choose one well below 1/N, such as 1e-5")
    if not isinstance(distribution, str) or distribution not in _SHAPES:
        raise InputError(
            f"distribution is {distribution!r} but must be one of {', '.join(_SHAPES)}; choose one."
        )
    least = 0.0 if distribution == "poisson" else 1.0
    mean_trials = number("mean_trials", mean_trials, remedy="say how many runs to expect")
    if not (math.isfinite(mean_trials) and mean_trials > least):
        raise InputError(
            f"mean_trials is {mean_trials:g} but must be finite and above {least:g} for a "
            f"{distribution} number of trials; expect more runs."
        )
    checked = checked_history(history)
    if not checked:
        return 0.0
    return best_of_trials(checked, delta, mean=mean_trials, shape=_SHAPES[distribution])
