"""The one guarantee: what happened, under terms that are all stated.

>>> terms = PrivacyTerms(1e-5, "rdp", "poisson", "add_or_remove_one", "record")
>>> print(guarantee([(1.0, 0.01, 100)], terms))
ε = 1.215 at δ = 1e-05 (RDP, poisson sampling, add or remove one record)
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from workbench.config import Accountant, NeighbouringRelation, PrivacyConfig, Sampling
from workbench.errors import InputError
from workbench.privacy.accountant import StatedBy, certified, triples
from workbench.privacy.written import written_delta, written_epsilon


@dataclass(frozen=True)
class PrivacyTerms:
    """What an ε is stated under, besides what happened."""

    delta: float
    accountant: Accountant
    sampling: Sampling
    neighbouring_relation: NeighbouringRelation
    unit: str

    @classmethod
    def of(cls, config: PrivacyConfig) -> Self:
        """Those of a configuration."""
        return cls(
            delta=config.delta,
            accountant=config.accountant,
            sampling=config.sampling,
            neighbouring_relation=config.neighbouring_relation,
            unit=config.unit,
        )

    @classmethod
    def of_training(cls, delta: float, *, accountant: Accountant = "pld") -> Self:
        """Those under which `workbench.training` trains, for what is asked without a run."""
        return cls.of(PrivacyConfig.model_construct(delta=delta, accountant=accountant))

    def __str__(self) -> str:
        """The conditions, as a guarantee writes them."""
        return _conditions(self)


@dataclass(frozen=True)
class Guarantee:
    """An ε with everything it means nothing without; `guarantee` makes them, and nothing else.

    ``accountant`` is what the ε really comes from, which may be a Rényi bound in place of the
    loss distribution that was asked for.
    """

    epsilon: float
    delta: float
    accountant: StatedBy
    sampling: Sampling
    neighbouring_relation: NeighbouringRelation
    unit: str

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """What `as_dict` wrote."""
        epsilon = math.inf if values["epsilon"] is None else values["epsilon"]
        return cls(**{**values, "epsilon": epsilon})

    def as_dict(self) -> dict[str, float | str | None]:
        """Its fields, for JSON, which has no infinity: null is the ε of what is not private."""
        return {**asdict(self), "epsilon": self.epsilon if math.isfinite(self.epsilon) else None}

    @property
    def accountant_name(self) -> str:
        """As people write it: PLD, RDP, PRV or “RDP in place of PLD”."""
        return " in place of ".join(self.accountant.upper().split("_IN_PLACE_OF_"))

    @property
    def conditions(self) -> str:
        """Sampling scheme, neighbouring relation and unit, in words."""
        return _conditions(self)

    def __str__(self) -> str:
        return (
            f"ε = {written_epsilon(self.epsilon)} at δ = {written_delta(self.delta)} "
            f"({self.accountant_name}, {self.conditions})"
        )


def _conditions(terms: PrivacyTerms | Guarantee) -> str:
    relation = terms.neighbouring_relation.replace("_", " ")
    return f"{terms.sampling.replace('_', ' ')} sampling, {relation} {terms.unit}"


def guarantee(history: Sequence[tuple[float, float, int]], terms: PrivacyTerms) -> Guarantee:
    """The certified guarantee of the steps ``[(noise_multiplier, sample_rate, steps), …]``.

    Steps without noise, of a run that is not private, make ε infinite. Raises `InputError` for
    terms that training refuses, in the same words, and for what cannot be accounted.
    """
    epsilon, stated_by = math.inf, terms.accountant
    parts = triples(history)
    if not any(noise_multiplier == 0 for noise_multiplier, _, _ in parts):
        refuse_unaccounted(terms)
        epsilon, stated_by = certified(parts, terms.delta, accountant=terms.accountant)
    return Guarantee(
        epsilon=epsilon,
        delta=terms.delta,
        accountant=stated_by,
        sampling=terms.sampling,
        neighbouring_relation=terms.neighbouring_relation,
        unit=terms.unit,
    )


def refuse_unaccounted(terms: PrivacyTerms) -> None:
    """Raise `InputError` unless the terms are those of what training does.

    It draws Poisson batches and clips to C, and what is accounted must be what is done.
    """
    if terms.sampling != "poisson":
        raise InputError(
            f"privacy.sampling is {terms.sampling!r} but training draws Poisson batches, and its "
            "ε would not be that of another scheme; set it to 'poisson'."
        )
    if terms.neighbouring_relation != "add_or_remove_one":
        raise InputError(
            f"privacy.neighbouring_relation is {terms.neighbouring_relation!r} but clipping to C "
            "bounds what adding or removing one record does, replacing one moves the sum by up to "
            "2C; set it to 'add_or_remove_one'."
        )
