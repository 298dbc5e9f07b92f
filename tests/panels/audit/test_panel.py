"""The audit panel without a browser: what the threshold moves, and what is refused in words."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.panels.audit.made import made_run
from workbench.figures.audit_roc import RING
from workbench.panels import Auditor
from workbench.panels.audit import job
from workbench.panels.audit.findings import Findings
from workbench.panels.audit.views import TITLES


@pytest.fixture
def auditor(tmp_path: Path) -> Iterator[Auditor]:
    made = Auditor(folders=[tmp_path])
    made.findings.show([made_run(private=False, leak=2.0), made_run(leak=0.0)])
    yield made
    made.close()


@pytest.fixture
def panel(auditor: Auditor) -> Findings:
    return auditor.findings


def traces(panel: Findings, picture: str) -> tuple[Any, ...]:
    return getattr(panel.figures, picture).figure.data


def ring(panel: Findings) -> tuple[float, float]:
    trace = next(trace for trace in traces(panel, "roc") if trace.name == RING)
    return float(trace.x[0]), float(trace.y[0])


def test_an_empty_panel_says_what_to_do(tmp_path: Path):
    empty = Auditor(folders=[tmp_path])
    assert "Train and audit" in empty.message.value
    assert "appear here" in str(empty.findings.children[0].value)  # type: ignore[attr-defined]
    empty.controls.audit.click()
    assert "No run is chosen" in empty.message.value
    assert 'data-state="refused"' in empty.message.value
    empty.close()


def test_moving_the_slider_moves_ring_line_and_counts(panel: Findings):
    panel.view.signal.value = "loss"
    low, high = panel.runs[0].ranking("loss").span
    for place in np.linspace(low, high, 7)[1:-1]:
        panel.threshold.slider.value = float(place)
        scores, member, _ = panel.runs[0].scores("loss")
        called = scores >= panel.threshold.value
        assert ring(panel)[1] == pytest.approx((called & member).sum() / member.sum())
        assert f'<div class="value">{(called & member).sum():,}</div>' in panel.counts.value
        assert f"of {called.sum():,} called members" in panel.counts.value
        line = next(t for t in traces(panel, "scores") if t.name == "threshold")
        assert line.x[0] == panel.threshold.value


def test_slider_and_field_follow_each_other(panel: Findings):
    panel.threshold.slider.value = panel.threshold.slider.min
    assert float(panel.threshold.field.value) == pytest.approx(panel.threshold.value, rel=1e-3)
    panel.threshold.field.value = "1.25"
    assert panel.threshold.value == panel.threshold.slider.value == 1.25


def test_a_threshold_that_is_no_number_is_refused_in_a_sentence(panel: Findings):
    before = panel.threshold.value
    panel.threshold.field.value = "high"
    assert "Threshold is &#x27;high&#x27; but must be a number" in panel.status.value
    assert panel.threshold.value == before


def test_a_rate_too_low_to_tell_is_greyed(panel: Findings):
    panel.threshold.field.value = "1000"
    assert "wb-rate wb-stale" in panel.counts.value
    assert "too few to tell" in panel.counts.value
    panel.threshold.field.value = "-1000"
    assert "wb-stale" not in panel.counts.value


def test_a_click_on_another_models_curve_shows_that_model_there(panel: Findings):
    panel.view.signal.value = "loss"
    curve = panel.runs[1].ranking("loss").curve
    corner = curve.at(0.3)
    figure = panel.figures.roc  # type: ignore[union-attr]
    clicked = {"clicked": "private", "x": curve.fpr[corner], "y": curve.tpr[corner]}
    figure._asked(figure, {**clicked, "x": float(clicked["x"]), "y": float(clicked["y"])}, None)
    assert panel.view.model.value == "private"
    assert ring(panel) == (curve.fpr[corner], curve.tpr[corner])
    assert panel.threshold.value == curve.thresholds[corner]


def test_a_click_on_what_theory_allows_moves_nothing(panel: Findings):
    before = panel.threshold.value
    panel._clicked("(ε, δ) allows", 0.5, 0.5)
    assert panel.threshold.value == before


def test_the_axes_and_the_band_can_be_changed(panel: Findings):
    layout: Any = panel.figures.roc.figure.layout  # type: ignore[union-attr]
    assert layout.xaxis.type == "log"
    panel.view.axes.value = False
    assert layout.xaxis.type == layout.yaxis.type == "linear"
    upper = next(t for t in traces(panel, "roc") if t.name == "private: upper limit")
    exact = np.array(upper.y)
    panel.view.band.value = "bootstrap"
    assert len(upper.y) != len(exact)
    panel.view.band.value = ""
    assert np.isnan(np.array(upper.y, float)).all()


def test_the_verdict_comes_with_its_controls(panel: Findings):
    told = panel.verdict.value
    assert "leak found" in told
    for control in ("Blind baseline", "Positive control", "Negative control"):
        assert control in told
    panel.view.model.value = "private"
    assert "no positive control" in panel.verdict.value


def test_every_epsilon_in_words_bears_its_kind(panel: Findings):
    for model in ("private", "not private"):
        panel.view.model.value = model
        items = panel.words.value.split("<li>")[1:]
        assert items
        assert all('class="wb-badge"' in item for item in items)


def test_every_fold_shows_something_for_every_signal(panel: Findings):
    for signal in ("canaries", "loss", "reference"):
        panel.view.signal.value = signal
        for place, title in enumerate(TITLES):
            panel.views.selected_index = place
            assert panel.views.parts[place].children, (signal, title)


def test_records_are_escaped_wherever_they_are_shown(panel: Findings):
    panel.view.signal.value = "loss"
    panel.views.selected_index = TITLES.index("Most exposed records, and where in them")
    shown = [panel.fallen.value, *(getattr(w, "value", "") for w in panel.views.parts[1].children)]
    told = "".join(str(part) for part in shown)
    assert "&lt;script&gt;" in told
    assert "&lt;3&gt;" in told  # a token
    assert "<script>" not in told


def test_the_heat_map_compares_models_on_the_same_record(panel: Findings):
    panel.view.signal.value = "loss"
    panel.views.selected_index = 1
    told = panel.views._tokens.value
    assert told.count('class="wb-heat"') == 2
    run, record = panel.runs[0], panel.views.record.value
    assert isinstance(record, int)
    target = run.audit.target
    assert target.reference is not None
    of = slice(target.told.offsets[record], target.told.offsets[record + 1])
    gain = (target.told.log_p[of] - target.reference.log_p[of]).sum()
    assert f"not private: {gain:+.1f} nats in all" in told


def test_what_lower_risk_means_is_computed_from_the_two_runs(panel: Findings):
    panel.view.signal.value = "loss"
    panel.views.selected_index = TITLES.index("The article's thresholds, and what lower risk means")
    told = "".join(str(getattr(w, "value", "")) for w in panel.views.parts[3].children)
    assert "lower by" in told
    assert "65.9" in told
    assert "refutes ε below ln 2.5 = 0.92" in told


def test_a_run_without_the_signal_says_why_it_is_not_shown(panel: Findings):
    bare = made_run(private=False, label="bare")
    object.__setattr__(bare, "canaries", None)
    panel.show([*panel.runs, bare])
    panel.view.signal.value = "canaries"
    panel.view.model.value = "bare"
    assert "bare has no canaries" in panel.status.value


@pytest.mark.parametrize(
    ("field", "text", "sentence"),
    [
        ("epsilons", "8, none", "Private at ε is &#x27; none&#x27; but must be a number"),
        ("epsilons", "-1", "Private at ε must be above 0"),
        ("canaries", "3", "Canaries is 3 but must be at least 20"),
        ("most", "many", "Records is &#x27;many&#x27; but must be a number"),
    ],
)
def test_bad_input_is_answered_and_its_field_marked(
    auditor: Auditor, field: str, text: str, sentence: str
):
    getattr(auditor.form, field).value = text
    auditor.controls.train.click()
    assert sentence in auditor.message.value
    assert "wb-refused" in getattr(auditor.form, field)._dom_classes
    assert job.latest() is None or not job.latest().active  # type: ignore[union-attr]


def test_a_folder_that_is_no_run_is_told(auditor: Auditor, tmp_path: Path):
    auditor.form.other.value = str(tmp_path / "nothing")
    assert auditor.begin().wait(60).phase == "failed"
    assert "nothing" in auditor.job.wait().error  # type: ignore[union-attr]


def test_every_control_has_a_name(auditor: Auditor):
    def controls(widget: Any) -> Iterator[Any]:
        yield widget
        for child in getattr(widget, "children", ()):
            yield from controls(child)

    for widget in controls(auditor):
        if hasattr(widget, "disabled"):
            assert widget.description or widget.tooltip, widget
