"""The ROC ceilings: three bounds and guessing, on both scales, told apart without colour."""

from typing import Any

import numpy as np

from workbench.analysis import ceilings
from workbench.figures.roc import roc_figure, roc_scale, roc_traces

BOUNDS = ceilings(5.0, 1e-5)


def test_each_curve_is_its_bound_and_the_mechanism_waits_for_its_own() -> None:
    drawn = roc_traces(BOUNDS)
    assert drawn["(ε, δ)"]["y"] is BOUNDS.epsilon_delta
    assert drawn["Gaussian"]["y"] is BOUNDS.gaussian
    assert drawn["guessing"]["y"] is BOUNDS.false_positive_rate
    assert np.isnan(drawn["the mechanism"]["y"]).all()
    mechanism = np.sqrt(BOUNDS.false_positive_rate)
    assert roc_traces(BOUNDS, mechanism)["the mechanism"]["y"] is mechanism


def test_a_pinned_ceiling_is_shown_only_when_there_is_one() -> None:
    assert roc_traces(BOUNDS)["pinned, as Gaussian"]["showlegend"] is False
    pinned = ceilings(1.0, 1e-5)
    drawn = roc_traces(BOUNDS, None, pinned)["pinned, as Gaussian"]
    assert drawn["showlegend"]
    assert drawn["y"] is pinned.gaussian


def test_log_log_shows_rates_from_a_millionth_and_linear_the_whole_square() -> None:
    log, linear = roc_scale(log=True), roc_scale(log=False)
    assert (log["xaxis"]["type"], log["xaxis"]["range"]) == ("log", [-6, 0])
    assert (linear["yaxis"]["type"], linear["yaxis"]["range"]) == ("linear", [0, 1.02])
    layout: Any = roc_figure(BOUNDS, log=False).layout
    assert layout.xaxis.type == "linear"
    assert layout.yaxis.title.text == "true positive rate"


def test_curves_differ_in_dash_as_well_as_in_colour() -> None:
    data: Any = roc_figure(BOUNDS).data
    looks = {(trace.line.dash, trace.line.width) for trace in data}
    assert len(looks) == len(data)
