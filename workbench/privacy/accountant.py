"""Certified (ε, δ) of DP-SGD.

What happened is a *history* ``[(noise_multiplier, sample_rate, steps), …]``; how it is accounted is
one of three published ways: ``pld`` (the privacy loss distribution, rounded up by connecting the
dots as in Google's dp-accounting and refined until ε settles), ``rdp`` (dp-accounting's Rényi
accountant, orders up to 16 384) and ``prv`` (Opacus, Gopi et al. 2021, its upper bound). Neighbours
differ by adding or removing one record, except under ``fixed_size`` sampling, where one record is
replaced.

>>> round(epsilon(1.0, 0.01, 10_000, 1e-5), 2)
6.19
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from workbench.config import Accountant, Sampling
from workbench.errors import InputError, number, positive, probability, whole
from workbench.privacy import _prv, _renyi
from workbench.privacy.pld import POISSON, Batches, settled_delta, settled_epsilon
from workbench.privacy.schedule import History
from workbench.privacy.written import rounded_up, written_epsilon

__all__ = [
    "SMALLEST_SIGMA",
    "StatedBy",
    "certified",
    "checked_history",
    "compose",
    "delta",
    "epsilon",
    "rounded_up",
    "written_epsilon",
]

StatedBy = Literal["pld", "rdp", "prv", "rdp_in_place_of_pld"]
"""What an ε comes from; the last where the loss distribution did not settle and Rényi is lower."""

SMALLEST_SIGMA = 0.01  # below this ε is in the thousands after one step at any useful sample rate
_MOST = 1e9  # of σ and of steps; far beyond it the accountants' own numbers overflow
_MOST_RENYI = 32  # parts for which a Rényi bound is compared, a fifth of a second each
_ACCOUNTANTS = ("pld", "rdp", "prv")


class Certified(NamedTuple):
    """A certified ε, and what it comes from."""

    epsilon: float
    stated_by: StatedBy


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
    ``dataset_size`` and ``truncated_batch_size``; ``fixed_size`` needs ``dataset_size``, of which
    ``sample_rate`` is a whole number of records, and ``accountant="rdp"``; ``shuffle`` is refused.
    Raises `InputError` on anything outside its bounds.
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
    batches = Batches(sampling, dataset_size, truncated_batch_size)
    return certified(history, delta, accountant=accountant, batches=batches).epsilon


def certified(
    history: Sequence[tuple[float, float, int]],
    delta: float,
    *,
    accountant: Accountant,
    batches: Batches = POISSON,
) -> Certified:
    """As `compose`, with what the ε really comes from."""
    delta = probability("delta", delta, remedy="choose one well below 1/N, such as 1e-5")
    checked = checked_history(history)
    batches = _checked_batches(accountant, batches, checked)
    if not checked or (batches.sampling == "poisson" and _never_seen(checked, delta)):
        return Certified(0.0, accountant)
    match accountant:
        case "pld":
            return _by_pld(checked, delta, batches)
        case "rdp":
            return Certified(_renyi.renyi_epsilon(checked, delta, batches), "rdp")
        case _:
            return Certified(_prv.prv_epsilon(checked, delta), "prv")


def delta(
    noise_multiplier: float,
    sample_rate: float,
    steps: int,
    epsilon: float,
    *,
    accountant: Accountant = "pld",
) -> float:
    """The smallest certified δ at ``epsilon`` ≥ 0; ``prv`` has none and is refused."""
    epsilon = number("epsilon", epsilon, remedy="choose one such as 8")
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise InputError(f"epsilon is {epsilon:g} but must be finite and at least 0; choose one.")
    checked = checked_history([(noise_multiplier, sample_rate, steps)])
    _known(accountant)
    if accountant == "prv":
        raise InputError(
            "accountant is 'prv' but it gives no δ at a given ε; choose 'pld' or 'rdp'."
        )
    if not checked:
        return 0.0
    if accountant == "rdp":
        return _renyi.renyi_delta(checked, epsilon)
    value, settled, _ = settled_delta(checked, epsilon)
    return value if settled else min(value, _renyi.renyi_delta(checked, epsilon))


def checked_history(history: Sequence[tuple[float, float, int]]) -> History:
    """The history with every field in bounds, equal mechanisms merged, parts in a fixed order.

    Sorting makes the result independent of the order to the last bit.
    """
    merged: dict[tuple[float, float], int] = {}
    for noise_multiplier, sample_rate, steps in triples(history):
        sigma = positive("noise_multiplier", noise_multiplier, remedy="add noise, for example 1.0")
        if sigma < SMALLEST_SIGMA:
            raise InputError(
                f"noise_multiplier is {sigma:g} but accounting starts at {SMALLEST_SIGMA:g}; add "
                "more noise."
            )
        rate = probability(
            "sample_rate", sample_rate, one=True, remedy="keep the batch within the data set"
        )
        steps = whole("steps", steps, least=0, remedy="count optimizer steps")
        for name, value in (("noise_multiplier", sigma), ("steps", steps)):
            if value > _MOST:
                raise InputError(
                    f"{name} is {float(value):g} but accounting ends at {_MOST:g}; choose a "
                    "smaller one."
                )
        merged[sigma, rate] = merged.get((sigma, rate), 0) + steps
    total = sum(merged.values())
    if total > _MOST:
        raise InputError(
            f"The steps come to {float(total):g} but accounting ends at {_MOST:g}; take fewer."
        )
    return [(sigma, rate, steps) for (sigma, rate), steps in sorted(merged.items()) if steps]


def triples(history: Sequence[tuple[float, float, int]]) -> list[tuple[float, float, int]]:
    """The history as a list; raise `InputError` if it is not one of triples."""
    try:
        return [(sigma, rate, steps) for sigma, rate, steps in history]
    except (TypeError, ValueError):
        raise InputError(
            "history holds something that is not (noise_multiplier, sample_rate, steps); give one "
            "such triple for each stretch of equal steps."
        ) from None


def _never_seen(history: History, delta: float) -> bool:
    """Whether δ alone covers all that a record does: Σ over steps of q·TV(N(0, σ²), N(1, σ²)).

    TV is Φ(1/2σ) − Φ(−1/2σ), which as a difference loses its digits where σ is large.
    """
    return sum(
        steps * rate * math.erf(math.sqrt(0.125) / sigma) for sigma, rate, steps in history
    ) <= delta * (1 - 1e-9)


def _known(accountant: Accountant) -> None:
    if not isinstance(accountant, str) or accountant not in _ACCOUNTANTS:
        raise InputError(
            f"accountant is {accountant!r} but must be 'pld', 'rdp' or 'prv'; choose one."
        )


def _checked_batches(accountant: Accountant, batches: Batches, history: History) -> Batches:
    """The sizes that a sampling scheme needs, as whole numbers.

    Raises `InputError` where no published accountant holds for the scheme, or where its batches
    would not be what is accounted.
    """
    _known(accountant)
    size_remedy = "count the records"
    match batches.sampling:
        case "poisson":
            return POISSON
        case "shuffle":
            raise InputError(
                "sampling is 'shuffle' but no accountant here covers shuffled batches, and Poisson "
                "accounting can understate their ε (Chua et al. 2024, arXiv 2403.17673); sample "
                "with 'poisson'."
            )
        case "truncated_poisson":
            _require(batches, accountant, "pld", ("dataset_size", "truncated_batch_size"))
            size = whole("dataset_size", batches.dataset_size, least=1, remedy=size_remedy)
            most = whole(
                "truncated_batch_size",
                batches.truncated_batch_size,
                least=1,
                remedy="allow at least one record a batch",
            )
            return Batches("truncated_poisson", size, most)
        case "fixed_size":
            _require(batches, accountant, "rdp", ("dataset_size",))
            size = whole("dataset_size", batches.dataset_size, least=1, remedy=size_remedy)
            for _, rate, _ in history:
                _whole_batch(rate, size)
            return Batches("fixed_size", size)
        case _:
            raise InputError(
                f"sampling is {batches.sampling!r} but must be poisson, truncated_poisson or "
                "fixed_size; choose one."
            )


def _require(
    batches: Batches, accountant: Accountant, allowed: Accountant, needed: tuple[str, ...]
) -> None:
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


def _whole_batch(sample_rate: float, dataset_size: int) -> None:
    """Refuse a fixed batch of no whole record: what is drawn would not be what is accounted."""
    expected = sample_rate * dataset_size
    batch = round(expected)
    if batch < 1 or abs(expected - batch) > 1e-9 * expected:
        least = max(1, math.ceil(expected))
        raise InputError(
            f"sample_rate is {sample_rate:g} but of {dataset_size} records that is {expected:g}, "
            "and a fixed-size batch must be a whole number of records, at least 1; give "
            f"{least}/{dataset_size} = {least / dataset_size!r} for batches of {least}."
        )


def _by_pld(history: History, delta: float, batches: Batches) -> Certified:
    """The loss distribution's ε; where it does not settle, the Rényi bound if that is lower."""
    value, settled, _ = settled_epsilon(history, delta, batches=batches)
    if settled:
        return Certified(value, "pld")
    if batches.sampling == "poisson" and (len(history) <= _MOST_RENYI or math.isinf(value)):
        renyi = _renyi.renyi_epsilon(history, delta)
        if renyi < value:
            return Certified(renyi, "rdp_in_place_of_pld")
    if math.isinf(value):
        raise InputError(
            f"delta is {delta:g} but over so many steps a privacy loss distribution cannot resolve "
            "it; raise delta."
        )
    return Certified(value, "pld")
