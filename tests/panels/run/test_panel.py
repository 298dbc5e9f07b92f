"""The training panel without a browser: start, watch, pause, cancel, resume, and be refused."""

import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.panels.waiting import PATIENCE, eventually
from workbench import training
from workbench.config import RunConfig
from workbench.errors import InputError
from workbench.panels.run import panel as module
from workbench.panels.run.panel import Trainer
from workbench.privacy import written_epsilon

pytestmark = pytest.mark.usefixtures("no_run_left_behind")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the notebook would be: runs are kept in its ``runs/``."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def panel(config: RunConfig) -> Iterator[Trainer]:
    trainer = Trainer(config)
    yield trainer
    trainer.close()


@pytest.fixture
def long_panel(endless: RunConfig) -> Iterator[Trainer]:
    trainer = Trainer(endless)
    yield trainer
    trainer.close()


def state(panel: Trainer) -> str:
    return panel.message.value.partition('data-state="')[2].partition('"')[0]


def trace(panel: Trainer, picture: str, name: str) -> Any:
    drawn: Any = panel.pictures.figures[picture].figure.data
    return next(trace for trace in drawn if trace.name == name)


def test_the_plan_is_certified_before_anything_runs(panel: Trainer):
    eventually(lambda: "certified</span>" in panel.planned.value)
    assert "for 4 steps with σ = 0.8 and q = 30/61" in panel.planned.value
    eventually(lambda: trace(panel, "spending", "planned").y[0] > 5)
    assert state(panel) == "idle"
    assert panel.run is None


def test_a_run_is_followed_to_its_end(panel: Trainer):
    panel.controls.start.click()
    assert panel.run is not None
    eventually(lambda: state(panel) == "done")
    assert panel.run.run_dir.parent == Path("runs").absolute()
    eventually(lambda: list(trace(panel, "learning", "held-out").x) == [0, 2, 4])
    eventually(lambda: list(trace(panel, "spending", "spent").x) == [0, 1, 2, 3, 4])
    guarantee = training.verify(panel.run.run_dir)
    eventually(lambda: trace(panel, "spending", "spent").y[-1] == guarantee.epsilon)
    assert str(guarantee) in panel.message.value
    assert panel.controls.bar.value == 1
    assert panel.samples.value.count("The model writes") == 2
    assert not panel.controls.start.disabled
    assert panel.controls.cancel.disabled


def test_cancel_ends_as_cancelled_with_its_epsilon_and_can_be_resumed(long_panel: Trainer):
    panel = long_panel
    run = panel.begin()
    eventually(lambda: panel.controls.bar.value > 0)
    assert panel.form.fields["training.steps"].disabled
    panel.controls.cancel.click()
    eventually(lambda: state(panel) == "cancelled")
    stood = training.read_run(run.run_dir).ledger.steps
    assert f"after {stood:,} of 100,000 steps" in panel.message.value
    assert str(training.verify(run.run_dir)) in panel.message.value
    eventually(lambda: len(panel.past.table.rows) == 1)
    panel.form.fields["training.steps"].value = "7"
    panel.past.table._handle_custom_msg({"resume": panel.past.table.rows[0]["id"]}, [])
    assert panel.run is not run
    assert panel.form.fields["training.steps"].value == "100,000"
    eventually(lambda: training.read_run(run.run_dir).ledger.steps > stood)


def test_pause_waits_and_the_same_button_goes_on(long_panel: Trainer):
    panel = long_panel
    run = panel.begin()
    eventually(lambda: state(panel) == "running")
    panel.controls.pause.click()
    eventually(lambda: state(panel) == "paused")
    assert panel.controls.pause.description == "Go on"
    held = run.progress().latest
    panel.controls.pause.click()
    eventually(lambda: (seen := run.progress().latest) and held and seen.step > held.step)
    eventually(lambda: panel.controls.pause.description == "Pause")


def test_a_panel_built_anew_follows_the_run_that_is_going(long_panel: Trainer):
    run = long_panel.begin()
    again = Trainer()
    assert again.run is run
    assert again.form.config() == run.config
    eventually(lambda: again.controls.bar.value > 0)
    again.controls.cancel.click()
    eventually(lambda: state(again) == "cancelled" and state(long_panel) == "cancelled")
    again.close()


def test_a_second_start_is_refused_in_the_panel(long_panel: Trainer, config: RunConfig):
    other = Trainer(config)
    long_panel.begin()
    other.controls.start.click()
    assert state(other) == "refused"
    assert "already going in this kernel" in other.message.value
    with pytest.raises(InputError, match="already going"):
        other.begin()
    other.close()


def test_a_failure_becomes_a_sentence_and_the_panel_lives(
    panel: Trainer, monkeypatch: pytest.MonkeyPatch
):
    def broken(*_: Any, **__: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as broken_for_now:
        broken_for_now.setattr("workbench.training.run.train", broken)
        panel.controls.start.click()
        eventually(lambda: state(panel) == "failed")
    assert "The run stopped with MemoryError: no further words." in panel.message.value
    panel.controls.start.click()
    eventually(lambda: state(panel) == "done")


@pytest.mark.parametrize(
    ("field", "typed", "answer"),
    [
        ("corpus.source", "gone.txt", "Cannot read corpus.source gone.txt"),
        ("corpus.source", "few.txt", "too few for its"),
        ("training.expected_batch_size", "1,000", "there are 61 training records"),
        ("privacy.noise_multiplier", "1e300", "privacy.noise_multiplier is 1e+300 but"),
        ("privacy.delta", "2", "privacy.delta is 2.0 but"),
    ],
)
def test_settings_that_no_run_can_have_are_refused_where_they_stand(
    panel: Trainer, folder: Path, field: str, typed: str, answer: str
):
    (folder / "few.txt").write_text("a line\nanother line", encoding="utf-8")
    eventually(lambda: "certified</span>" in panel.planned.value)
    panel.form.fields[field].value = typed
    eventually(lambda: answer in panel.planned.value)
    assert "<b>Not used:</b>" in panel.planned.value
    panel.form.fields[field].value = panel.form._shown(field)
    eventually(lambda: "certified</span>" in panel.planned.value)


def test_an_accountant_that_fails_says_what_to_choose_instead(panel: Trainer):
    panel._projected(panel.config, OverflowError("too large"))
    assert "could not be accounted for (OverflowError); check the corpus" in panel.planned.value


def test_a_run_folder_that_cannot_be_written_is_told(panel: Trainer, folder: Path):
    (folder / "file").write_text("", encoding="utf-8")
    panel.form.box.children[-1].value = "file/run"
    panel.controls.start.click()
    eventually(lambda: state(panel) == "failed")
    assert f"Cannot write the run folder {folder / 'file' / 'run'}" in panel.message.value
    panel.form.box.children[-1].value = "file"
    panel.controls.start.click()
    assert state(panel) == "refused"
    assert f"The run folder {folder / 'file'} exists" in panel.message.value


def test_past_runs_are_drawn_beside_the_current_one(panel: Trainer):
    panel.begin()
    eventually(lambda: len(panel.past.table.rows) == 1)
    (row,) = panel.past.table.rows
    panel.past.table.shown = {"B": row["id"]}
    assert list(trace(panel, "learning", "B").x) == [0, 2, 4]
    assert list(trace(panel, "spending", "B").x) == [0, 1, 2, 3, 4]
    panel.past.table.shown = {}
    assert len(trace(panel, "learning", "B").x) == 0


def test_a_run_is_held_against_its_own_plan_whatever_is_planned_next(panel: Trainer):
    eventually(lambda: trace(panel, "spending", "planned").y[0] > 5)
    planned = trace(panel, "spending", "planned").y[0]
    panel.begin().wait()
    eventually(lambda: state(panel) == "done")
    panel.form.fields["privacy.noise_multiplier"].value = "3"
    eventually(lambda: panel.projection is not None and "σ = 3" in panel.planned.value)
    panel.past.table.shown = {}
    panel._redraw()
    assert trace(panel, "spending", "planned").y[0] == planned
    assert f"of {written_epsilon(planned)} planned" in panel.cards.value


def test_before_a_run_the_cards_tell_of_the_newest_plan(panel: Trainer):
    panel.form.fields["privacy.max_grad_norm"].value = "0.25"
    eventually(lambda: "norms above C = 0.25" in panel.cards.value)


def test_the_twin_by_one_switch(panel: Trainer):
    panel.form.fields["privacy.private"].value = False
    eventually(lambda: "no privacy" in panel.planned.value)
    panel.controls.start.click()
    eventually(lambda: state(panel) == "done")
    assert "no ε holds" in panel.message.value
    spending: Any = panel.pictures.figures["spending"].figure
    eventually(lambda: len(spending.layout.annotations) == 1)
    eventually(lambda: panel.past.table.rows)
    assert panel.past.table.rows[0]["cells"][4:7] == [
        "∞",
        panel.past.table.rows[0]["cells"][5],
        "none",
    ]


def test_redraws_are_few_however_fast_the_steps_come(
    long_panel: Trainer, monkeypatch: pytest.MonkeyPatch
):
    """Here numbers follow each step, and pictures are due again only after the test."""
    monkeypatch.setattr(module, "NUMBERS_SECONDS", 0.0)
    monkeypatch.setattr(module, "PICTURES_SECONDS", math.inf)
    drawn: list[threading.Thread] = []
    show = long_panel.pictures.show

    def counted(view: Any) -> None:
        drawn.append(threading.current_thread())
        show(view)

    monkeypatch.setattr(long_panel.pictures, "show", counted)
    run = long_panel.begin()
    eventually(lambda: (seen := run.progress().latest) and seen.step >= 100)
    # At the start, for each of two phases, and for a guarantee that arrives only now.
    assert len(drawn) <= 4
    run.cancel()
    assert run.wait(PATIENCE).ended
