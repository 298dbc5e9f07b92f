"""Schedules as steps, and what has been spent as a bound on every step."""

from typing import Any

from workbench.analysis.schedule import Plan
from workbench.figures.schedule import schedule_figure, schedule_traces

PLAN = Plan(noise_kind="step", noise_start=1.2, noise_end=0.6, batch_kind="linear", batch_end=1024)


def test_plateaus_start_at_zero_and_end_with_the_run() -> None:
    drawn = schedule_traces(PLAN.stages, {})
    assert drawn["σ"]["x"][0] == 0
    assert drawn["σ"]["x"][-1] == 300
    assert (drawn["σ"]["y"][0], drawn["σ"]["y"][-1]) == (1.2, 0.6)
    assert (drawn["batch B"]["y"][0], drawn["batch B"]["y"][-1]) == (512, 1024)


def test_what_is_known_of_the_spending_is_drawn_in_order_from_nothing() -> None:
    spent = schedule_traces(PLAN.stages, {300: 6.0, 50: 1.0, 100: 2.0})["ε spent (certified)"]
    assert list(spent["x"]) == [0, 50, 100, 300]
    assert list(spent["y"]) == [0, 1, 2, 6]


def test_between_two_certified_steps_the_line_is_at_the_later_one() -> None:
    """A step of a stage has spent at most what the stage has, so 'vh' never understates."""
    figure: Any = schedule_figure(PLAN.stages, {})
    shapes = {trace.name: trace.line.shape for trace in figure.data}
    assert shapes == {"σ": "hv", "batch B": "hv", "ε spent (certified)": "vh"}


def test_each_quantity_has_an_axis_of_its_own_with_its_name() -> None:
    figure: Any = schedule_figure(PLAN.stages, {})
    titles = [figure.layout[axis].title.text for axis in ("yaxis", "yaxis2", "yaxis3", "xaxis2")]
    assert titles == ["noise multiplier σ", "batch B", "ε spent", "step"]
    axes = {trace.name: trace.yaxis for trace in figure.data}
    assert (axes["batch B"], axes["ε spent (certified)"]) == ("y2", "y3")
