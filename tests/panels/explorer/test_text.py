"""The explorer's numbers as text: rounded safely, labelled, the article's marked as its own."""

import math

import pytest

from workbench.analysis import Point, preview
from workbench.panels.common.formatting import written_reading
from workbench.panels.explorer import text
from workbench.presets import find
from workbench.privacy import Guarantee
from workbench.privacy.surface import PREVIEW_ERROR

LAPTOP = Point.from_preset(find("laptop"))
READINGS = preview(LAPTOP)
CERTIFIED = Guarantee(5.03201, 1e-5, "pld", "poisson", "add_or_remove_one", "record")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(5.04, "5.04"), (0.001562, "0.00156"), (2.0, "2.00"), (19_000, "19,000"), (180, "180")],
)
def test_three_digits_are_shown(value: float, shown: str) -> None:
    assert written_reading(value) == shown


def test_what_is_not_there_is_a_dash() -> None:
    assert written_reading(math.nan) == "–"


def test_a_preview_says_so_with_its_error_and_conditions() -> None:
    cards = text.cards(LAPTOP, READINGS, None)
    assert 'data-state="preview"' in cards
    assert PREVIEW_ERROR in cards
    assert "δ = 1e-5, poisson sampling, add or remove one record" in cards
    assert "certified</span>" not in cards


def test_a_certified_value_stands_with_delta_sampling_relation_unit_and_accountant() -> None:
    cards = text.cards(LAPTOP, READINGS, CERTIFIED)
    assert 'data-state="certified"' in cards
    assert '<div class="value">5.033</div>' in cards
    assert "PLD accountant, rounded up" in cards
    assert "δ = 1e-5, poisson sampling, add or remove one record" in cards


def test_without_a_preview_the_card_says_that_the_certified_value_is_coming() -> None:
    point = LAPTOP.changed(noise_multiplier=0.1)
    cards = text.cards(point, preview(point), None)
    assert '<div class="value">–</div>' in cards
    assert text.NO_PREVIEW in cards


@pytest.mark.parametrize(
    ("sigma", "zone"),
    [(0.8, "below 0.5: “acceptable”"), (15.0, "between 0.5 and 1"), (30.0, "above 1: “degrades”")],
)
def test_the_articles_zones_are_named_as_the_articles(sigma: float, zone: str) -> None:
    point = LAPTOP.changed(noise_multiplier=sigma)
    cards = text.cards(point, preview(point), None)
    assert f"the article’s zones: {zone}" in cards
    assert "The article’s NSR" in cards


def test_length_and_tokens_are_shown() -> None:
    cards = text.cards(LAPTOP, READINGS, None)
    for fact in ("steps <b>300", "epochs <b>8.17", "tokens <b>9,830,400", "1/N <b>5.3e-5"):
        assert fact in cards


def test_stale_cards_are_greyed() -> None:
    assert "wb-stale" in text.cards(LAPTOP, READINGS, None, stale=True)
    assert "wb-stale" not in text.cards(LAPTOP, READINGS, None)


def test_provenance_tells_what_the_source_states() -> None:
    line = text.provenance(find("de_imagenet"))
    assert "arXiv 2204.13650" in line
    assert line.endswith("It states ε = 8.</div>")
    assert "states" not in text.provenance(find("laptop"))


def test_comparison_puts_the_pinned_first_and_says_what_is_not_certified_yet() -> None:
    other = LAPTOP.changed(noise_multiplier=2.0)
    table = text.comparison((other, preview(other), None), (LAPTOP, READINGS, CERTIFIED))
    assert "<td>5.033 (PLD)</td><td>not yet</td>" in table
    assert "<td>0.8</td><td>2</td>" in table
    assert "Press “Pin”" in text.comparison((LAPTOP, READINGS, None), None)
