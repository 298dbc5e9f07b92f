"""What the training panel says in numbers: true, rounded and escaped."""

import math
import re

import numpy as np
import pandas as pd
import pytest

from tests.panels.run.reports import report
from workbench.config import RunConfig
from workbench.panels.common.formatting import duration, shown_epsilon
from workbench.panels.run import cards
from workbench.panels.run.job import Phase, RunState
from workbench.privacy import Guarantee
from workbench.runs.folder import metrics_row
from workbench.runs.report import StepReport

TWIN = RunConfig().with_changes({"privacy.private": False})


def progress(*reports: StepReport, phase: Phase = "running", **more: object) -> RunState:
    metrics = pd.DataFrame([metrics_row(told) for told in reports])
    return RunState(1, phase, reports[-1], metrics, **more)  # type: ignore[arg-type]


def card(title: str, html: str) -> str:
    """The text of one card, its lines joined by spaces."""
    found = re.search(rf"<h4>{title}</h4>(.*?)</div>(.*?)</div>", html)
    assert found is not None
    return " ".join(re.sub("<[^>]+>", " ", "".join(found.groups())).replace("&nbsp;", "").split())


def test_before_a_run_there_are_dashes_and_the_plan():
    shown = cards.cards(None, RunConfig(), 5.0862)
    assert card("Step", shown) == "– not started"
    assert card("ε spent", shown) == "– of 5.087 planned certified, δ = 1e-5"
    assert card("Clipped", shown) == "– of this batch: norms above C = 1"


def test_a_step_is_shown_with_what_it_spent_at_most():
    shown = cards.cards(progress(report(0), report(1), report(2)), RunConfig(), 5.0862)
    assert card("Step", shown) == "2 of 300 about 2 min 29 s left"
    assert card("Training batch", shown) == "5.00 perplexity 148 500 records drawn"
    assert card("Held out", shown) == "6.00 perplexity 403 at step 0"
    assert card("ε spent", shown).startswith("≤ 2.500 of 5.087 planned")
    assert card("Clipped", shown) == "67% of this batch: norms above C = 1"
    assert card("Noise to signal", shown) == "1.25 predicted 1.30 norms, this update"


def test_what_was_truly_spent_replaces_the_bound():
    spent = Guarantee(2.0991, 1e-5, "pld", "poisson", "add_or_remove_one", "record")
    ended = progress(report(0), report(1), phase="cancelled", spent=spent)
    assert card("ε spent", cards.cards(ended, RunConfig(), 5.0)).startswith("2.100 of")


def test_the_norm_shown_is_that_of_the_step():
    moved = progress(report(0), report(1, max_grad_norm=0.25))
    assert "norms above C = 0.25" in cards.cards(moved, RunConfig(), math.nan)


def test_the_twin_claims_no_privacy():
    twin = progress(report(0), report(1, epsilon=math.inf, gradient_norms=np.zeros(0)))
    shown = cards.cards(twin, TWIN, math.inf)
    assert card("ε spent", shown) == "∞ not private: no ε holds"
    assert card("Clipped", shown).startswith("–")
    assert card("Noise to signal", shown).startswith("–")
    assert "certified" not in shown


def test_an_empty_batch_has_no_loss_to_show():
    empty = progress(report(0), report(1, batch_size=0, loss=math.nan))
    shown = cards.cards(empty, RunConfig(), math.nan)
    assert card("Training batch", shown).startswith("–")


def test_a_loss_beyond_all_bounds_is_no_crash():
    wild = progress(report(0), report(1, loss=500.0))
    assert "perplexity above 1e43" in cards.cards(wild, RunConfig(), math.nan)


def test_time_left_is_not_moved_by_a_pause_or_an_evaluation():
    seconds = [0.0, 1.0, 2.0, 500.0, 501.0, 502.0]
    told = [report(step, seconds=at) for step, at in enumerate(seconds)]
    assert "about 5 min left" in cards.cards(progress(*told), RunConfig(), math.nan)


@pytest.mark.parametrize("phase", ["preparing", "paused", "cancelling", "done", "failed"])
def test_a_run_that_is_not_running_has_no_time_left(phase: Phase):
    shown = cards.cards(progress(report(0), report(1), phase=phase), RunConfig(), math.nan)
    assert card("Step", shown) == f"1 of 300 {phase}"


def test_speed_and_memory_are_round():
    shown = cards.speed(progress(report(0), report(1)).metrics)
    assert "20,100 tokens/s, 612 MB" in shown
    assert cards.speed(progress(report(0)).metrics) == ""


def test_what_a_model_writes_cannot_become_markup():
    shown = cards.samples({"before": "<b>a & b", "after": "c"})
    assert "&lt;b&gt;a &amp; b" in shown
    assert cards.samples({"before": "only this yet"}) == ""


@pytest.mark.parametrize(
    ("epsilon", "text"),
    [(2.0991, "2.100"), (2.1, "2.100"), (0.0, "0"), (math.nan, "–"), (math.inf, "∞")],
)
def test_epsilon_is_written_as_a_guarantee_writes_it(epsilon: float, text: str):
    assert shown_epsilon(epsilon) == text


@pytest.mark.parametrize(
    ("seconds", "rough", "text"),
    [
        (0.2, False, "1 s"),
        (59, True, "59 s"),
        (61, False, "1 min 01 s"),
        (344, False, "5 min 44 s"),
        (344, True, "6 min"),
        (7265, True, "2 h 1 min"),
    ],
)
def test_durations_are_said_as_people_say_them(seconds: float, rough: bool, text: str):
    assert duration(seconds, rough=rough) == text
