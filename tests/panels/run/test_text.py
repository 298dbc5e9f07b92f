"""What the training panel says in sentences: the plan, what a run does, how it ended."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.panels.run.reports import report
from workbench.analysis.projection import Projection
from workbench.config import RunConfig
from workbench.corpora import RecordCounts
from workbench.panels.run import text
from workbench.panels.run.job import RunState
from workbench.privacy import Guarantee
from workbench.runs.folder import metrics_row
from workbench.runs.report import RunResult
from workbench.training.plan import plan

SPENT = Guarantee(2.0991, 1e-5, "pld", "poisson", "add_or_remove_one", "record")


class Kept:
    """A run as far as messages ask for it."""

    run_dir = Path("runs/<mine>")


def ended(**changes: Any) -> RunState:
    result = RunResult(
        run_dir=Kept.run_dir,
        state="done",
        reason="all steps",
        steps=300,
        guarantee=SPENT,
        noise_multiplier=0.8,
        sample_rate=0.03,
        n_params=140_000,
        heldout_loss=4.2,
        minutes=2.5,
        samples={},
    )
    result = replace(result, **changes)
    told = [report(0), report(25, heldout_loss=5.0), report(result.steps)]
    metrics = pd.DataFrame([metrics_row(one) for one in told])
    return RunState(1, result.state, told[-1], metrics, result, spent=result.guarantee)  # type: ignore[arg-type]


def said(progress: RunState) -> str:
    return text.message(Kept(), progress)  # type: ignore[arg-type]


def test_a_run_that_is_done_says_what_it_spent_and_how_to_read_it():
    words = said(ended())
    assert "<b>Done</b> after 300 steps in 2 min 30 s" in words
    assert f"Spent: <b>{SPENT}</b>" in words
    assert 'read_run("runs/&lt;mine&gt;")' in words
    assert "Past runs" not in words


def test_a_held_out_loss_comes_with_the_step_it_was_measured_at():
    assert "held-out perplexity 148 at step 25" in said(ended())


def test_a_cancelled_run_says_how_far_it_came_and_that_it_can_go_on():
    words = said(ended(state="cancelled", reason="cancelled", steps=28))
    assert "<b>Cancelled</b> after 28 of 300 steps" in words
    assert "go on with it under “Past runs”" in words


@pytest.mark.parametrize(
    ("reason", "words"), [("budget", "budget used up"), ("patience", "fell"), ("time", "time")]
)
def test_an_early_end_says_why(reason: str, words: str):
    assert words in said(ended(reason=reason, steps=120))


def test_the_twin_ends_without_a_claim():
    words = said(
        ended(guarantee=Guarantee(math.inf, 1e-5, "pld", "poisson", "add_or_remove_one", "record"))
    )
    assert "no ε holds" in words
    assert "Spent" not in words


def test_a_failure_says_what_was_spent_before_it():
    failed = RunState(1, "failed", None, pd.DataFrame(), error="It <broke>.", spent=SPENT)
    assert "<b>Failed.</b> It &lt;broke&gt;." in said(failed)
    assert str(SPENT) in said(failed)
    assert "Spent" not in said(replace(failed, spent=None))


@pytest.mark.parametrize("phase", ["preparing", "running", "pausing", "paused", "cancelling"])
def test_every_phase_is_named(phase: Any):
    going = RunState(1, phase, None, pd.DataFrame())
    assert f"<b>{ {'running': 'Training'}.get(phase, phase.capitalize()) }</b>" in said(going)
    assert f'data-state="{phase}"' in said(going)


def projected(
    epsilon: float = 5.0862, delta: float = 1e-5, changes: dict[str, Any] | None = None
) -> str:
    planned = plan(RunConfig().with_changes(changes or {}), 18_792)
    return text.projected(
        Projection(
            planned, Guarantee(epsilon, delta, "pld", "poisson", "add_or_remove_one", "record")
        )
    )


def test_the_plan_names_everything_that_epsilon_means_nothing_without():
    words = projected()
    assert "<b>ε = 5.087</b>" in words
    assert "certified" in words
    assert "δ = 1e-5 for 300 steps with σ = 0.8 and q = 512/18,792" in words
    assert "PLD, poisson sampling, add or remove one record" in words


def test_a_schedule_is_told_by_its_ends():
    ramp = {"kind": "linear", "end_factor": 0.5, "stages": 3}
    assert "σ = 0.8 to 0.4 and q = 512" in projected(changes={"schedule.noise": ramp})


def test_a_large_delta_is_warned_of():
    assert "Beware:</b> δ is 0.001 but 1/N is 5.3e-05" in projected(delta=1e-3)
    assert "Beware" not in projected()


def test_the_plan_of_a_twin_promises_nothing():
    words = projected(math.inf, changes={"privacy.private": False})
    assert "no privacy" in words
    assert "certified" not in words


def test_records_left_out_or_cut_are_told_before_training_and_after():
    whole = RecordCounts(found=100, public=10, heldout=7, training=83)
    some = replace(whole, found=130, too_short=20, duplicate=10)
    planned = plan(RunConfig(), 18_792)
    plans = [text.projected(Projection(planned, SPENT, counts)) for counts in (whole, some)]
    assert "Records:" not in plans[0]
    assert "20 shorter than corpus.min_words, 10 copies of another: left out" in plans[1]
    cut = replace(whole, truncated=5)
    assert "Records:" not in said(replace(ended(), records=whole))
    assert "5 cut at corpus.record_tokens" in said(replace(ended(), records=cut))
