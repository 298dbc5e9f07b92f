"""The shared look: legible on white and on black, nothing sent anywhere."""

import pytest

from workbench.figures.theme import BLUE, CONFIG, GREEN, GREY, ORANGE, PINK, axis, layout


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colour", [BLUE, ORANGE, GREEN, PINK, GREY])
@pytest.mark.parametrize("ground", ["#FFFFFF", "#111111"])
def test_lines_stand_out_from_both_themes(colour: str, ground: str) -> None:
    low, high = sorted([luminance(colour), luminance(ground)])
    least = 2.7 if colour == PINK else 3.0  # PINK is drawn wider, and dotted
    assert (high + 0.05) / (low + 0.05) >= least


def test_plotly_offers_no_upload() -> None:
    assert CONFIG["showSendToCloud"] is False


def test_an_axis_always_says_its_type() -> None:
    assert axis("steps")["type"] == "linear"
    assert axis("steps", log=True)["type"] == "log"
    assert axis("steps")["title"]["text"] == "steps"


def test_the_ground_is_the_pages_own() -> None:
    assert layout(height=100)["paper_bgcolor"].endswith("0)")
