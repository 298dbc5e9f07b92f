"""Knobs keep exact values, tell of moves once, and refuse in words."""

import math

import pytest

from workbench.errors import InputError
from workbench.panels.common.controls import Knob, framed
from workbench.panels.common.formatting import number, written
from workbench.panels.common.markup import status_html


class Heard:
    """What a knob told."""

    def __init__(self) -> None:
        self.moves: list[tuple[str, float]] = []
        self.refusals: list[str] = []

    def knob(self, *, whole: bool = False, low: float = 0.01, high: float = 1e6) -> Knob:
        knob = Knob(
            "amount",
            "Amount A",
            "How much.",
            low=low,
            high=high,
            whole=whole,
            on_change=lambda name, value: self.moves.append((name, value)),
            on_bad_input=lambda error: self.refusals.append(str(error)),
        )
        knob.show(8.0)
        return knob


def test_showing_a_value_tells_nobody_and_keeps_it_exact() -> None:
    heard = Heard()
    knob = heard.knob()
    knob.show(19_531_250.25)
    assert (knob.value, knob.slider.value) == (19_531_250.25, 1e6)
    assert heard.moves == []


def test_a_slide_is_told_once_and_fills_the_field() -> None:
    heard = Heard()
    knob = heard.knob()
    knob.slider.value = 123.456
    assert heard.moves == [("amount", 123.5)]
    assert knob.field.value == "123.5"


def test_the_browser_reporting_the_nearest_tick_is_not_a_move() -> None:
    heard = Heard()
    knob = heard.knob()
    knob.slider.value = 8.0 * 10**0.004  # less than half a tick of 0.01 decades
    assert heard.moves == []
    knob.slider.value = 8.0 * 10**0.01
    assert len(heard.moves) == 1


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-5", 1e-5), ("19,000", 19_000), ("13e9", 13e9), (" 512 ", 512), ("1 000 000", 1e6)],
)
def test_the_field_takes_numbers_as_people_write_them(text: str, value: float) -> None:
    heard = Heard()
    knob = heard.knob()
    knob.field.value = text
    assert heard.moves == [("amount", value)]


@pytest.mark.parametrize("text", ["abc", "", "nan", "inf", "1,5", "1e400", "<b>1</b>", "5 apples"])
def test_anything_else_is_refused_by_name_and_the_last_value_comes_back(text: str) -> None:
    heard = Heard()
    knob = heard.knob()
    knob.field.value = text
    assert heard.moves == []
    assert heard.refusals == [
        f"Amount A is {text!r} but must be a number; type one such as 0.5, 19,000 or 1e-5."
    ]
    assert (knob.field.value, knob.value) == ("8", 8.0)


def test_a_count_is_whole_by_slider_and_by_field() -> None:
    heard = Heard()
    knob = heard.knob(whole=True)
    knob.slider.value = 512.4
    knob.field.value = "700.6"
    assert heard.moves == [("amount", 512.0), ("amount", 701.0)]
    assert knob.field.value == "701"


def test_a_disabled_knob_cannot_be_moved_by_slider_or_field() -> None:
    knob = Heard().knob()
    knob.disable(True)
    assert knob.slider.disabled
    assert knob.field.disabled


def test_every_knob_says_in_words_what_it_is() -> None:
    knob = Heard().knob()
    assert knob.slider.description == "Amount A"
    assert knob.field.tooltip == "Amount A: How much. Type a number."


@pytest.mark.parametrize(
    ("value", "whole", "text"),
    [
        (19_531_250.0, True, "19,531,250"),
        (1.27e10, True, "1.27e10"),
        (1e-5, False, "1e-5"),
        (0.8, False, "0.8"),
        (140_000.0, True, "140,000"),
    ],
)
def test_numbers_are_written_short_and_read_back(value: float, whole: bool, text: str) -> None:
    assert written(value, whole=whole) == text
    assert number("x", text) == value


def test_a_number_names_its_field() -> None:
    with pytest.raises(InputError, match="Batch B is 'x' but must be a number"):
        number("Batch B", "x")
    assert math.isclose(number("Batch B", "2.5e1"), 25)


def test_status_is_escaped_and_read_out() -> None:
    line = status_html("<script> & co", kind="Not used")
    assert "<script>" not in line
    assert 'role="status"' in line
    assert "<b>Not used:</b>" in line
    assert "<b>" not in status_html("", kind="Warning")


def test_a_framed_figure_has_no_upload_button() -> None:
    import plotly.graph_objects as go

    *_, figure = framed(go.Figure()).children
    assert figure.config["showSendToCloud"] is False
