"""Guesses by a rule fixed beforehand: what they count, and how often they are wrong."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from workbench.audit import bounds
from workbench.audit.evidence import (
    Rule,
    certificate,
    correct_guesses,
    order_estimate,
    ranked,
    rate_estimates,
    rejected_gaussian,
)
from workbench.audit.own_curve import compared_with_own_curve, mechanism_inverse
from workbench.errors import InputError

RULES = [Rule("fixed", 40), Rule("paid"), Rule("split")]
TERMS: dict[str, Any] = {"delta": 1e-5, "significance": 0.05}
AUDITS = 200
TOLERATED = 0.05 + 3 * math.sqrt(0.05 * 0.95 / AUDITS)  # three standard deviations above 5 %


def draw(seed: int, *, mu: float = 0.0, records: int = 200) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    member = rng.random(records) < 0.5
    return rng.normal(mu * member), member


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("of", [certificate, rejected_gaussian, order_estimate])
def test_scores_that_know_nothing_say_something_as_seldom_as_promised(of, rule: Rule):
    alarms = sum(of(*draw(seed), rule=rule, **TERMS).value > 0 for seed in range(AUDITS))
    assert alarms / AUDITS <= TOLERATED


def test_a_free_search_would_not_keep_the_promise():
    """The planted bug: the best of all guess counts, none of them paid for."""
    alarms = 0
    for seed in range(AUDITS):
        scores, member = draw(seed)
        order = ranked(scores)
        alarms += any(
            bounds.one_run_epsilon(
                200, r, correct_guesses(order, member, r), delta=0, significance=0.05
            )
            for r in range(2, 201, 2)
        )
    assert alarms / AUDITS > 2 * TOLERATED


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_certificate_is_seldom_above_a_gaussians_truth(rule: Rule):
    truth = bounds.gaussian_epsilon(1.0, delta=1e-5)
    found = [certificate(*draw(s, mu=1.0), rule=rule, **TERMS).value for s in range(AUDITS)]
    assert np.mean(np.array(found) > truth) <= TOLERATED


def test_records_that_share_the_runs_chance():
    """With probability ½ every bit is told rightly with .79, else none: that is 1-GDP."""
    truth = bounds.gaussian_epsilon(1.0, delta=1e-5)
    above = {"certificate": 0, "Clopper–Pearson": 0}
    for seed in range(AUDITS):
        rng = np.random.default_rng(seed)
        member = rng.random(1000) < 0.5
        told = np.where(rng.random(1000) < 0.79, member, ~member)
        scores = np.where(rng.random() < 0.5, told, 0) + 1e-6 * rng.random(1000)
        above["certificate"] += certificate(scores, member, **TERMS).value > truth
        high = bounds.gdp_audit_epsilon(
            int((told & member).sum()),
            int(member.sum()),
            int((told & ~member).sum()),
            int((~member).sum()),
            **TERMS,
        )
        above["Clopper–Pearson"] += scores.max() > 0.5 and high > truth
    assert above["certificate"] / AUDITS <= TOLERATED
    assert above["Clopper–Pearson"] / AUDITS > 0.3  # which is why it is called an estimate


def test_constant_scores_know_nothing_wherever_members_stand():
    member = np.arange(2000) < 1000
    right = correct_guesses(ranked(np.zeros(2000)), member, 1000)
    assert right == pytest.approx(500, abs=4 * math.sqrt(250))
    assert certificate(np.zeros(2000), member, **TERMS).value == 0


@given(st.integers(2, 60), st.integers(0, 1000))
def test_guesses_are_of_both_ends(records: int, seed: int):
    scores, member = draw(seed, records=records)
    order = ranked(scores, seed=seed)
    assert (np.diff(scores[order]) <= 0).all()
    guesses = 1 + seed % records
    upper = (guesses + 1) // 2
    guessed_in, guessed_out = order[:upper], order[records - guesses // 2 :]
    expected = member[guessed_in].sum() + (~member[guessed_out]).sum()
    assert correct_guesses(order, member, guesses) == expected


def test_the_paid_rule_pays():
    scores, member = draw(3, mu=2.0)
    told = certificate(scores, member, **TERMS)
    order = ranked(scores)
    best = max(
        bounds.one_run_epsilon(
            200, r, correct_guesses(order, member, r), delta=1e-5, significance=0.05 / 6
        )
        for r in Rule().offered(200)
    )
    assert told.value == best
    assert Rule().offered(200) == [100, 50, 25, 13, 7, 4]


def test_statements_print_their_kind_and_counts():
    scores, member = np.arange(400.0)[::-1], np.arange(400) < 200
    told = certificate(scores, member, delta=0, significance=0.05, rule=Rule("fixed", 100))
    assert str(told) == (
        "ε ≥ 3.49 (certificate, one run, 95 %: 100 of 100 guesses right among 400 records, δ = 0)"
    )
    assert told.most == told.value
    weaker = certificate(scores, member, **TERMS, premise="no coins")
    assert (weaker.kind, weaker.premise) == ("estimate", "no coins")
    assert "≈" in str(weaker)
    assert rejected_gaussian(scores, member, **TERMS).kind == "rejects a curve"
    one, other = rate_estimates(scores, member, **TERMS)
    assert {one.kind, other.kind} == {"estimate"}
    assert one.counts == {
        "true_positives": 40,
        "positives": 200,
        "false_positives": 0,
        "negatives": 200,
    }
    assert one.value == pytest.approx(
        bounds.clopper_pearson_epsilon(40, 200, 0, 200, **TERMS), rel=1e-12
    )
    assert "40 of 200 members and 0 of 200 others above" in str(one)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"rule": Rule("fixed", 9000)}, "guesses is 9000 but there are 200 records"),
        ({"significance": 2.0}, "significance is 2"),
        ({"scores": np.full(200, np.nan)}, "scores holds NaN"),
        ({"scores": np.zeros(3)}, r"scores has shape \(3,\)"),
    ],
)
def test_bad_input(arguments: dict, words: str):
    scores, member = draw(0)
    given = {"scores": scores, "member": member, **TERMS, **arguments}
    with pytest.raises(InputError, match=words):
        certificate(**given)


@pytest.mark.parametrize("arguments", [("fixed", None), ("paid", 10), ("best", None)])
def test_rules_that_are_none(arguments: tuple):
    with pytest.raises(InputError):
        Rule(*arguments)


def test_the_own_curve_of_one_gaussian_step():
    """f̄⁻¹(x) = Φ(Φ⁻¹(x) − 1/σ), from below: a ceiling may be too high but never too low."""
    inverse = mechanism_inverse([(2.0, 1.0, 1)])
    for rate in (0.05, 0.3, 0.6, 0.9, 0.99):
        exact = norm.cdf(norm.ppf(rate) - 0.5)
        assert inverse(rate) <= exact * (1 + 1e-9)
        assert inverse(rate) == pytest.approx(exact, rel=5e-3)
    assert inverse(0.0) == 0


def test_halved_noise_is_rejected_by_the_runs_own_curve():
    """Published: σ = .8 claimed, .4 real, 100 of 100 right among 1000: flagged."""
    told = compared_with_own_curve([(0.8, 0.027, 300)], 1000, 100, 100, significance=0.05)
    assert told.rejected
    assert told.p_value < 0.05
    assert 0.4 < told.sigma_limit < 0.8
    assert f"every σ above {told.sigma_limit:.3g} is" in str(told)
    assert "rejects the run's own curve" in str(told)
    kept = compared_with_own_curve([(0.8, 0.027, 300)], 1000, 100, 55, significance=0.05)
    assert (kept.rejected, kept.sigma_limit) == (False, math.inf)
