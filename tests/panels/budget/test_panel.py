"""The budget panel without a browser: schedules drawn at once, ε certified piece by piece."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.panels.waiting import eventually
from workbench import privacy
from workbench.panels.budget.panel import Budget


@pytest.fixture
def budget() -> Iterator[Budget]:
    panel = Budget()
    yield panel
    panel.close()


def trace(panel: Budget, name: str) -> Any:
    drawn: Any = panel.figure.figure.data
    return next(trace for trace in drawn if trace.name == name)


def test_the_whole_run_and_its_parts_are_certified(budget: Budget) -> None:
    assert 'data-state="preview"' in budget.result.value
    eventually(lambda: len(budget.spent) == 6)
    assert budget.spent[300] == privacy.epsilon(0.8, 512 / 18_792, 300, 1e-5)
    assert '<div class="value">5.088</div>' in budget.result.value
    assert "PLD, poisson sampling, add or remove one record" in budget.result.value
    eventually(
        lambda: list(trace(budget, "ε spent (certified)").x) == [0, 50, 100, 150, 200, 250, 300]
    )


def test_a_schedule_is_drawn_at_once_and_its_total_follows(budget: Budget) -> None:
    budget.form.knobs["noise_start"].field.value = "1.2"
    budget.form.knobs["noise_end"].field.value = "0.6"
    budget.form.kinds["noise_kind"].value = "linear"
    assert budget.spent == {}
    assert (trace(budget, "σ").y[0], trace(budget, "σ").y[-1]) == (1.2, 0.6)
    eventually(lambda: 300 in budget.spent)
    assert budget.spent[300] == privacy.compose(budget.plan.history, 1e-5)
    assert "would spend the same (preview)" in budget.result.value


def test_bad_input_is_answered_and_the_panel_lives(budget: Budget) -> None:
    before = budget.plan
    budget.form.knobs["batch_start"].field.value = "20,000"
    assert "<b>Not used:</b> expected_batch_size is 20000" in budget.status.value
    budget.form.knobs["steps"].field.value = "many"
    assert "Steps T is &#x27;many&#x27; but must be a number" in budget.status.value
    assert budget.plan is before
    budget.form.knobs["batch_start"].field.value = "256"
    assert budget.plan.batch_start == 256
    assert "Not used" not in budget.status.value
    eventually(lambda: 300 in budget.spent)


def test_moving_on_drops_the_question(budget: Budget, monkeypatch: pytest.MonkeyPatch) -> None:
    """And with it an answer that is already waiting: see `tests/panels/common/test_worker.py`."""
    cancelled: list[bool] = []
    monkeypatch.setattr(budget._worker, "cancel", lambda: cancelled.append(True))
    budget.form.knobs["noise_start"].field.value = "2"
    assert cancelled


def test_closing_leaves_no_process() -> None:
    panel = Budget()
    process = panel._worker._process
    assert process is not None
    panel.close()
    assert process.poll() is not None
