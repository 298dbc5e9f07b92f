"""The sweep panel without a browser: fields to cells, Start to results, and an honest bill."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from distributed import Client

from tests.panels.waiting import eventually
from workbench.analysis.sweep import SweepProjection, project_sweep
from workbench.config import RunConfig
from workbench.errors import InputError
from workbench.panels.common.worker import Worker
from workbench.panels.sweep import job, text
from workbench.panels.sweep.panel import Sweeper
from workbench.sweeps.sweep import SweepConfig, SweepCost, read_sweep, sweep_cost

GRID = {"privacy.noise_multiplier": (0.6, 0.8)}
Panel = Callable[..., Sweeper]


@pytest.fixture
def base(config: RunConfig) -> RunConfig:
    """The tiny run, evaluated at its end alone."""
    return config.with_changes({"training.evaluate_every": 4})


@pytest.fixture
def panel(
    base: RunConfig, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Panel]:
    """Builds panels that answer in this process, and closes them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "workbench.panels.sweep.panel.Worker", lambda lock: Worker(lock, use_process=False)
    )
    monkeypatch.setattr("workbench.panels.sweep.panel.DEBOUNCE_SECONDS", 0.01)
    monkeypatch.setattr("workbench.panels.sweep.panel.REDRAW_SECONDS", 0.01)
    monkeypatch.setattr("workbench.sweeps.sweep.TICK_SECONDS", 0.02)
    monkeypatch.setattr("workbench.sweeps.worker._LOOK_SECONDS", 0.0)
    built = []

    def build(config: RunConfig | None = None, grid: Any = None) -> Sweeper:
        built.append(Sweeper(config or base, grid or GRID, scheduler=client))
        return built[-1]

    yield build
    for one in built:
        if one.sweep is not None:
            one.sweep.cancel()
            one.sweep.wait()
        one.close()


def ended(sweeper: Sweeper, words: str) -> None:
    """Wait until the panel itself says that the sweep has ended so."""
    eventually(lambda: words in sweeper.message.value and not sweeper.controls.start.disabled)


def lines_drawn(sweeper: Sweeper) -> int:
    (cells,) = cast(Any, sweeper.picture.figure.data)
    assert cells.type == "parcoords"
    return len(cells.line.color)


def test_the_fields_say_what_the_file_would(panel: Panel, base: RunConfig) -> None:
    grid = {"privacy.clipping": ("flat", "normalised"), "training.epochs": (1, None), "seed": (1,)}
    assert panel(grid=grid).form.config() == SweepConfig(base=base, grid=grid)


def test_typed_values_are_what_yaml_makes_of_them(panel: Panel) -> None:
    form = panel().form
    form.varied[1].value, form.values[1].value = "privacy.private", "true, false"
    form.varied[2].value, form.values[2].value = "privacy.delta", "1e-5, 1e-6"
    cells = form.config().cells()
    assert len(cells) == 8
    assert {cell.config.privacy.private for cell in cells} == {True, False}
    assert {cell.config.privacy.delta for cell in cells} == {1e-5, 1e-6}


@pytest.mark.parametrize(
    ("name", "values", "complaint"),
    [
        ("privacy.noise_multipler", "1", "perhaps you mean privacy.noise_multiplier."),
        ("training.steps", "", "The values of training.steps are &#x27;&#x27;"),
        ("training.steps", "5, [", "The values of training.steps are"),
        ("training.steps", "-5", "training.steps is -5 but"),
        ("privacy.noise_multiplier", "1", "privacy.noise_multiplier is varied twice"),
    ],
)
def test_what_cannot_be_swept_is_said_and_marked_and_not_started(
    panel: Panel, name: str, values: str, complaint: str
) -> None:
    sweeper = panel()
    sweeper.form.varied[1].value, sweeper.form.values[1].value = name, values
    eventually(lambda: complaint in sweeper.planned.value)
    assert "Not used:" in sweeper.planned.value
    with pytest.raises(InputError):
        sweeper.begin()
    sweeper.controls.start.click()
    assert "Not started" in sweeper.message.value
    assert complaint in sweeper.message.value
    assert sweeper.sweep is None
    if "perhaps you mean" not in complaint:
        assert "wb-refused" in sweeper.form.values[1]._dom_classes


def test_more_fields_than_rows_are_refused_by_name(base: RunConfig) -> None:
    with pytest.raises(InputError, match="room for 3"):
        Sweeper(base, dict.fromkeys(["seed", "model.width", "model.layers", "model.heads"], (1,)))


def test_the_plan_tells_cells_price_and_time(panel: Panel, base: RunConfig) -> None:
    sweeper = panel()
    assert "<b>2 cells</b>" in sweeper.planned.value
    eventually(lambda: "about" in sweeper.planned.value)
    assert sweeper.projection is not None
    assert sweeper.projection.cost.runs == 2
    assert "certified" in sweeper.planned.value
    assert "δ = 1e-05" in sweeper.planned.value
    assert "8 steps" in sweeper.planned.value


def test_a_sweep_comes_to_its_table_picture_and_planned_price(
    panel: Panel, base: RunConfig
) -> None:
    sweeper = panel()
    *_, planned = project_sweep(SweepConfig(base=base, grid=GRID))
    sweeper.controls.start.click()
    assert sweeper.sweep is not None
    assert sweeper.form.varied[0].disabled
    ended(sweeper, "<b>Ended.</b> 2 done of 2 cells.")
    assert sweeper.table.value.count('<tr data-state="done">') == 2
    assert sweeper.table.value.count("lowest") == 1
    assert lines_drawn(sweeper) == 2
    assert sweeper.controls.bar.value == 1
    kept = read_sweep(sweeper.sweep.folder)
    eventually(lambda: sweeper.cost is not None)
    assert sweeper.cost == SweepCost.from_dict(kept.attrs["privacy"])
    # What was spent is what the plan had said, because every cell ran to its end.
    assert sweeper.cost == planned.cost
    assert "PLD, poisson sampling, add or remove one record" in sweeper.total.value
    assert not sweeper.form.varied[0].disabled


def test_cancel_then_start_goes_on_in_the_same_folder(panel: Panel, base: RunConfig) -> None:
    sweeper = panel(base.with_changes({"training.steps": 200, "training.evaluate_every": 200}))
    sweep = sweeper.begin()
    eventually(lambda: " of 200" in sweeper.table.value)
    sweeper.controls.cancel.click()
    assert sweeper.controls.cancel.disabled
    ended(sweeper, "<b>Cancelled.</b>")
    counts = sweep.progress().counts
    assert counts["interrupted"] == 1
    assert counts["done"] == 0
    spent = sweep_cost(sweep.folder)
    assert 0 < spent.steps < 400
    eventually(lambda: sweeper.cost == spent)
    sweeper.controls.start.click()
    assert sweeper.sweep is not None
    assert sweeper.sweep is not sweep
    assert sweeper.sweep.folder == sweep.folder


def test_failed_cells_are_listed_not_drawn_and_retried_on_demand(
    panel: Panel, base: RunConfig, tmp_path: Path
) -> None:
    missing = tmp_path / "<later>.txt"
    sweeper = panel(grid={"corpus.source": (base.corpus.source, str(missing))})
    eventually(lambda: "Beware:" in sweeper.planned.value)
    assert sweeper.controls.retry.disabled
    sweeper.begin()
    ended(sweeper, "<b>Ended.</b> 1 done, 1 failed of 2 cells.")
    assert "Cannot read corpus.source" in sweeper.table.value
    assert "&lt;later&gt;.txt" in sweeper.table.value
    assert "<later>" not in sweeper.table.value
    assert lines_drawn(sweeper) == 1
    missing.write_text(Path(base.corpus.source).read_text("utf-8"), encoding="utf-8")
    sweeper.controls.retry.click()
    ended(sweeper, "<b>Ended.</b> 2 done of 2 cells.")
    assert sweeper.controls.retry.disabled


def test_one_sweep_at_a_time_which_a_new_panel_follows(panel: Panel, base: RunConfig) -> None:
    first = panel(base.with_changes({"training.steps": 200, "training.evaluate_every": 200}))
    sweep = first.begin()
    second = panel()
    assert second.sweep is sweep
    assert second.form.config() == sweep.config
    with pytest.raises(InputError, match="already going"):
        second.begin()
    first.controls.cancel.click()
    ended(second, "<b>Cancelled.</b>")
    assert job.latest() is sweep


def test_a_sweep_that_cannot_be_run_says_why(panel: Panel, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "diary.txt").write_text("mine", encoding="utf-8")
    sweeper = panel()
    sweeper.form.folder = taken
    sweeper.begin()
    ended(sweeper, "<b>Failed.</b>")
    assert "is no sweep folder" in sweeper.message.value


def test_time_left_follows_the_pace_of_the_cells_that_have_ended(panel: Panel) -> None:
    projection = SweepProjection(SweepCost.from_dict(_PRICE), 2, 90.0)
    assert "about 1 min 30 s on 2 workers" in text.planned(4, projection)
    running = job.SweepState(1, "running")
    assert "about 5 min left" in text.message(running, Path("x"), 301.0)
    assert "left" not in text.message(running, Path("x"), math.nan)


def test_a_sweep_without_privacy_costs_infinity_in_words() -> None:
    cost = SweepCost.from_dict({**_PRICE, "epsilon": math.inf, "splits": 2})
    shown = text.cost(cost, ended=True)
    assert '<div class="value">∞</div>' in shown
    assert "private in every one" in shown


_PRICE: dict[str, Any] = {
    "epsilon": 3.0,
    "delta": 1e-5,
    "accountant": "pld",
    "sampling": "poisson",
    "neighbouring_relation": "add_or_remove_one",
    "unit": "record",
    "runs": 4,
    "steps": 16,
    "splits": 1,
}
