"""ε against steps, with the target and where the budget is spent."""

import math
from typing import Any

import numpy as np
import pytest

from workbench.analysis import BudgetCurve, Point, budget_curve, preview
from workbench.figures.budget import budget_figure, budget_ranges, budget_traces
from workbench.presets import find

LAPTOP = Point.from_preset(find("laptop"))
CURVE = budget_curve(LAPTOP)


def traces(**changes: Any) -> Any:
    given: dict[str, Any] = {
        "steps": 300,
        "epsilon": preview(LAPTOP).epsilon,
        "target_epsilon": 8.0,
    }
    return budget_traces(CURVE, **(given | changes))


def test_the_run_lies_on_the_curve_and_the_target_spans_it() -> None:
    drawn = traces()
    assert drawn["ε after T steps"]["x"] is CURVE.steps
    assert (drawn["this run"]["x"], drawn["this run"]["y"]) == ([300.0], [preview(LAPTOP).epsilon])
    assert list(drawn["target ε"]["x"]) == [1, 1000]
    assert set(drawn["target ε"]["y"]) == {8.0}


def test_the_crossing_is_marked_with_its_steps() -> None:
    spent = traces()["budget spent"]
    (steps,) = spent["x"]
    assert np.interp(steps, CURVE.steps, CURVE.epsilon) == pytest.approx(8, rel=0.01)
    assert spent["text"] == [f"{steps:,.0f} steps"]
    assert traces(target_epsilon=1000.0)["budget spent"]["text"] == [""]


def test_a_pinned_curve_joins_the_legend() -> None:
    other = budget_curve(LAPTOP.changed(noise_multiplier=2.0))
    assert traces()["pinned"]["showlegend"] is False
    pinned = traces(pinned=other)["pinned"]
    assert pinned["showlegend"]
    assert pinned["y"] is other.epsilon


def test_axes_are_logarithmic_and_say_that_epsilon_is_a_preview() -> None:
    layout: Any = budget_figure(CURVE, steps=300, epsilon=5.0, target_epsilon=8).layout
    assert (layout.xaxis.type, layout.yaxis.type) == ("log", "log")
    assert (layout.xaxis.title.text, layout.yaxis.title.text) == ("steps T", "ε (preview)")
    assert list(layout.xaxis.range) == [0, 3]


def test_nothing_finer_than_the_previews_error_is_shown() -> None:
    curve = BudgetCurve(np.array([1.0, 1000.0]), np.array([1e-7, 0.003]))
    assert budget_ranges(curve, 8.0)["yaxis.range"] == [-2, 1]
    assert budget_ranges(curve, 1e-4)["yaxis.range"] == [-2, 0]


def test_an_unknown_curve_still_shows_the_target() -> None:
    unknown = BudgetCurve(CURVE.steps, np.full(CURVE.steps.shape, math.nan))
    assert budget_ranges(unknown, 8.0)["yaxis.range"] == [0, 1]
    low, high = budget_ranges(CURVE, 300.0)["yaxis.range"]
    assert 10**low <= CURVE.epsilon.min()
    assert 10**high >= 300
