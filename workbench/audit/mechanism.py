"""The mechanism audit: what σ, q and clipping really are, measured from inside a running loop.

Canaries here are gradients, not texts: each is C long after clipping, on coordinates of its own,
and in by a fair coin. They go through the loop's own sampling, clipping and noise, so what comes
out tells what these are, whatever the loop says of itself. `audit_loop` does that with any loop,
`audit_trainer` with the workbench's own steps around a real language model.

>>> import torch
>>> from workbench import training
>>> def loop(model, records):
...     private = training.PrivateSteps(
...         model, records, expected_batch_size=40, noise_multiplier=0.8, max_grad_norm=1.0,
...         delta=1e-5,
...     )
...     return lambda: private.backward(lambda i: model(records[i]))
>>> claim = Claim(0.8, 40 / 800, max_grad_norm=1.0, expected_batch_size=40)
>>> report = audit_loop(loop, claim, n_canaries=200, n_records=800, steps=10)
>>> report.flagged
()
"""

import math
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.audit.canaries import own_p_value
from workbench.audit.evidence import EmpiricalEpsilon, certificate, rejected_gaussian
from workbench.audit.mechanism_checks import (
    LEFT,
    RIGHT,
    Claim,
    Finding,
    Measured,
    Observed,
    findings,
    measured_noise,
)
from workbench.errors import InputError, probability, whole

if TYPE_CHECKING:
    from torch import Tensor, nn

OVERSIZE = 4.0  # how many times C a planted gradient is long before clipping
LOOKS = (5, 10, 20, 40, 80, 160, 320)  # steps at which `first_flag` looks, fixed beforehand
Loop = Callable[["nn.Module", "Tensor"], Callable[[], "Mapping[str, Tensor] | None"]]


@dataclass(frozen=True, eq=False)
class MechanismReport:
    """What was measured in a stretch of steps, each check at significance/checks.

    ``observed`` are the sums themselves, in units of C.
    """

    claim: Claim
    observed: Observed
    significance: float
    delta: float

    @cached_property
    def findings(self) -> list[Finding]:
        """Every check, with intervals at the significance of the whole."""
        return findings(self.observed, self.claim, significance=self.significance)

    @property
    def flagged(self) -> tuple[str, ...]:
        """Names of the checks that the claim fails; one of a true claim with ``significance``."""
        level = self.significance / len(self.findings)
        return tuple(found.name for found in self.findings if found.p_value <= level)

    @cached_property
    def sigma(self) -> Measured:
        """The noise's deviation over the claimed C."""
        return measured_noise(self.observed, significance=self.significance)

    @property
    def noise_multiplier(self) -> float:
        """σ̂ over the length that a clipped gradient really has; what ε follows from."""
        return self.sigma.value / self.measured("clipped length").value

    def measured(self, name: str) -> Measured:
        """The estimate of one check; `InputError` if there is none of that name."""
        for found in self.findings:
            if found.name == name:
                return found.measured
        known = ", ".join(found.name for found in self.findings)
        raise InputError(f"There is no check {name!r}; choose one of {known}.")

    @cached_property
    def scores(self) -> np.ndarray:
        """(canaries,) Σ_t log(1 − q + q·e^{(2x − 1)/(2σ²)}): the likelihood ratio of in and out.

        q is the claimed one, and σ comes from the sums across, to which the coins are unknown.
        """
        sigma = max(math.sqrt(float(np.square(self.observed.across).mean())), 0.02)
        q = self.claim.sample_rate
        drawn = np.log(q) + (2 * self.observed.along - 1) / (2 * sigma**2)
        missed = np.log1p(-q) if q < 1 else -np.inf
        return np.logaddexp(missed, drawn).sum(axis=0)

    @property
    def certificate(self) -> EmpiricalEpsilon:
        """What one run's guesses refute of any guarantee of these steps."""
        return certificate(
            self.scores,
            self.observed.included,
            delta=self.delta,
            significance=self.significance,
        )

    @property
    def rejects_gaussian(self) -> EmpiricalEpsilon:
        """The ε of the largest Gaussian curve that they refute."""
        return rejected_gaussian(
            self.scores,
            self.observed.included,
            delta=self.delta,
            significance=self.significance,
        )

    @cached_property
    def own_p_value(self) -> float:
        """How likely so many right guesses are under the claimed σ, q and these steps, at most."""
        history = [(self.claim.noise_multiplier, self.claim.sample_rate, self.observed.steps)]
        return own_p_value(self.scores, self.observed.included, history)

    def measured_epsilon(self, *, delta: float | None = None) -> float:
        """ε of the measured σ̂/length and q̂ over these steps; kind: estimate."""
        from workbench import privacy

        if self.noise_multiplier < 0.02:
            return math.inf
        q = min(1.0, self.measured("sample rate").value)
        delta = self.delta if delta is None else delta
        return privacy.epsilon(self.noise_multiplier, q, self.observed.steps, delta=delta)

    def __str__(self) -> str:
        flagged = self.flagged
        lines = [
            f"{found.name}: claimed {found.claimed:.4g}, measured {found.measured}"
            + (f"; flagged, p = {found.p_value:.2g}" if found.name in flagged else "")
            for found in self.findings
        ]
        return "\n".join(lines)


def audit_loop(
    loop: Loop,
    claim: Claim,
    *,
    n_canaries: int = 1000,
    n_records: int = 3000,
    steps: int = 300,
    significance: float = 0.01,
    delta: float = 1e-5,
    seed: int | None = None,
) -> MechanismReport:
    """Watch any DP-SGD loop take steps on records whose gradients are known.

    Args:
        loop: called once with a model of two linear layers and the records, (n_records, features)
            float32. ``model(records[i])`` gives one loss a record. Returns a function that takes
            one step, and then gives the noisy mean gradient by parameter name, or leaves it in
            each parameter's ``.grad``. What an optimizer does to the weights does not matter.
        claim: what the loop says of itself, the divisor included.
        n_canaries: each is in by a fair coin; one that is out has a gradient of zero.
        n_records: with the canaries. N is public, whichever are in.
        steps: how many to watch.
        significance: how often a true claim may be flagged, over all checks.
        delta: of the one-run ε.
        seed: of coins and order, for tests; the operating system's if not given.

    Raises `InputError` for a loop that leaves no gradient, or more canaries than records.
    """
    import torch

    probability("significance", significance, remedy="choose one such as 0.01")
    steps = whole("steps", steps, least=1, remedy="watch some steps")
    m = whole("n_canaries", n_canaries, least=20, remedy="plant more, such as 1000")
    if n_records < 2 * m:
        raise InputError(
            f"n_records is {n_records} but must be at least twice n_canaries ({m}), so that enough "
            "records answer the roll call; raise it."
        )
    chance = np.random.default_rng(secrets.randbits(256) if seed is None else seed)
    included = chance.integers(2, size=m).astype(bool)
    records = _records(included, n_records, claim.max_grad_norm)
    model = _probe(m)
    step = loop(model, torch.from_numpy(records[chance.permutation(n_records)]))
    scale = claim.expected_batch_size / claim.max_grad_norm
    rows = [_sums(step(), model) * scale for _ in range(steps)]
    observed = observed_from(np.stack(rows), included, n_roll=n_records - m)
    return MechanismReport(claim, observed, significance, delta)


def observed_from(sums: np.ndarray, included: np.ndarray, *, n_roll: int) -> Observed:
    """From rows of (left …, right …, roll call) in units of C, (steps, 2 canaries + 1)."""
    m = len(included)
    return Observed(sums[:, :m], sums[:, m : 2 * m], sums[:, 2 * m], included, n_roll)


def first_flag(report: MechanismReport) -> tuple[int, tuple[str, ...]] | None:
    """After how many steps the claim was first flagged, and by which checks; None if never.

    It looks after 5, 10, 20 … steps, and each look pays with its share of the significance.
    """
    looks = [steps for steps in LOOKS if steps <= report.observed.steps]
    for steps in looks:
        seen = report.observed.first(steps)
        share = report.significance / len(looks)
        flagged = MechanismReport(report.claim, seen, share, report.delta).flagged
        if flagged:
            return steps, flagged
    return None


def _records(included: np.ndarray, n_records: int, max_grad_norm: float) -> np.ndarray:
    """A row a record: its gradient, of which canaries that are out have none."""
    m = len(included)
    records = np.zeros((n_records, 2 * m + 1), dtype=np.float32)
    own = np.flatnonzero(included)
    length = OVERSIZE * max_grad_norm
    records[own, own], records[own, m + own] = LEFT * length, RIGHT * length
    records[m:, 2 * m] = length
    return records


def _probe(m: int) -> "nn.Module":
    """Two linear layers whose gradient for a record is the record itself."""
    import torch
    from torch import nn

    class Probe(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left = nn.Linear(m, 1, bias=False)
            self.right = nn.Linear(m + 1, 1, bias=False)  # with the roll call

        def forward(self, records: "Tensor") -> "Tensor":
            return (self.left(records[:, :m]) + self.right(records[:, m:])).squeeze(-1)

    probe = Probe()
    with torch.no_grad():
        for parameter in probe.parameters():
            parameter.zero_()
    return probe.train()


def _sums(gradients: "Mapping[str, Tensor] | None", model: "nn.Module") -> np.ndarray:
    """What one step gave on each coordinate, (2 canaries + 1,)."""
    found: dict[str, Any] = dict(gradients or {})
    if not found:
        found = {name: p.grad for name, p in model.named_parameters()}
    flat = []
    for name, parameter in model.named_parameters():
        gradient = found.get(name)
        if gradient is None or gradient.numel() != parameter.numel():
            raise InputError(
                f"The loop left no gradient for {name!r}; let its step return the noisy mean by "
                "parameter name, or leave it in .grad."
            )
        flat.append(gradient.detach().double().cpu().numpy().ravel())
    return np.concatenate(flat)
