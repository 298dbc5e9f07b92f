"""AUC by layer, loss gaps beside the article's thresholds, and the mechanism against its claim."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.audit.article import ALARM_GAP, EXPECTED_GAP
from workbench.audit.embeddings import EmbeddingAttack
from workbench.audit.mechanism_checks import Finding
from workbench.figures.audit_roc import LINES
from workbench.figures.theme import BLUE, GREY, LEGEND, ORANGE, axis, figure, layout

_SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "triangle-down")


def layers_figure(attacks: Mapping[str, EmbeddingAttack], *, height: int = 300) -> go.Figure:
    """AUC of the attack on each layer's representation, with its interval; one half is guessing."""
    traces: dict[str, dict[str, Any]] = {}
    deepest = max((len(attack.layers) - 1 for attack in attacks.values()), default=1)
    for place, (name, attack) in enumerate(attacks.items()):
        auc, low, high = (
            np.array([getattr(layer, of) for layer in attack.layers])
            for of in ("auc", "low", "high")
        )
        line = LINES[place % len(LINES)]
        shift = 0.06 * (place - (len(attacks) - 1) / 2)  # so that intervals do not cover each other
        traces[name] = {
            "x": np.arange(len(auc)) + shift,
            "y": auc,
            "mode": "lines+markers",
            "line": {**line, "width": 2},
            "marker": {"symbol": _SYMBOLS[place % len(_SYMBOLS)], "size": 9},
            "error_y": {"type": "data", "array": high - auc, "arrayminus": auc - low},
            "hovertemplate": "AUC %{y:.3f}<extra>%{fullData.name}</extra>",
        }
    traces["guessing"] = {
        "x": np.array([-0.5, deepest + 0.5]),
        "y": np.array([0.5, 0.5]),
        "mode": "lines",
        "line": {"color": GREY, "width": 1, "dash": "dot"},
        "hoverinfo": "skip",
    }
    said = "; ".join(
        f"{name}: " + ", ".join(f"{layer.auc:.3f}" for layer in attack.layers)
        for name, attack in attacks.items()
    )
    ticks = ["embedding", *(f"layer {n}" for n in range(1, deepest + 1))]
    return figure(
        traces,
        layout(
            height=height,
            shows=f"AUC of the attack on hidden states by layer, embeddings first. {said}.",
            xaxis=axis(
                "", tickvals=list(range(deepest + 1)), ticktext=ticks, range=[-0.4, deepest + 0.4]
            ),
            yaxis=axis("AUC, cross-fitted"),
            **LEGEND,
        ),
    )


def gaps_figure(gaps: Mapping[str, tuple[float, float]], *, height: int = 190) -> go.Figure:
    """Loss gaps in nats a token as (gap, half its 95 % interval), a row a model."""
    names = list(gaps)
    values, reach = (np.array([gaps[name][i] for name in names]) for i in (0, 1))
    rows = np.arange(len(names), dtype=float)
    ends = [-0.5, len(names) - 0.5]
    low, high = min(-0.05, *(values - reach)), max(0.6, *(values + reach))
    lines = {
        f"the article: {words}": {
            "x": np.array([at, at]),
            "y": np.array(ends),
            "mode": "lines",
            "line": {"color": GREY, "width": 2, "dash": dash},
            "hoverinfo": "skip",
        }
        for words, at, dash in (
            (f"expected up to {EXPECTED_GAP:g}", EXPECTED_GAP, "dash"),
            (f"alarm from {ALARM_GAP:g}", ALARM_GAP, "dot"),
        )
    }
    points = {
        "loss gap, 95 %": {
            "x": values,
            "y": rows,
            "mode": "markers",
            "marker": {"symbol": "diamond", "size": 11, "color": BLUE},
            "error_x": {"type": "data", "array": reach, "color": BLUE},
            "hovertemplate": "%{x:.3f} nats a token<extra></extra>",
        }
    }
    said = "; ".join(f"{name}: {gaps[name][0]:.3f}" for name in names)
    return figure(
        lines | points,
        layout(
            height=height,
            shows=f"Loss gaps in nats a token, with the article's 0.2 and 0.5. {said}.",
            margin={"l": 170, "r": 18, "t": 34, "b": 44},
            xaxis=axis("loss of others less loss of members, nats a token", range=[low, high]),
            yaxis=axis("", tickvals=list(rows), ticktext=names, range=ends[::-1], showgrid=False),
            **LEGEND,
        ),
    )


def mechanism_figure(
    findings: Sequence[Finding], flagged: Sequence[str], *, height: int = 300
) -> go.Figure:
    """What was measured over what was claimed, a row a check; 1 is as claimed."""
    shown = [found for found in findings if found.claimed]
    rows = np.arange(len(shown), dtype=float)
    value, low, high = (
        np.array([getattr(found.measured, of) / found.claimed for found in shown])
        for of in ("value", "low", "high")
    )
    failed = np.array([found.name in flagged for found in shown], dtype=bool)
    traces: dict[str, dict[str, Any]] = {
        "as claimed": {
            "x": np.ones(2),
            "y": np.array([-0.5, len(shown) - 0.5]),
            "mode": "lines",
            "line": {"color": GREY, "width": 2, "dash": "dash"},
            "hoverinfo": "skip",
        }
    }
    for name, of, colour, symbol in (
        ("holds", ~failed, BLUE, "circle"),
        ("flagged", failed, ORANGE, "x"),
    ):
        traces[name] = {
            "x": value[of],
            "y": rows[of],
            "mode": "markers",
            "marker": {"symbol": symbol, "size": 11, "color": colour},
            "error_x": {
                "type": "data",
                "array": (high - value)[of],
                "arrayminus": (value - low)[of],
                "color": colour,
            },
            "hovertemplate": "%{x:.4g} times the claim<extra></extra>",
            "showlegend": bool(of.any()),
        }
    said = "; ".join(
        f"{found.name} {ratio:.3g}{' flagged' if bad else ''}"
        for found, ratio, bad in zip(shown, value, failed, strict=True)
    )
    return figure(
        traces,
        layout(
            height=height,
            shows=f"Measured over claimed, a row a check. {said}.",
            margin={"l": 190, "r": 18, "t": 34, "b": 44},
            xaxis=axis("measured / claimed"),
            yaxis=axis(
                "",
                tickvals=list(rows),
                ticktext=[found.name for found in shown],
                range=[len(shown) - 0.5, -0.5],
                showgrid=False,
            ),
            **LEGEND,
        ),
    )
