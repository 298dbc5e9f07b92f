"""Canary audits: what is guessed, what may be claimed of it, and that true claims survive."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from workbench import audit, privacy, training
from workbench.audit import canaries
from workbench.audit.canaries import CanaryAudit, audited
from workbench.audit.evidence import certificate
from workbench.config import RunConfig
from workbench.errors import InputError
from workbench.privacy import Guarantee, PrivacyTerms
from workbench.runs.planted import Planted
from workbench.training.prepare import prepare

TERMS = PrivacyTerms(
    delta=1e-5,
    accountant="pld",
    sampling="poisson",
    neighbouring_relation="add_or_remove_one",
    unit="record",
)


def planted(included: np.ndarray, *, repeats: int = 1) -> Planted:
    m = len(included)
    zeros = np.zeros(m, np.int64)
    return Planted("new_token", repeats, ((1, 2),) * m, zeros, zeros, np.zeros(m), included)


def of_gaussian(rng: np.random.Generator, m: int, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Scores of canaries that are each one Gaussian release, and the coins."""
    included = rng.integers(2, size=m).astype(bool)
    return included + rng.normal(0, sigma, m), included


def guarantee_of(sigma: float) -> Guarantee:
    return privacy.guarantee([(sigma, 1.0, 1)], TERMS)


def evidence(scores: np.ndarray, included: np.ndarray) -> float:
    """The certificate of an audit, without what else it computes."""
    return certificate(scores, included, delta=1e-5, significance=0.05).value


def test_the_cap_is_the_certificate_of_an_attacker_who_is_always_right():
    rng = np.random.default_rng(1)
    included = rng.integers(2, size=300).astype(bool)
    found = audited(
        planted(included), included.astype(float), guarantee_of(1.0), significance=0.05, history=[]
    )
    assert found.certificate.value == found.cap  # half of the guesses at most are "in"
    assert found.cap == audit.canary_cap(300, delta=1e-5, significance=0.05)
    assert audit.canary_cap(1000, delta=1e-5, significance=0.05) > found.cap


def test_a_certificate_seldom_exceeds_the_truth():
    """A Gaussian mechanism of ε 4.38, whose guess counts are chosen for the best result."""
    rng, truth = np.random.default_rng(2), guarantee_of(1.0).epsilon
    tries = 300
    above = sum(evidence(*of_gaussian(rng, 200, 1.0)) > truth for _ in range(tries))
    assert above <= binom.ppf(0.999, tries, 0.05)


def test_a_certificate_survives_canaries_that_share_their_chance():
    """references: with probability ½ every bit is told rightly with probability .79: 1-GDP."""
    rng, truth, above = np.random.default_rng(3), audit.gaussian_epsilon(1.0, delta=1e-5), 0
    tries = 300
    for _ in range(tries):
        included = rng.integers(2, size=500).astype(bool)
        told = np.where(rng.random(500) < 0.79, included, ~included)
        scores = told + 0.01 * rng.random(500) if rng.random() < 0.5 else rng.random(500)
        above += evidence(scores, included) > truth
    assert above <= binom.ppf(0.999, tries, 0.05)


def test_the_runs_own_curve_is_kept_where_it_is_true_and_refuted_where_it_is_not():
    rng = np.random.default_rng(5)
    claimed = [(1.0, 1.0, 1)]
    p_values = {}
    for sigma in (1.0, 0.3):
        scores, included = of_gaussian(rng, 500, sigma)
        found = audited(
            planted(included), scores, guarantee_of(1.0), significance=0.05, history=claimed
        )
        p_values[sigma] = found.own_p_value
        assert found.contradicts == (sigma == 0.3)
    assert p_values[1.0] is not None
    assert p_values[0.3] is not None
    assert p_values[0.3] < 1e-3 < 0.05 < p_values[1.0]


def test_a_group_of_copies_has_a_ceiling_of_its_own():
    epsilon, delta = audit.group_guarantee(2.0, 1e-6, size=3)
    assert epsilon == 6.0
    assert delta == pytest.approx(1e-6 * (1 + math.exp(2) + math.exp(4)))
    assert audit.group_guarantee(8.0, 1e-5, size=4)[1] == 1.0  # which promises nothing
    assert audit.group_guarantee(math.inf, 1e-5, size=1) == (math.inf, 1e-5)
    rng = np.random.default_rng(6)
    scores, included = of_gaussian(rng, 200, 0.1)
    found = audited(
        planted(included, repeats=3), scores, guarantee_of(1.0), significance=0.05, history=[]
    )
    assert found.ceiling == audit.group_guarantee(guarantee_of(1.0).epsilon, 1e-5, size=3)
    assert found.planted.unit == "group of 3 copies"
    assert not found.contradicts  # its certificate is not of one record


@pytest.fixture
def planting(config: RunConfig) -> RunConfig:
    changes = {
        "canaries.count": 40,
        "corpus.public_fraction": 0.6,
        "corpus.record_tokens": 16,
        "privacy.private": False,
        "training.steps": 60,
        "training.evaluate_every": 60,
        "training.learning_rate": 0.05,
    }
    return config.with_changes(changes)


def run_audit(config: RunConfig, path: Path) -> CanaryAudit:
    training.train(config, run_dir=path)
    return audit.canary_audit(path)


def test_a_run_without_privacy_gives_its_canaries_away(planting: RunConfig, tmp_path: Path):
    found = run_audit(planting, tmp_path / "run")
    inside, outside = (found.scores[found.planted.included == side] for side in (True, False))
    assert audit.roc(inside, outside).auc > 0.95
    assert found.certificate.value > 1
    assert found.own_p_value is None
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["ceiling_epsilon"] is None


def test_much_noise_hides_them(planting: RunConfig, tmp_path: Path):
    noisy = {"privacy.private": True, "privacy.noise_multiplier": 30.0, "training.steps": 10}
    found = run_audit(planting.with_changes(noisy), tmp_path / "run")
    assert found.certificate.value < 1
    assert found.own_p_value is not None
    assert found.own_p_value > 0.01
    assert not found.contradicts


def test_scores_do_not_see_the_coins(planting: RunConfig, tmp_path: Path):
    """The folder's coins turned over: the same scores, and other guesses right."""
    changed = planting.with_changes({"training.steps": 5, "training.evaluate_every": 5})
    training.train(changed, run_dir=tmp_path / "run")
    told, scores = audit.canary_scores(tmp_path / "run")
    path = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        other = replace(told, included=~told.included)
        patch.setattr(canaries, "read_planted", lambda *_: other)
        assert (audit.canary_scores(path)[1] == scores).all()


def test_what_cannot_be_audited_is_refused(config: RunConfig, tmp_path: Path):
    training.train(config, run_dir=tmp_path / "run")
    with pytest.raises(InputError, match=r"trained without canaries.*set canaries.count"):
        audit.canary_audit(tmp_path / "run")
    with pytest.raises(InputError, match=r"canaries.count is 0"):
        audit.canary_preflight(config)


def test_the_preflight_says_what_is_planted_and_what_it_could_show(config: RunConfig):
    asked = config.with_changes({"canaries.count": 12, "canaries.repeats": 2})
    told = audit.canary_preflight(asked)
    records = prepare(asked).plan.dataset_size
    cap = audit.canary_cap(12, delta=1e-5, significance=0.05)
    for words in (
        "12 canaries (new token)",
        f"count as 24 of N = {records:,} records",
        f"certify ε ≥ {cap:.2f} at most",
        "embedding grow by 12 tokens",
        "groups of 2 copies",
    ):
        assert words in told
