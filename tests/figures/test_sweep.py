"""A sweep's cells as lines: every swept value in its place, only what is done, and good is blue."""

import json
import math
from typing import Any

import pandas as pd
import pytest

from workbench.figures.sweep import label, sweep_figure, sweep_trace

FIELDS = ("privacy.noise_multiplier", "training.optimizer")


def results(**columns: Any) -> pd.DataFrame:
    given = {
        "state": ["done", "failed", "done", "running", "done"],
        "privacy.noise_multiplier": [1.2, 1.2, 0.6, 0.6, 0.8],
        "training.optimizer": ["sgd", "adamw", "adamw", "sgd", "adamw"],
        "epsilon": [1.0, math.nan, 4.0, math.nan, 2.0],
        "heldout_perplexity": [90.0, math.nan, 60.0, math.nan, 75.0],
    }
    return pd.DataFrame(given | columns)


def axes(frame: pd.DataFrame) -> dict[str, Any]:
    return {axis["label"]: axis for axis in sweep_trace(frame, FIELDS)["dimensions"]}


def test_only_cells_that_are_done_are_drawn() -> None:
    drawn = axes(results())
    assert drawn["held-out perplexity"]["values"].tolist() == [90, 60, 75]
    assert {len(axis["values"]) for axis in drawn.values()} == {3}


def test_swept_values_stand_in_their_order_at_equal_distances() -> None:
    drawn = axes(results())
    assert drawn["noise σ"]["values"].tolist() == [2, 0, 1]
    assert drawn["noise σ"]["ticktext"] == ["0.6", "0.8", "1.2"]
    assert drawn["optimizer"]["values"].tolist() == [1, 0, 0]
    assert drawn["optimizer"]["ticktext"] == ["adamw", "sgd"]


def test_a_value_of_unfinished_cells_keeps_its_place() -> None:
    """Axes must not jump when the first cell of a value is done."""
    frame = results(state=["failed", "failed", "done", "running", "done"])
    assert axes(frame)["noise σ"]["ticktext"] == ["0.6", "0.8", "1.2"]


def test_a_field_that_some_cells_leave_empty_has_a_place_for_it() -> None:
    frame = results(**{"privacy.noise_multiplier": [1.2, 1.2, math.nan, 0.6, 0.6]})
    drawn = axes(frame)["noise σ"]
    assert drawn["ticktext"] == ["0.6", "1.2", "none"]
    assert drawn["values"].tolist() == [1, 2, 0]


def test_many_values_get_few_labels() -> None:
    sigmas = [1 + step / 100 for step in range(100)]
    frame = pd.DataFrame(
        {"state": "done", FIELDS[0]: sigmas, "epsilon": sigmas, "heldout_perplexity": sigmas}
    )
    drawn = sweep_trace(frame, FIELDS[:1])["dimensions"][0]
    assert len(drawn["ticktext"]) <= 12
    assert drawn["ticktext"][0] == "1"
    assert drawn["values"].tolist() == list(range(100))


def test_colour_follows_held_out_perplexity_from_blue_to_orange() -> None:
    shown: Any = sweep_figure(results(), FIELDS).data[0]
    assert list(shown.line.color) == [90, 60, 75]
    assert (shown.line.colorscale[0][1], shown.line.colorscale[-1][1]) == ("#0072B2", "#D55E00")
    assert shown.line.cmin < 60 < 90 < shown.line.cmax


def test_epsilon_has_no_axis_where_a_run_is_not_private() -> None:
    assert "ε of the run" in axes(results())
    assert "ε of the run" not in axes(results(epsilon=[math.inf, math.nan, 4.0, math.nan, 2.0]))


@pytest.mark.parametrize("states", [["waiting"] * 5, ["done", *["failed"] * 4]])
def test_no_cell_or_one_makes_a_picture_that_json_can_carry(states: list[str]) -> None:
    """A NaN or an axis of no length would be an error in the browser."""
    built = sweep_figure(results(state=states), FIELDS)
    text = built.to_json()
    assert text is not None
    assert "NaN" not in text
    for axis in json.loads(text)["data"][0]["dimensions"]:
        assert axis["range"][0] < axis["range"][1]


def test_a_field_is_called_by_its_letter_or_its_last_name() -> None:
    assert label("privacy.max_grad_norm") == "clip norm C"
    assert label("schedule.noise.end_factor") == "end factor"
    assert label("seed") == "seed"
