"""Pictures of an audit: what is redrawn is there, bands hold their curve, zero rates are drawn."""

import numpy as np
import pytest

from tests.panels.audit.made import made_run
from workbench.analysis.ruler import Mark
from workbench.figures import audit_roc, audit_ruler, audit_scores
from workbench.figures.audit_views import gaps_figure, layers_figure, mechanism_figure
from workbench.figures.theme import Traces


def curve(name: str = "a") -> audit_roc.Curve:
    fpr, tpr = np.array([0, 0.5, 1]), np.array([0.2, 0.6, 1])
    return audit_roc.Curve(name, fpr, tpr, fpr, tpr - 0.1, np.minimum(1, tpr + 0.1))


def all_traces() -> Traces:
    bounds = made_run().ceilings
    return {
        **audit_roc.curve_traces([curve()]),
        **audit_roc.allowed_traces(bounds, bounds.gaussian),
        **audit_roc.ring_traces(fpr=0.0, tpr=0.2),
        **audit_roc.resolution_traces(50),
        **audit_roc.article_traces(shown=True),
    }


def test_every_trace_that_is_moved_is_in_the_figure():
    scale = audit_roc.audit_scale(log=True, nonmembers=50)
    figure = audit_roc.audit_roc_figure(["a"], all_traces(), scale, shows="curves")
    assert set(all_traces()) <= {trace.name for trace in figure.data}


def test_rates_of_zero_stay_on_a_logarithmic_axis():
    drawn = audit_roc.curve_traces([curve()])["a"]["x"]
    assert (drawn > 0).all()
    assert drawn[0] < 1e-6


def test_lines_differ_in_dash_as_well_as_in_colour():
    dashes = [line["dash"] for line in audit_roc.LINES]
    assert len(set(dashes)) == len(dashes)


def test_the_axes_reach_below_what_the_sample_resolves_and_no_further():
    low = audit_roc.audit_scale(log=True, nonmembers=100)["xaxis"]["range"][0]
    assert -4 <= low < np.log10(1 / 100)


def test_bars_count_every_record_once_also_infinite_ones():
    scores = np.array([0.0, 1.0, np.inf, -np.inf, np.nan])
    bars, _ = audit_scores.score_traces(scores, np.array([True, True, True, False, True]))
    assert bars["members"]["y"].sum() == 3
    assert bars["others"]["y"].sum() == 1


@pytest.mark.parametrize("log", [True, False])
def test_the_ruler_shows_no_mark_where_nothing_bounds(log: bool):
    marks = [Mark("accountant", "upper bound", np.inf, ""), Mark("m", "estimate", 0.0, "")]
    drawn = audit_ruler.ruler_traces(marks, log=log)["ε"]
    assert drawn["marker"]["opacity"] == [0.0, 1.0]
    assert np.isfinite(drawn["x"]).all()
    ticks = audit_ruler.ruler_layout(marks, log=log)["yaxis"]["ticktext"]
    assert all(mark.kind in tick for mark, tick in zip(marks, ticks, strict=True))


def test_lines_on_the_ruler_go_where_the_truth_may_lie():
    marks = [Mark("a", "certificate", 2.0, ""), Mark("b", "upper bound", 4.0, "")]
    x = audit_ruler.ruler_traces(marks, log=False)["where ε may lie"]["x"]
    assert x[1] > x[0] == 2.0
    assert x[4] < x[3] == 4.0


def test_layers_and_gaps_are_told_in_words():
    run = made_run()
    assert run.layers is not None
    shown = layers_figure({"a": run.layers}).layout["meta"]["shows"]
    assert f"{run.layers.layers[0].auc:.3f}" in shown
    assert "a: 0.300" in gaps_figure({"a": (0.3, 0.1)}).layout["meta"]["shows"]


def test_a_flagged_check_has_another_marker():
    from workbench.audit.mechanism_checks import Finding, Measured

    found = [
        Finding("noise", 2.0, Measured(1.0, 0.9, 1.1), 1e-9),
        Finding("rate", 0.5, Measured(0.5, 0.4, 0.6), 0.5),
    ]
    figure = mechanism_figure(found, ["noise"])
    symbols = {trace.name: (trace.marker.symbol, list(trace.x)) for trace in figure.data[1:]}
    assert symbols == {"holds": ("circle", [1.0]), "flagged": ("x", [0.5])}
