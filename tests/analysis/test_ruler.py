"""Every ε on the ruler carries its kind, and stands on the side that its kind allows."""

import math

from tests.panels.audit.made import made_run
from workbench.analysis.audited import CANARIES


def test_every_mark_has_a_kind_and_says_it_in_words():
    run = made_run(leak=1.0)
    marks = run.marks("loss")
    kinds = [mark.kind for mark in marks]
    assert kinds == [
        "upper bound",
        "certificate",
        "rejects a curve",
        *["estimate"] * 3,
        "cap",
    ]
    for mark in marks[1:-1]:
        assert mark.kind in mark.words
        assert "δ = 1e-05" in mark.words


def test_lower_bounds_point_up_and_upper_ones_down():
    signs = {mark.kind: mark.sign for mark in made_run(leak=1.0).marks("loss")}
    assert signs["upper bound"] == "≤"
    assert signs["certificate"] == signs["rejects a curve"] == "≥"
    assert signs["estimate"] == "≈"


def test_nothing_bounds_a_run_without_privacy():
    first = made_run(private=False).marks("loss")[0]
    assert math.isinf(first.value)
    assert first.written == "no bound"


def test_no_certificate_lies_above_what_the_sample_could_show():
    for signal in ("loss", CANARIES):
        marks = made_run(leak=5.0, private=False).marks(signal)
        certificate = next(mark for mark in marks if mark.kind == "certificate")
        cap = next(mark for mark in marks if mark.kind == "cap")
        assert 0 < certificate.value <= cap.value


def test_copies_of_a_canary_stand_against_the_groups_guarantee():
    alone, copied = made_run().marks(CANARIES)[0], made_run(repeats=4).marks(CANARIES)[0]
    assert copied.value == 4 * alone.value
    assert "group of 4 copies" in copied.words
    certificate = made_run(repeats=4).marks(CANARIES)[1]
    assert "group of 4 copies" in certificate.words
