"""The explorer without a browser: previews at once, certified values after, holds, bad input."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.panels.waiting import eventually
from workbench import privacy
from workbench.analysis.snippets import run_config
from workbench.config import RunConfig
from workbench.panels.explorer import panel as module
from workbench.panels.explorer.panel import Explorer
from workbench.panels.run.panel import Trainer
from workbench.presets import presets
from workbench.privacy import Guarantee


@pytest.fixture
def explorer() -> Iterator[Explorer]:
    panel = Explorer()
    yield panel
    panel.close()


class Unanswered:
    """Stands in for the background where a test answers by itself."""

    def __init__(self) -> None:
        self.questions: list[tuple[Any, Any]] = []
        self.cancelled = 0

    def warm_up(self) -> None: ...

    def close(self) -> None: ...

    def cancel(self) -> None:
        self.cancelled += 1

    def submit(self, function: Any, argument: Any, deliver: Any) -> None:
        self.questions.append((argument, deliver))


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Explorer, Unanswered]]:
    """An explorer whose certified values are answered by the test."""
    asked = Unanswered()
    monkeypatch.setattr(module, "Worker", lambda lock: asked)
    panel = Explorer()
    yield panel, asked
    panel.close()


def slide(panel: Explorer, name: str, value: float) -> None:
    panel.form.knobs[name].slider.value = value


def write(panel: Explorer, name: str, text: str) -> None:
    panel.form.knobs[name].field.value = text


def status(panel: Explorer) -> str:
    return panel.status.value


def trace(figure: Any, name: str) -> Any:
    return next(trace for trace in figure.figure.data if trace.name == name)


def certified(panel: Explorer) -> float:
    eventually(lambda: panel.shown.guarantee)
    assert panel.shown.guarantee is not None
    return panel.shown.guarantee.epsilon


def test_a_slide_shows_a_preview_at_once_and_the_certified_value_after(explorer: Explorer) -> None:
    slide(explorer, "noise_multiplier", 1.0)
    assert 'data-state="preview"' in explorer.cards.value
    assert explorer.shown.readings.epsilon == pytest.approx(3.1, abs=0.2)
    assert certified(explorer) == privacy.epsilon(1.0, 512 / 18_792, 300, 1e-5)
    eventually(lambda: 'data-state="certified"' in explorer.cards.value)
    eventually(lambda: explorer.shown.mechanism is not None)
    eventually(lambda: np.isfinite(trace(explorer.figures.roc, "the mechanism").y).all())


def test_the_ring_moves_at_once_and_the_pictures_follow(explorer: Explorer) -> None:
    slide(explorer, "expected_batch_size", 1000)
    assert set(trace(explorer.figures.planes, "privacy point").x) == {1000.0}
    eventually(lambda: trace(explorer.figures.budget, "this run").y[0] > 9)
    before = np.array(trace(explorer.figures.planes, "privacy").customdata)
    slide(explorer, "steps", 3000)
    eventually(
        lambda: not np.array_equal(trace(explorer.figures.planes, "privacy").customdata, before)
    )


def test_every_knob_moves_its_own_quantity(alone: tuple[Explorer, Unanswered]) -> None:
    panel, _ = alone
    for name in panel.form.knobs:
        if name == "epochs":
            continue
        field = "length" if name == "steps" else name
        before = getattr(panel.shown.point, field)
        slide(panel, name, before * 2)
        assert getattr(panel.shown.point, field) == pytest.approx(before * 2, rel=1e-3), name


def test_moving_on_drops_the_question(alone: tuple[Explorer, Unanswered]) -> None:
    """And with it an answer that is already waiting: see `tests/panels/common/test_worker.py`."""
    panel, asked = alone
    eventually(lambda: asked.questions)
    before = asked.cancelled
    slide(panel, "noise_multiplier", 2.0)
    assert asked.cancelled > before


def test_moving_on_asks_once_for_where_the_hand_rests(alone: tuple[Explorer, Unanswered]) -> None:
    panel, asked = alone
    eventually(lambda: asked.questions)
    for sigma in np.geomspace(1, 2, 20):
        slide(panel, "noise_multiplier", float(sigma))
    eventually(lambda: asked.questions[-1][0] is panel.shown.point)
    assert len(asked.questions) == 2


def test_what_cannot_be_certified_is_said(alone: tuple[Explorer, Unanswered]) -> None:
    panel, asked = alone
    eventually(lambda: asked.questions)
    asked.questions[-1][1](ValueError("It would take hours."))
    assert (
        "<b>Not certified:</b> The accounting stopped with ValueError: It would take hours."
        in status(panel)
    )
    assert 'data-state="preview"' in panel.cards.value


def test_holding_epsilon_solves_sigma_again_and_locks_it(explorer: Explorer) -> None:
    held = certified(explorer)
    explorer.form.hold.value = "epsilon"
    assert explorer.form.knobs["noise_multiplier"].slider.disabled
    for name, value in (("expected_batch_size", 1024), ("steps", 600)):
        slide(explorer, name, value)
        assert certified(explorer) == pytest.approx(held, rel=0.01)
    assert explorer.shown.point.noise_multiplier > 1.1
    write(explorer, "target_epsilon", "2")
    assert certified(explorer) == pytest.approx(2.0, rel=0.01)
    eventually(lambda: np.isfinite(trace(explorer.figures.planes, "privacy held").y).any())


def test_holding_the_ratio_keeps_it_from_either_side(alone: tuple[Explorer, Unanswered]) -> None:
    panel, _ = alone
    panel.form.hold.value = "noise_batch_ratio"
    slide(panel, "expected_batch_size", 2048)
    assert panel.shown.point.noise_multiplier == pytest.approx(3.2, rel=1e-3)
    slide(panel, "noise_multiplier", 1.6)
    assert panel.shown.point.expected_batch_size == pytest.approx(1024, abs=2)
    assert panel.shown.readings.noise_batch_ratio == pytest.approx(0.8 / 512, rel=2e-3)
    assert panel.form.knobs["expected_batch_size"].field.value == "1,024"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("noise_multiplier", "0", "Noise multiplier σ is 0"),
        ("noise_multiplier", "nonsense", "Noise σ is 'nonsense' but must be a number"),
        ("noise_multiplier", "nan", "must be a number"),
        ("delta", "1", "δ is 1 but must lie strictly between 0 and 1"),
        ("dataset_size", "100", "q = B/N would exceed 1; lower B or raise N"),
        ("expected_batch_size", "1e9", "q = B/N would exceed 1"),
        ("steps", "0", "Training length is 0"),
        ("max_grad_norm", "1e300", "must lie between"),
        ("mean_gradient_norm", "-3", "Mean gradient ḡ is -3"),
    ],
)
def test_bad_input_is_answered_and_the_panel_lives(
    alone: tuple[Explorer, Unanswered], name: str, text: str, words: str
) -> None:
    panel, _ = alone
    before = panel.shown
    write(panel, name, text)
    assert "<b>Not used:</b>" in status(panel)
    assert words in status(panel).replace("&#x27;", "'")
    assert panel.shown is before
    assert "wb-stale" in panel.cards.value
    write(panel, name, str(before.point.steps if name == "steps" else getattr(before.point, name)))
    slide(panel, "noise_multiplier", 1.5)
    assert panel.shown.point.noise_multiplier == 1.5
    assert "Not used" not in status(panel)
    assert "wb-stale" not in panel.cards.value


def test_a_certified_value_that_arrives_after_bad_input_does_not_pass_for_it(
    alone: tuple[Explorer, Unanswered],
) -> None:
    panel, asked = alone
    eventually(lambda: asked.questions)
    write(panel, "noise_multiplier", "0")
    asked.questions[-1][1](Guarantee(5.0, 1e-5, "pld", "poisson", "add_or_remove_one", "record"))
    assert "wb-stale" in panel.cards.value
    assert "Not used" in status(panel)


@pytest.mark.parametrize("name", ["noise_multiplier", "dataset_size", "steps", "delta", "n_params"])
def test_every_slider_can_be_dragged_to_either_end(
    alone: tuple[Explorer, Unanswered], name: str
) -> None:
    panel, _ = alone
    slider = panel.form.knobs[name].slider
    for end in (slider.max, slider.min):
        slide(panel, name, 10**end)
        assert "Not drawn" not in status(panel)
    panel.form.reset.click()
    slide(panel, "noise_multiplier", 1.25)
    assert panel.shown.point.noise_multiplier == 1.25
    assert panel.shown.point.dataset_size == 18_792


def test_a_large_delta_is_warned_about(alone: tuple[Explorer, Unanswered]) -> None:
    panel, _ = alone
    slide(panel, "delta", 1e-3)
    assert "<b>Warning:</b> δ is 0.001 but 1/N is 5.3e-05" in status(panel)
    slide(panel, "delta", 1e-6)
    assert "Warning" not in status(panel)


@pytest.mark.parametrize("preset", [preset.name for preset in presets()])
def test_every_preset_loads(alone: tuple[Explorer, Unanswered], preset: str) -> None:
    panel, _ = alone
    panel.form.preset.value = preset
    chosen = next(p for p in presets() if p.name == preset)
    assert panel.shown.point.noise_multiplier == chosen.noise_multiplier
    assert panel.form.knobs["dataset_size"].value == chosen.dataset_size
    assert np.isfinite(panel.shown.readings.epsilon)
    if chosen.claimed_epsilon:
        assert f"It states ε = {chosen.claimed_epsilon:g}." in panel.provenance.value


def test_counting_in_epochs_keeps_the_run_and_swaps_the_knob(
    alone: tuple[Explorer, Unanswered],
) -> None:
    panel, _ = alone
    panel.form.unit.value = "epochs"
    assert panel.shown.point.steps == 300
    rows = panel.form.knobs
    assert rows["steps"].row.layout.display == "none"
    assert rows["epochs"].row.layout.display is None
    slide(panel, "expected_batch_size", 1024)
    assert panel.shown.point.steps == 150


def test_undo_goes_back_one_pause_and_reset_to_the_preset(
    alone: tuple[Explorer, Unanswered],
) -> None:
    panel, asked = alone
    for count, sigma in enumerate((1.0, 2.0), start=1):
        eventually(lambda count=count: len(asked.questions) >= count)
        slide(panel, "noise_multiplier", sigma)
    eventually(lambda: len(asked.questions) == 3)
    panel.form.undo.click()
    assert panel.shown.point.noise_multiplier == 1.0
    write(panel, "noise_multiplier", "0")
    panel.form.undo.click()
    assert panel.shown.point.noise_multiplier == 1.0
    assert panel.form.knobs["noise_multiplier"].field.value == "1"
    panel.form.reset.click()
    assert panel.shown.point.noise_multiplier == 0.8


def test_pinned_settings_stay_beside_what_follows(explorer: Explorer) -> None:
    first = certified(explorer)
    explorer.form.pin.click()
    slide(explorer, "noise_multiplier", 2.0)
    second = certified(explorer)
    eventually(lambda: f"{second:.2f}"[:3] in explorer.comparison.value)
    assert f"{first:.2f}"[:3] in explorer.comparison.value
    assert list(trace(explorer.figures.planes, "privacy pinned").y) == [0.8]
    eventually(lambda: trace(explorer.figures.budget, "pinned").showlegend)
    explorer.form.pin.click()
    assert explorer.pinned is None
    assert np.isnan(trace(explorer.figures.planes, "privacy pinned").y).all()


def test_a_configuration_pinned_too_early_is_certified_later(
    alone: tuple[Explorer, Unanswered],
) -> None:
    panel, asked = alone
    eventually(lambda: asked.questions)
    panel.form.pin.click()
    assert panel.pinned is not None
    asked.questions[-1][1](Guarantee(5.032, 1e-5, "pld", "poisson", "add_or_remove_one", "record"))
    assert panel.pinned.guarantee is not None


def test_what_is_copied_follows_the_settings(alone: tuple[Explorer, Unanswered]) -> None:
    panel, _ = alone
    slide(panel, "noise_multiplier", 1.5)
    eventually(lambda: "1.5" in panel.form.copy.text)
    assert RunConfig.from_yaml(panel.form.copy.text).privacy.noise_multiplier == 1.5
    for label, words in (("Python", "privacy.epsilon("), ("Opacus call", "make_private(")):
        panel.form.format.label = label
        assert words in panel.form.copy.text


def test_closing_leaves_no_process_and_no_thread() -> None:
    panel = Explorer()
    process = panel._worker._process
    assert process is not None
    panel.close()
    assert process.poll() is not None
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
    assert not panel._redraw_worker._thread.is_alive()


def test_train_hands_the_settings_to_a_training_panel(alone: tuple[Explorer, Unanswered]) -> None:
    panel, _ = alone
    slide(panel, "noise_multiplier", 1.5)
    panel.form.train.click()
    assert panel.trainer is not None
    assert panel.trainer in panel._below.children
    assert panel.trainer.form.config() == run_config(panel.shown.point)
    assert panel.trainer.form.config().privacy.noise_multiplier == 1.5
    opened = panel.trainer
    write(panel, "steps", "40")
    panel.form.train.click()
    assert panel.trainer is opened
    assert opened.form.config().training.steps == 40


@pytest.mark.usefixtures("no_run_left_behind")
def test_train_does_not_hide_a_run_that_is_going(
    alone: tuple[Explorer, Unanswered], endless: RunConfig, tmp_path: Path
) -> None:
    panel, _ = alone
    trainer = Trainer(endless)
    trainer.form._run_dir.value = str(tmp_path / "run")
    panel.trainer = trainer
    trainer.begin()
    panel.form.train.click()
    assert "A run is going" in status(panel)
    assert trainer.form.config() == endless
    trainer.close()
