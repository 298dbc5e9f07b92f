"""What pictures say of themselves: a line each, true of what they show."""

import math

import numpy as np
import pandas as pd

from workbench.analysis import Point, ceilings, policies
from workbench.figures import gradients, planes, roc, sweep
from workbench.figures import policies as policies_picture
from workbench.figures.live import LiveFigure
from workbench.figures.theme import axis, figure, layout
from workbench.presets import find


def test_the_planes_tell_where_the_ring_and_the_diamond_are() -> None:
    point = Point.from_preset(find("laptop"))
    assert "The ring is at σ = 0.8 and B = 512." in planes.told(point)
    pinned = point.changed(noise_multiplier=2.0, expected_batch_size=1024)
    assert "B = 512, the pinned diamond at σ = 2 and B = 1,024." in planes.told(point, pinned)


def test_the_roc_tells_what_it_bounds_at_a_thousandth() -> None:
    bounds = ceilings(1.0, 1e-5)
    place = int(np.argmin(np.abs(np.log(bounds.false_positive_rate / 1e-3))))
    assert f"at most {bounds.epsilon_delta[place]:.3g} by (ε, δ)." in roc.told(bounds)
    mechanism = np.full(bounds.false_positive_rate.shape, 0.5)
    assert "by (ε, δ) and 0.5 by the mechanism." in roc.told(bounds, mechanism)


def test_the_histogram_counts_what_is_clipped() -> None:
    told = gradients.histogram(np.array([0.5, 0.6, 2.0, 3.0, 4.0]), max_grad_norm=1.0).shows
    assert told.endswith("3 of 5 are clipped to C = 1.")


def test_a_sweep_tells_its_best_cell() -> None:
    frame = pd.DataFrame(
        {
            "privacy.noise_multiplier": [0.6, 1.2, 2.4],
            "state": ["done", "done", "running"],
            "heldout_perplexity": [90.0, 70.0, math.nan],
        }
    )
    told = sweep.told(frame, ["privacy.noise_multiplier"])
    assert told == (
        "A line for each of the 2 cells done, of 3: from noise σ to held-out perplexity. "
        "The lowest is 70, at noise σ 1.2."
    )
    assert "lowest" not in sweep.told(frame.tail(1), ["privacy.noise_multiplier"])


def test_policies_tell_each_gain_and_the_articles() -> None:
    gains = policies.policy_gains(policies.measured_policies())
    told = policies_picture.told(gains, 15.8)
    assert f"σ falls {gains['gain']['falling_noise']:.1f} %" in told
    assert told.endswith("the article states up to 15.8 %.")


def test_a_redraw_tells_what_there_is_now_and_else_leaves_it() -> None:
    shown = LiveFigure(
        figure({"a": {"x": [0], "y": [1]}}, layout(height=100, shows="before", xaxis=axis("x")))
    )
    shown.redraw({"a": {"y": [2]}})
    assert shown.figure.layout["meta"] == {"shows": "before", "newest": False}
    shown.redraw({}, shows="after")
    assert shown.figure.layout["meta"] == {"shows": "after", "newest": False}
