"""Plans keep within their budget, are the best of their source, and refuse what it cannot tell."""

import json
from functools import cache
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from tests.scaling.test_laws import PRIVATE, planted, private_points
from workbench import presets, privacy
from workbench.cli import main
from workbench.errors import InputError
from workbench.scaling import FittedLaw, agreement, fit, frontier, hardware, plan, what_next
from workbench.scaling.plan_hardware import model_shape
from workbench.scaling.plan_noise import noise_table
from workbench.scaling.plan_search import LARGEST_RHO
from workbench.scaling.private_law import PrivateLaw


@cache
def law() -> FittedLaw:
    """A law of no scatter, so that what it predicts is what was planted."""
    return fit(planted(PrivateLaw(), PRIVATE, private_points()), "private")


ASKED = {"records": 60_000, "target_epsilon": 4.0, "delta": 1e-6, "record_tokens": 64}


def test_the_noise_that_is_searched_with_is_near_the_preview():
    rng = np.random.default_rng(0)
    rate = np.exp(rng.uniform(np.log(1e-3), 0, 100))
    steps = np.round(np.exp(rng.uniform(np.log(30), np.log(3000), 100)))
    table = noise_table(4.0, 1e-6, 1e-4, 3000)
    right = privacy.noise_multiplier_surface(4.0, rate, steps, 1e-6)
    np.testing.assert_allclose(table.noise_multiplier(rate, steps), right, rtol=0.06)
    # All records in every batch is what ρ compares with.
    rho = table.rho(
        table.noise_multiplier(np.ones(1), np.array([100.0])), np.ones(1), np.array([100.0])
    )
    assert rho[0] == pytest.approx(1, abs=0.02)


def test_a_plan_keeps_within_compute_and_epsilon():
    planned = plan(law(), compute=1e14, **ASKED).certified()
    best = planned.compute_optimal
    assert best is not None
    assert best.compute <= 1.01e14
    assert best.guarantee is not None
    assert best.guarantee.epsilon <= 4
    rate = best.expected_batch_size / best.records
    assert privacy.epsilon(best.noise_multiplier, rate, best.steps, 1e-6) <= 4
    low, high = best.loss_interval
    assert low <= best.loss <= high
    assert "your fit of the law private" in planned.source


def test_no_other_run_of_that_compute_is_better():
    best = plan(law(), compute=1e14, **ASKED).compute_optimal
    assert best is not None
    rng = np.random.default_rng(0)
    for _ in range(30):
        size = best.n_params * np.exp(rng.normal(0, 0.5))
        batch = min(60_000.0, best.expected_batch_size * np.exp(rng.normal(0, 0.5)))
        steps = np.floor(1e14 / (6 * size * batch * 64))
        sigma = float(privacy.noise_multiplier_surface(4.0, batch / 60_000, steps, 1e-6))
        row = {"n_params": size, "steps": steps, "noise_batch_ratio": sigma / batch}
        frame = pd.DataFrame([{**row, "tokens": steps * batch * 64, "unigram_loss": 5.4}])
        rho = sigma * 60_000 / (batch * np.sqrt(steps) * 1.04)
        if law().outside(frame)[0] < 4 and rho < 1.25:
            assert law().predict(frame)[0] > best.loss * 0.995


def test_saturating_is_the_least_compute_near_the_best_loss():
    planned = plan(law(), compute=1e18, **ASKED)
    richest, enough = planned.compute_optimal, planned.saturating
    assert richest is not None
    assert enough is not None
    assert enough.loss <= 1.012 * richest.loss
    assert enough.compute < richest.compute
    assert enough.rho <= 1.25


def test_a_loud_batch_says_why():
    best = plan(law(), compute=2e12, **ASKED).compute_optimal
    assert best is not None
    assert (best.rho > 1.25) == any("ρ is" in note for note in best.notes)
    assert best.rho > LARGEST_RHO


def test_a_target_is_reached_or_the_floor_is_told():
    easy = plan(law(), target_perplexity=40.0, **ASKED)
    assert easy.target is not None
    assert easy.target.perplexity is not None
    assert easy.target.perplexity <= 40.5
    hard = plan(law(), target_perplexity=5.5, **ASKED)
    assert hard.target is None
    assert "cannot be reached with this data" in hard.status
    assert "the floor is" in hard.status
    never = plan(law(), target_perplexity=1.5, **ASKED)
    assert "no number of records does" in never.status
    dear = plan(law(), target_perplexity=20.0, compute=1e11, **ASKED)
    assert "give more" in dear.status


def test_fewer_records_do_not_reach_a_target_that_the_fewest_do():
    asked = {**ASKED, "records": None}
    found = plan(law(), target_perplexity=35.0, **asked).target
    assert found is not None
    less = plan(law(), target_perplexity=35.0, **{**ASKED, "records": 0.8 * found.records})
    assert less.target is None


def test_more_of_everything_helps():
    told = what_next(law(), compute=1e14, **ASKED)
    assert set(told["more_of"]) == {"records", "target_epsilon", "compute"}
    assert np.all(told["gain"] > 0)
    asked = {k: v for k, v in ASKED.items() if k != "target_epsilon"}
    front = frontier(law(), over="target_epsilon", values=[1, 2, 4, 8], compute=1e14, **asked)
    assert (np.diff(front["loss"]) < 0).all()


def test_the_published_rows_are_met():
    """McKenna et al. 2025: size within 2×, compute within 2.5×, one-sided where censored."""
    told = agreement()
    assert np.all(told["size_agrees"])
    assert np.all(told["compute_agrees"])
    assert np.all((told["noise_multiplier"] > 1.3) & (told["noise_multiplier"] < 4.1))
    assert np.all((told["rho"] > 1) & (told["rho"] < LARGEST_RHO))
    row = agreement(certified=True, rows=[0])
    sigmas = np.asarray(row["noise_multiplier"]), np.asarray(told["noise_multiplier"])[:1]
    np.testing.assert_allclose(*sigmas, rtol=0.02)


def test_published_plans_are_monotone():
    for records in (1e5, 3e6, 1e9):
        found = [
            plan("published", records=records, target_epsilon=e).saturating for e in (1, 4, 16)
        ]
        for less, more in pairwise(found):
            assert less is not None
            assert more is not None
            assert more.n_params > less.n_params
            assert more.compute > less.compute
            assert more.loss < less.loss


def test_the_rows_compute_is_that_of_their_run():
    rows = pd.DataFrame(presets.rows("published/private_saturating.csv"))
    numbers = rows[["n_params", "expected_batch_size", "steps", "compute"]].astype(float)
    made = 6 * numbers["n_params"] * numbers["expected_batch_size"] * 512 * numbers["steps"]
    np.testing.assert_allclose(made, numbers["compute"], rtol=0.06)


def test_the_articles_slopes_are_those_of_its_chart():
    """Least squares of log perplexity on log tokens: −.236 ± .009 private, −.260 ± .016 not."""
    rows = pd.DataFrame(presets.rows("article/perplexity.csv")).drop(columns="source").astype(float)
    x = np.log(rows["tokens"])
    for column, slope, error in (
        ("perplexity_private", -0.236, 0.009),
        ("perplexity_baseline", -0.260, 0.016),
    ):
        (found, _), spread = np.polyfit(x, np.log(rows[column]), 1, cov=True)
        assert found == pytest.approx(slope, abs=5e-4)
        assert np.sqrt(spread[0, 0]) == pytest.approx(error, abs=5e-4)


@pytest.mark.parametrize(
    ("source", "asked", "words"),
    [
        ("published", {"target_perplexity": 10.0}, "masked language models"),
        ("published", {"records": 1e4, "delta": 1e-8}, "records is 10000 but the published table"),
        ("published", {"target_epsilon": 0.5}, "target_epsilon is 0.5 but the published table"),
        ("nowhere", {}, "source is 'nowhere'"),
        ("published", {"records": None}, "records is missing"),
        ("published", {"records": 1.0}, "records is 1 but must be at least 2"),
        ("published", {"compute": -1.0}, "compute is -1"),
    ],
)
def test_what_a_source_cannot_answer_is_refused(source: str, asked: dict, words: str):
    whole = {"records": 1e6, "target_epsilon": 4.0, "delta": 1e-8, **asked}
    with pytest.raises(InputError, match=words):
        plan(source, **whole)


def test_laws_that_know_no_noise_are_refused():
    frame = pd.DataFrame({"tokens": np.geomspace(1e6, 1e9, 9)})
    fitted = fit(frame.assign(loss=1 + 40 * frame["tokens"] ** -0.2), "power_floor")
    with pytest.raises(InputError, match="does not know what noise costs"):
        plan(fitted, **ASKED)
    with pytest.raises(InputError, match="even the smallest run"):
        plan(law(), compute=1e3, **ASKED)


def test_a_model_has_about_the_parameters_planned():
    for wanted in (3e4, 1e6, 5e7, 7e8):
        shape = model_shape(wanted)
        count = 13 * shape.layers * shape.width**2 + shape.vocabulary * shape.width
        assert count == pytest.approx(wanted, rel=0.25)


def test_hours_follow_from_the_card():
    best = plan("published", records=1e7, target_epsilon=4.0).saturating
    assert best is not None
    found = hardware(best, memory=False)
    assert found.gpu_hours == pytest.approx(best.compute * 1.3 / (312e12 * 0.3) / 3600)
    assert found.days <= 7
    with pytest.raises(InputError, match="card is 'abacus'"):
        hardware(best, card="abacus", memory=False)


def test_the_command_plans():
    arguments = ["plan", "--target-epsilon", "4", "--records", "1e6", "--no-memory"]
    told = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).stdout)
    assert told["saturating"]["guarantee"]["epsilon"] <= 4
    assert told["saturating"]["perplexity"] is None
    assert "ε = " in CliRunner().invoke(main, arguments).stdout
    refused = CliRunner().invoke(main, [*arguments, "--target-perplexity", "10"])
    assert refused.exit_code == 2
    assert "masked language models" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
