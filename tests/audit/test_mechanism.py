"""The mechanism audit: true claims survive it, and each planted fault is found."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import Tensor, nn

from workbench import audit
from workbench.audit.mechanism import MechanismReport, audit_loop, first_flag
from workbench.audit.mechanism_checks import LEFT, RIGHT, Claim, Observed, measured_noise
from workbench.config import RunConfig
from workbench.errors import InputError
from workbench.training import step

CANARIES, RECORDS, BATCH, SIGMA = 200, 800, 40, 0.8
CLAIM = Claim(SIGMA, BATCH / RECORDS, max_grad_norm=0.5, expected_batch_size=BATCH)


def simulated(
    rng: np.random.Generator,
    *,
    steps: int,
    m: int,
    sigma: float = SIGMA,
    q: float = 0.05,
    n_roll: int = 500,
) -> Observed:
    """What a true mechanism gives, without any loop."""
    included = rng.integers(2, size=m).astype(bool)
    drawn = (rng.random((steps, m)) < q) & included
    left, right = (part * drawn + rng.normal(0, sigma, (steps, m)) for part in (LEFT, RIGHT))
    roll = rng.binomial(n_roll, q, steps) + rng.normal(0, sigma, steps)
    return Observed(left, right, roll, included, n_roll)


class Faulty:
    """DP-SGD by hand, with one fault, if any; the record is its own gradient."""

    def __init__(self, fault: str, seed: int) -> None:
        self.fault, self.rng = fault, np.random.default_rng(seed)
        self.kept: np.ndarray | None = None

    def __call__(self, model: nn.Module, records: Tensor) -> Callable[[], dict[str, Tensor]]:
        half = next(iter(model.parameters())).numel()

        def take() -> dict[str, Tensor]:
            total = self.clipped(records[self.batch(len(records))].double().numpy(), half)
            noisy = (total + self.noise(total.shape)) / self.divisor
            parts = {"left.weight": noisy[:half], "right.weight": noisy[half:]}
            return {name: torch.from_numpy(part[None]) for name, part in parts.items()}

        return take

    def batch(self, records: int) -> np.ndarray:
        rate = CLAIM.sample_rate * {"q twice": 2.0, "q half": 0.5}.get(self.fault, 1.0)
        if self.fault == "N inflated":  # it knows how many there are; the accountant thinks twice
            rate *= 2
        if self.fault == "fixed size":
            drawn = self.rng.permutation(records)[:BATCH]
        else:
            drawn = np.flatnonzero(self.rng.random(records) < rate)
        self.drawn = len(drawn)
        return drawn

    def clipped(self, gradients: np.ndarray, half: int) -> np.ndarray:
        bound = CLAIM.max_grad_norm * (2 if self.fault == "C without noise" else 1)
        blocks = [gradients]
        if self.fault.startswith("per layer"):
            blocks = [gradients[:, :half], gradients[:, half:]]
            bound /= math.sqrt(2) if self.fault == "per layer, C/√2" else 1
        if self.fault == "clip off":
            bound = math.inf
        norms = [np.linalg.norm(block, axis=1, keepdims=True) for block in blocks]
        scaled = [
            block * np.minimum(1, bound / np.maximum(norm, 1e-12))
            for block, norm in zip(blocks, norms, strict=True)
        ]
        return np.concatenate(scaled, axis=1).sum(axis=0)

    def noise(self, shape: tuple[int, ...]) -> np.ndarray:
        sigma = SIGMA * {"noise half": 0.5, "noise off": 0.0}.get(self.fault, 1.0)
        if self.fault == "noise a microbatch":
            sigma *= math.sqrt(max(1, math.ceil(self.drawn / 16)))
        fresh = self.rng.normal(0, sigma * CLAIM.max_grad_norm, shape)
        if self.fault == "noise shared":
            fresh = np.full(shape, fresh[0])
        if self.fault == "noise reused":
            self.kept = fresh if self.kept is None else self.kept
            return self.kept
        return fresh

    @property
    def divisor(self) -> float:
        return {"realised batch": max(1, getattr(self, "drawn", 1))}.get(self.fault, BATCH)


def watched(fault: str, *, steps: int = 40, seed: int = 0) -> MechanismReport:
    return audit_loop(
        Faulty(fault, seed),
        CLAIM,
        n_canaries=CANARIES,
        n_records=RECORDS,
        steps=steps,
        significance=0.001,
        seed=seed,
    )


FAULTS = {
    "noise half": "noise",
    "noise off": "noise",
    "q twice": "records in a batch",
    "q half": "records in a batch",
    "clip off": "clipped length",
    "per layer": "direction",
    "per layer, C/√2": "records in a batch",
    "N inflated": "records in a batch",
    "noise reused": "noise anew each step",
    "noise shared": "noise of each coordinate",
    "noise a microbatch": "noise",
    "C without noise": "clipped length",
    "fixed size": "spread of batches",
    "realised batch": "noise alike in every step",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault: str):
    report = watched(fault, steps=100 if fault == "per layer" else 40)
    assert FAULTS[fault] in report.flagged
    found = first_flag(report)
    assert found is not None
    assert found[0] <= 80


def test_a_loop_without_fault_is_not_flagged():
    report = watched("", steps=60)
    assert report.flagged == ()
    assert first_flag(report) is None
    assert (
        report.measured("sample rate").low < CLAIM.sample_rate < report.measured("sample rate").high
    )
    assert report.noise_multiplier == pytest.approx(SIGMA, rel=0.2)
    assert report.own_p_value > 0.05
    assert "noise: claimed 0.8, measured 0.8" in str(report).replace("0.79", "0.80")


def test_the_interval_of_sigma_covers_it_as_often_as_it_says():
    rng, tries = np.random.default_rng(0), 1000
    missed = 0
    for _ in range(tries):
        measured = measured_noise(simulated(rng, steps=4, m=20), significance=0.1)
        missed += not measured.low < SIGMA < measured.high
    assert binom.ppf(0.0005, tries, 0.1) <= missed <= binom.ppf(0.9995, tries, 0.1)


def test_a_thousand_canaries_and_three_hundred_steps_fix_sigma_to_a_thousandth():
    rng = np.random.default_rng(1)
    measured = measured_noise(simulated(rng, steps=300, m=1000), significance=0.05)
    assert measured.low < SIGMA < measured.high
    assert (measured.high - measured.low) / 2 < 0.003 * SIGMA  # 1.96/√(2·300 000)
    assert measured.value == pytest.approx(SIGMA, rel=0.004)


def test_true_claims_are_flagged_no_oftener_than_stated():
    rng, tries = np.random.default_rng(2), 60
    claim = Claim(SIGMA, 0.05, max_grad_norm=1.0, expected_batch_size=1.0)
    alarms = sum(
        MechanismReport(claim, simulated(rng, steps=12, m=60), 0.1, 1e-5).flagged != ()
        for _ in range(tries)
    )
    assert alarms <= binom.ppf(0.999, tries, 0.1)


def test_half_the_noise_is_told_from_the_scores_alone():
    """Claimed σ .8 (ε 5.04), real .4: one run rejects the claim, its certificate cannot."""
    rng, q = np.random.default_rng(3), 512 / 18792
    observed = simulated(rng, steps=300, m=1000, sigma=0.4, q=q)
    claim = Claim(0.8, q, max_grad_norm=1.0, expected_batch_size=512)
    report = MechanismReport(claim, observed, 0.05, 1e-5)
    assert report.own_p_value < 0.05
    assert report.rejects_gaussian.value > 5.04
    assert report.certificate.value < report.rejects_gaussian.value
    true = MechanismReport(claim, simulated(rng, steps=300, m=1000, q=q), 0.05, 1e-5)
    assert true.own_p_value > 0.05
    assert true.certificate.value < 5.04


def test_certificates_of_true_mechanisms_hold():
    """ε of σ 0.8, q 0.3 and 3 steps is far above what so few canaries certify, so use σ 3."""
    from workbench import privacy

    rng, tries = np.random.default_rng(4), 60
    claim = Claim(3.0, 0.5, max_grad_norm=1.0, expected_batch_size=1.0)
    truth = privacy.epsilon(3.0, 0.5, 3, delta=1e-5)
    above = 0
    for _ in range(tries):
        observed = simulated(rng, steps=3, m=100, sigma=3.0, q=0.5)
        above += MechanismReport(claim, observed, 0.05, 1e-5).certificate.value > truth
    assert above <= binom.ppf(0.999, tries, 0.05)


def test_scores_do_not_see_the_coins():
    rng = np.random.default_rng(5)
    seen = simulated(rng, steps=10, m=50)
    other = Observed(seen.left, seen.right, seen.roll, ~seen.included, seen.n_roll)
    one, two = (MechanismReport(CLAIM, of, 0.05, 1e-5).scores for of in (seen, other))
    assert (one == two).all()


def test_a_loop_that_leaves_no_gradient_is_refused():
    with pytest.raises(InputError, match=r"left no gradient for 'left.weight'; let its step"):
        audit_loop(lambda model, records: lambda: None, CLAIM, n_canaries=20, n_records=50)
    with pytest.raises(InputError, match=r"n_records is 30 but must be at least twice"):
        audit_loop(lambda model, records: lambda: None, CLAIM, n_canaries=20, n_records=30)


@pytest.fixture
def small(config: RunConfig) -> RunConfig:
    return config.with_changes(
        {"runtime.physical_batch_size": 64, "training.expected_batch_size": 60}
    )


def trainer(config: RunConfig, steps: int = 12) -> MechanismReport:
    return audit.audit_trainer(
        config, steps=steps, n_canaries=100, n_roll=300, n_records=40, significance=0.001
    )


@pytest.mark.parametrize("model", ["tiny-llama", "tiny-gpt2"])
def test_the_workbenchs_own_steps_are_as_they_claim(small: RunConfig, model: str):
    report = trainer(small.with_changes({"model.source": model, "privacy.max_grad_norm": 0.3}))
    assert report.flagged == ()
    assert report.observed.steps == 12
    assert report.observed.roll.mean() == pytest.approx(300 * 60 / 440, rel=0.15)
    # Chance is the operating system's here: twice the interval is some eight deviations.
    length = report.measured("clipped length")
    assert abs(length.value - 1) < 2 * (length.high - length.low)


def test_faults_of_the_workbenchs_own_steps_are_found(
    small: RunConfig, monkeypatch: pytest.MonkeyPatch
):
    noise, batch = step.gaussian_noise, step.poisson_batch
    with monkeypatch.context() as patch:
        patch.setattr(
            step,
            "gaussian_noise",
            lambda total, *, noise_multiplier, generator: noise(
                total, noise_multiplier=noise_multiplier / 2, generator=generator
            ),
        )
        assert "noise" in trainer(small).flagged
    monkeypatch.setattr(
        step,
        "poisson_batch",
        lambda n, *, sample_rate, generator: batch(
            n, sample_rate=2 * sample_rate, generator=generator
        ),
    )
    assert "records in a batch" in trainer(small).flagged


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"privacy.private": False}, "there is no mechanism to audit"),
        ({"privacy.clipping": "adaptive"}, "privacy.clipping is 'adaptive'"),
        ({"schedule.noise": {"kind": "linear", "end_factor": 0.5}}, "schedule.noise.kind"),
    ],
)
def test_what_has_no_one_mechanism_is_refused(
    config: RunConfig, changes: dict[str, object], says: str
):
    with pytest.raises(InputError, match=says):
        audit.audit_trainer(config.with_changes(changes))
