"""All cells of a sweep as parallel coordinates: what was set on the left, what came of it right.

Both functions take the frame of `workbench.sweeps.read_sweep` and the names of its swept fields.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures.theme import BLUE, GREY, ORANGE, PINK, layout

# From good to bad, and each readable on white and on black, which Cividis is not as a thin line.
_SCALE = [[0.0, BLUE], [0.5, PINK], [1.0, ORANGE]]
_LABELS = {
    "privacy.noise_multiplier": "noise σ",
    "privacy.max_grad_norm": "clip norm C",
    "privacy.target_epsilon": "target ε",
    "privacy.delta": "δ",
    "training.expected_batch_size": "batch B",
    "training.steps": "steps T",
}
_MOST_TICKS = 12


def label(field: str) -> str:
    """A swept field as a short heading: its letter where it has one, else its last name."""
    return _LABELS.get(field, field.rpartition(".")[2].replace("_", " "))


def sweep_trace(frame: pd.DataFrame, fields: Sequence[str], *, room: int = 0) -> dict[str, Any]:
    """One line a cell that is done, coloured by its held-out perplexity; other cells have none.

    The values of a field stand at equal distances in their order, whatever their sizes. ε has no
    axis where a run is not private. With ``room`` there are axes for so many fields, those not
    needed hidden, so that a figure can be redrawn for another sweep.
    """
    done = frame.query("state == 'done'")
    perplexity, epsilon = (
        np.asarray(done[name], float) for name in ("heldout_perplexity", "epsilon")
    )
    hidden = {"label": "", "values": np.zeros(len(done)), "range": [0, 1], "visible": False}
    private = bool(np.isfinite(epsilon).all())
    axes = [
        *(_field_axis(frame, done, field) for field in fields),
        *[hidden] * (room - len(fields)),
        _measure_axis("ε of the run", epsilon) if private else hidden,
        _measure_axis("held-out perplexity", perplexity),
    ]
    low, high = _range(perplexity)
    return {"dimensions": axes, "line": {"color": perplexity, "cmin": low, "cmax": high}}


def sweep_figure(
    frame: pd.DataFrame, fields: Sequence[str], *, room: int = 0, height: int = 340
) -> go.Figure:
    """Parallel coordinates; drag along an axis to keep only the lines that cross there."""
    trace = sweep_trace(frame, fields, room=room)
    bar = {"thickness": 12, "outlinewidth": 0}
    shown = go.Parcoords(
        name="cells",
        dimensions=trace["dimensions"],
        line={**trace["line"], "colorscale": _SCALE, "showscale": True, "colorbar": bar},
        labelfont={"size": 13, "color": GREY},
        tickfont={"size": 12, "color": GREY},
        rangefont={"size": 1, "color": "rgba(0, 0, 0, 0)"},  # the ticks say it already
        unselected={"line": {"opacity": 0.06}},
    )
    margin = {"l": 70, "r": 20, "t": 56, "b": 24}
    return go.Figure(shown, layout(height=height, margin=margin, shows=told(frame, fields)))


def told(frame: pd.DataFrame, fields: Sequence[str]) -> str:
    """What the picture shows, in a line: how many cells, over which fields, and the best."""
    done = frame.query("state == 'done'")
    lead = (
        f"A line for each of the {len(done):,} cells done, of {len(frame):,}: from "
        f"{', '.join(map(label, fields))} to held-out perplexity."
    )
    if done.empty:
        return lead
    best = done.loc[done["heldout_perplexity"].astype(float).idxmin()]
    where = ", ".join(f"{label(field)} {_written(best[field])}" for field in fields)
    return f"{lead} The lowest is {best['heldout_perplexity']:.3g}, at {where}."


def _field_axis(frame: pd.DataFrame, done: pd.DataFrame, field: str) -> dict[str, Any]:
    """Positions 0, 1, … of the values that the whole sweep has, labelled with them."""
    known = [value for value in frame[field].tolist() if not pd.isna(value)]
    values = sorted(set(known))
    place = {value: position for position, value in enumerate(values)}
    names = [*map(_written, values), *(["none"] if len(known) < len(frame) else [])]
    every = math.ceil(len(names) / _MOST_TICKS)
    ticks = list(range(0, len(names), every))
    return {
        "label": label(field),
        "values": np.array([place.get(value, len(values)) for value in done[field]], float),
        "tickvals": ticks,
        "ticktext": [names[tick] for tick in ticks],
        "range": [-0.05, max(1, len(names) - 1) + 0.05],
        "visible": True,
    }


def _measure_axis(title: str, values: np.ndarray) -> dict[str, Any]:
    return {"label": title, "values": values, "range": list(_range(values)), "visible": True}


def _range(values: np.ndarray) -> tuple[float, float]:
    """From the least to the greatest, with some room, also around a single value."""
    if not values.size:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


def _written(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
