"""A planned run, and the answers to one question."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from workbench.privacy import Guarantee
from workbench.scaling.plan_noise import certified, gaussian_sigma

Kind = Literal["compute_optimal", "saturating", "target"]


@dataclass(frozen=True)
class Plan:
    """One run to be made.

    Attributes:
        kind: which question it answers.
        source: what its loss is read from.
        loss_kind: ``causal_lm`` or ``masked_lm``; only the first has a perplexity.
        n_params, expected_batch_size, steps, noise_multiplier: the run.
        records, record_tokens, target_epsilon, delta: what it was planned for.
        loss, loss_interval: nats a token, with a 95 % prediction interval.
        rho: noise over that of batches of all records (Räisä et al. 2024).
        outside: covariates beyond the source's points, and how many times.
        notes: what else to know, a sentence each.
        guarantee: what the accountant certifies; None while σ is a preview.
    """

    kind: Kind
    source: str
    loss_kind: str
    records: float
    record_tokens: int
    target_epsilon: float
    delta: float
    n_params: float
    expected_batch_size: int
    steps: int
    noise_multiplier: float
    rho: float
    loss: float
    loss_interval: tuple[float, float]
    outside: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    guarantee: Guarantee | None = None

    @property
    def tokens(self) -> float:
        """Tokens seen in training."""
        return float(self.steps) * self.expected_batch_size * self.record_tokens

    @property
    def compute(self) -> float:
        """FLOPs, 6 a parameter and token."""
        return 6 * self.n_params * self.tokens

    @property
    def epochs(self) -> float:
        """Passes over the records."""
        return self.steps * self.expected_batch_size / self.records

    @property
    def noise_batch_ratio(self) -> float:
        """σ̄ = σ/B."""
        return self.noise_multiplier / self.expected_batch_size

    @property
    def perplexity(self) -> float | None:
        """Of a token; None where the loss is not of a causal model."""
        return float(np.exp(self.loss)) if self.loss_kind == "causal_lm" else None

    def certified(self) -> "Plan":
        """The same run with σ by the PLD accountant, and what it guarantees."""
        if np.isinf(self.target_epsilon):
            return self
        rate = self.expected_batch_size / self.records
        sigma, guarantee = certified(self.target_epsilon, rate, self.steps, self.delta)
        rho = sigma / (rate * np.sqrt(self.steps) * gaussian_sigma(self.target_epsilon, self.delta))
        return replace(self, noise_multiplier=sigma, rho=float(rho), guarantee=guarantee)

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON; an infinite ε is null."""
        told = asdict(self)
        for name in ("tokens", "compute", "epochs", "noise_batch_ratio", "perplexity"):
            told[name] = getattr(self, name)
        if np.isinf(self.target_epsilon):
            told["target_epsilon"] = None
        told["guarantee"] = self.guarantee.as_dict() if self.guarantee else None
        return told


@dataclass(frozen=True)
class Planned:
    """The answers to one question; None where the source has none, with ``status`` saying why."""

    source: str
    compute_optimal: Plan | None
    saturating: Plan | None
    target: Plan | None
    status: str = ""

    def certified(self) -> "Planned":
        """All plans with σ by the accountant."""
        return replace(
            self,
            **{
                kind: found.certified()
                for kind in ("compute_optimal", "saturating", "target")
                if (found := getattr(self, kind)) is not None
            },
        )


def large_delta(records: float, delta: float) -> tuple[str, ...]:
    """A note where δ is not below one over the records."""
    if records * delta < 1:
        return ()
    return (
        f"δ = {delta:g} is not below one over the {records:g} records, so that its guarantee "
        "allows some of them to be given away whole; lower it.",
    )
