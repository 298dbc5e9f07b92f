"""The pictures of a run: what stands in them is what was measured, and redrawing stays cheap."""

import base64
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from workbench.figures import gradients, training
from workbench.figures.live import LiveFigure
from workbench.figures.picture import Picture, log_ticks
from workbench.runs.folder import METRICS


def metrics(steps: int, *, every: int = 25, **columns: Any) -> pd.DataFrame:
    """A run of so many steps after step 0, as its folder keeps it."""
    step = np.arange(steps + 1.0)
    began = step == 0
    values = {
        "step": step,
        "loss": np.where(began, math.nan, 6 - step / steps),
        "heldout_loss": np.where(step % every == 0, 6.2 - step / steps, math.nan),
        "epsilon": 5 * np.sqrt(step / steps),
        "batch_size": np.where(began, 0, 500.0),
        "clipped_fraction": np.where(began, 0, 0.75),
        "max_grad_norm": np.ones(steps + 1),
        **{
            name: np.where(began, math.nan, value)
            for name, value in {
                "norm_p10": 0.8,
                "norm_median": 1.2,
                "norm_p90": 1.9,
                "noise_to_signal": 3.0,
                "predicted_noise_to_signal": 3.1,
                "tokens_per_second": 21_000.0,
            }.items()
        },
        "memory_mb": np.full(steps + 1, 612.0),
        **columns,
    }
    return pd.DataFrame(values, columns=METRICS)


NOTHING = metrics(1).iloc[:0]
DRAWN: dict[str, Callable[[pd.DataFrame], Picture]] = {
    "learning": lambda run: training.learning(run, steps=300, past={"A": run}),
    "spending": lambda run: training.spending(run, steps=300, budget=5.0, past={"D": run}),
    "speed": lambda run: training.speed(run, steps=300),
    "clipping": lambda run: gradients.clipping(run, steps=300),
    "noise": lambda run: gradients.noise(run, steps=300),
    "histogram": lambda run: gradients.histogram(np.linspace(0.2, 3, len(run)), max_grad_norm=1.0),
}
each_picture = pytest.mark.parametrize("drawn", DRAWN.values(), ids=DRAWN)


@each_picture
@pytest.mark.parametrize("run", [NOTHING, metrics(2).iloc[:1], metrics(300)], ids=len)
def test_a_live_figure_becomes_what_a_still_one_is(
    drawn: Callable[[pd.DataFrame], Picture], run: pd.DataFrame
):
    live = LiveFigure(drawn(NOTHING).figure())
    now = drawn(run)
    live.redraw(now.traces, now.ranges)
    still = now.figure().to_plotly_json()
    assert [trace["name"] for trace in live.figure.to_plotly_json()["data"]] == [*now.styles]
    for shown, expected in zip(live.figure.to_plotly_json()["data"], still["data"], strict=True):
        np.testing.assert_array_equal(shown["x"], expected["x"])
        np.testing.assert_array_equal(shown["y"], expected["y"])
    assert live.figure.layout["xaxis"]["range"] == now.figure().layout["xaxis"]["range"]


@each_picture
def test_what_a_browser_is_told_makes_the_same_of_it(
    drawn: Callable[[pd.DataFrame], Picture], monkeypatch: pytest.MonkeyPatch
):
    live, sent = LiveFigure(drawn(NOTHING).figure()), []
    monkeypatch.setattr(live, "send", lambda message: sent.append(read(message)))
    live._handle_custom_msg("listening", [])
    now = drawn(metrics(300))
    live.redraw(now.traces, now.ranges, shows=now.shows)
    page, change = sent[0]["whole"], sent[1]
    for trace in page["data"]:
        told(trace, change["traces"].get(trace["name"], {}))
    told(page["layout"], change["layout"])
    page["layout"]["meta"]["shows"] = change["shows"]
    still = read(str(now.figure().to_json()))
    assert page["data"] == still["data"]
    still["layout"].setdefault("annotations", [])
    assert {"annotations": [], **page["layout"]} == still["layout"]


def read(message: str) -> dict[str, Any]:
    """A message with its numbers as plotly.js reads them."""

    def revived(value: dict[str, Any]) -> Any:
        if "bdata" not in value:
            return value
        numbers = np.frombuffer(base64.b64decode(value["bdata"]), value["dtype"])
        return [None if math.isnan(number) else float(number) for number in numbers]

    return json.loads(message, object_hook=revived)


def told(shown: dict[str, Any], changes: dict[str, Any]) -> None:
    """Change what is at each dotted path, as plotly.js does; it knows no other paths."""
    for path, value in changes.items():
        *way, last = path.split(".")
        place = shown
        for key in way:
            place = place.setdefault(key, {})
        place[last] = value


@each_picture
def test_what_is_sent_to_a_browser_is_arrays(drawn: Callable[[pd.DataFrame], Picture]):
    # A list with a NaN in it is no JSON; an array travels as bytes.
    for run in (NOTHING, metrics(300)):
        for values in drawn(run).traces.values():
            assert all(isinstance(value, np.ndarray) for value in values.values())


@each_picture
def test_a_long_run_is_drawn_with_few_points_and_its_last(
    drawn: Callable[[pd.DataFrame], Picture],
):
    picture = drawn(metrics(10_000, every=1))
    assert max(len(values["x"]) for values in picture.traces.values()) <= 601
    for values in picture.traces.values():
        if len(values["x"]) > 500:
            assert np.nanmax(values["x"]) == 10_000


def test_losses_are_drawn_where_they_were_measured():
    picture = training.learning(metrics(100), steps=300)
    assert picture.traces["held-out"]["x"].tolist() == [0, 25, 50, 75, 100]
    assert picture.traces["held-out"]["y"].tolist() == [6.2, 5.95, 5.7, 5.45, 5.2]
    assert picture.ranges["xaxis.range"] == [0, 300]
    low, high = picture.ranges["yaxis.range"]
    assert low < 5.0 < 6.2 < high
    assert picture.ranges["yaxis2.range"] == [low, high]  # perplexity is the same axis relabelled


def test_axes_move_in_steps():
    one, other = (
        training.learning(metrics(100).head(count), steps=100).ranges for count in (40, 41)
    )
    assert one == other


def test_a_longer_past_run_stretches_the_steps():
    past = {"C": metrics(500)}
    assert training.learning(metrics(10), steps=300, past=past).ranges["xaxis.range"] == [0, 500]
    assert training.spending(NOTHING, steps=300, budget=1.0, past=past).ranges["xaxis.range"] == [
        0,
        500,
    ]


def test_a_bound_on_epsilon_is_tightened_by_what_is_known_later_and_never_below_it():
    bounds = metrics(4, epsilon=np.array([0.0, 2.0, 2.0, 1.5, 3.0]))
    spent = training.spending(bounds, steps=4, budget=4.0).traces["spent"]["y"]
    assert spent.tolist() == [0, 1.5, 1.5, 1.5, 3]


def test_a_run_without_privacy_has_no_curve_and_says_so():
    twin = metrics(10, epsilon=np.r_[0.0, np.full(10, np.inf)])
    picture = training.spending(twin, steps=10, budget=math.inf)
    assert np.isnan(picture.traces["planned"]["y"]).all()
    assert np.isnan(picture.traces["spent"]["y"][1:]).all()
    assert "not private" in picture.ranges["annotations"][0]["text"]
    assert training.spending(twin, steps=10, budget=5.0).ranges["annotations"] == []


def test_no_record_is_counted_on_the_wrong_side_of_the_norm():
    norms = np.array([0.1, 0.5, 0.999, 1.0, 1.001, 3.0, 40.0])
    traces = gradients.histogram(norms, max_grad_norm=1.0).traces
    # A norm of exactly C is scaled by 1; its bin begins at C.
    assert traces["kept as it is"]["y"].sum() == 3
    assert traces["clipped to C"]["y"].sum() == 4
    assert traces["C"]["x"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_every_record_is_in_the_histogram(scale: float):
    norms = scale * np.random.default_rng(0).lognormal(sigma=2, size=1000)
    picture = gradients.histogram(norms, max_grad_norm=1.0)
    counts = [picture.traces[name]["y"].sum() for name in ("kept as it is", "clipped to C")]
    assert sum(counts) == 1000
    low, high = picture.ranges["xaxis"]["range"]
    assert low < 0 < high


def test_a_moving_clipping_norm_is_drawn_as_it_moved():
    moved = metrics(3, max_grad_norm=np.array([1.0, 1.0, 0.8, 0.5]))
    assert gradients.clipping(moved, steps=3).traces["C"]["y"].tolist() == [1.0, 0.8, 0.5]


def test_noise_is_shown_beside_its_prediction_with_the_line_at_one():
    picture = gradients.noise(metrics(10), steps=10)
    assert set(picture.traces["measured"]["y"]) == {3.0}
    assert set(picture.traces["predicted"]["y"]) == {3.1}
    low, high = picture.ranges["yaxis"]["range"]
    assert low < math.log10(1.0) < math.log10(3.0) < high


def test_an_axis_that_starts_at_zero_leaves_room_above():
    picture = training.speed(metrics(10), steps=10)
    assert picture.ranges["yaxis.range"] == [0, 30_000]
    assert picture.ranges["yaxis2.range"] == [0, 750]


def test_logarithmic_ticks_are_written_out():
    ticks = log_ticks(0.5, 20)
    shown = dict(zip(ticks["tickvals"], ticks["ticktext"], strict=True))
    assert (shown[0.5], shown[2.0], shown[20.0]) == ("0.5", "2", "20")
    assert len(log_ticks(1e-3, 1e3)["tickvals"]) == 7
