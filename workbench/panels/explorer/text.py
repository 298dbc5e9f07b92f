"""The numbers of the explorer as HTML: pure functions from results to markup."""

import html
import math

from workbench.analysis import Point, Readings
from workbench.panels.common.formatting import shown_epsilon, written, written_reading
from workbench.panels.common.markup import badge, card
from workbench.presets import Preset, article_claims
from workbench.privacy import Guarantee, PrivacyTerms
from workbench.privacy.surface import PREVIEW_ERROR
from workbench.privacy.written import rounded_up

NO_PREVIEW = "no preview for these settings; the certified value is on its way"


def cards(
    point: Point, readings: Readings, guarantee: Guarantee | None, *, stale: bool = False
) -> str:
    """ε, the three noise readings and the run's length; ``stale`` greys them out.

    With ``guarantee`` the certified ε stands in the place of the preview.
    """
    body = "".join(
        (
            _epsilon_card(point, readings, guarantee),
            card(
                "Noise-batch ratio",
                written_reading(readings.noise_batch_ratio),
                "σ/B",
                "noise in each coordinate of the mean gradient when C = 1",
            ),
            card(
                "Noise to signal",
                written_reading(readings.update_noise_to_signal),
                "σC√d/(Bḡ), of one update",
                "norm of the noise over norm of the mean gradient; at ḡ = C a lower bound",
            ),
            _article_card(readings.article_nsr),
        )
    )
    look = " wb-stale" if stale else ""
    return f'<div class="wb-cards{look}">{body}</div>'


def provenance(preset: Preset) -> str:
    """Where a preset comes from and which ε its source states."""
    claim = f" It states ε = {preset.claimed_epsilon:g}." if preset.claimed_epsilon else ""
    note = f" ({html.escape(preset.note)})" if preset.note else ""
    source = html.escape(preset.source[:1].upper() + preset.source[1:])
    return f'<div class="wb-status">{source}{note}.{claim}</div>'


def comparison(
    now: tuple[Point, Readings, Guarantee | None],
    pinned: tuple[Point, Readings, Guarantee | None] | None,
) -> str:
    """The pinned configuration and the current one side by side, as a table."""
    if pinned is None:
        return (
            '<div class="wb-status">Press “Pin” to keep the current settings beside new ones.</div>'
        )
    columns = [_column(*side) for side in (pinned, now)]
    rows = "".join(
        f'<tr><th scope="row">{name}</th><td>{kept}</td><td>{current}</td></tr>'
        for (name, kept), (_, current) in zip(columns[0], columns[1], strict=True)
    )
    head = '<tr><td></td><th scope="col">pinned ◆</th><th scope="col">now ○</th></tr>'
    name = "The pinned settings and those of now"
    return f'<div class="wb-table"><table aria-label="{name}">{head}{rows}</table></div>'


def _epsilon_card(point: Point, readings: Readings, guarantee: Guarantee | None) -> str:
    if guarantee is not None:
        value, state = shown_epsilon(guarantee.epsilon), "certified"
        detail = f"{guarantee.accountant_name} accountant, rounded up"
        conditions = f"δ = {written(rounded_up(guarantee.delta, 3))}, {guarantee.conditions}"
    else:
        value, state = written_reading(readings.epsilon), "preview"
        detail = PREVIEW_ERROR if math.isfinite(readings.epsilon) else NO_PREVIEW
        conditions = f"δ = {written(point.delta)}, {PrivacyTerms.of_training(point.delta)}"
    return (
        f'<div class="wb-card wb-epsilon" data-state="{state}">'
        f"<div><h4>Privacy loss ε {badge(state)}</h4>"
        f'<div class="value">{value}</div></div>'
        f"<div><small>{detail}</small><small>{conditions}</small></div>{_facts(point)}</div>"
    )


def _article_card(ratio: float) -> str:
    """The article's NSR on the article's zones, the scale logarithmic from 0.01 to 10."""
    claims = article_claims()
    low, high = claims["nsr_acceptable"], claims["nsr_degrading"]

    def place(value: float) -> float:
        return min(100.0, max(0.0, (math.log10(value) + 2) / 3 * 100))

    if ratio < low:
        zone = f"below {low:g}: “acceptable”"
    elif ratio <= high:
        zone = f"between {low:g} and {high:g}"
    else:
        zone = f"above {high:g}: “degrades”"
    widths = (place(low), place(high) - place(low), 100 - place(high))
    bars = "".join(f'<i style="flex: {width:.1f}"></i>' for width in widths)
    return (
        f'<div class="wb-card"><h4>The article’s NSR</h4>'
        f'<div class="value">{written_reading(ratio)}</div>'
        f"<small>σC/(√B ḡ), its own convention</small>"
        f'<div class="wb-zones">{bars}<u style="left: {place(ratio):.1f}%"></u></div>'
        f"<small>the article’s zones: {zone}</small></div>"
    )


def _facts(point: Point) -> str:
    facts = (
        ("steps", f"{point.steps:,}"),
        ("epochs", f"{point.epochs:,.3g}" if point.epochs < 1e4 else f"{point.epochs:,.0f}"),
        ("rate q", written(point.sample_rate)),
        ("tokens", written(float(point.tokens), whole=point.tokens < 1e8)),
        ("1/N", written(float(f"{1 / point.dataset_size:.2g}"))),
    )
    cells = "".join(f"<span>{name} <b>{value}</b></span>" for name, value in facts)
    return f'<div class="wb-facts">{cells}</div>'


def _column(point: Point, readings: Readings, guarantee: Guarantee | None) -> list[tuple[str, str]]:
    certified = "not yet"
    if guarantee:
        certified = f"{shown_epsilon(guarantee.epsilon)} ({guarantee.accountant_name})"
    return [
        ("ε, preview", written_reading(readings.epsilon)),
        ("ε, certified", certified),
        ("δ", written(point.delta)),
        ("noise multiplier σ", written(point.noise_multiplier)),
        ("clipping norm C", written(point.max_grad_norm)),
        ("expected batch size B", f"{point.expected_batch_size:,}"),
        ("data set size N", f"{point.dataset_size:,}"),
        ("steps T", f"{point.steps:,}"),
        ("epochs", f"{point.epochs:,.3g}"),
        ("tokens", written(float(point.tokens), whole=point.tokens < 1e8)),
        ("noise-batch ratio σ/B", written_reading(readings.noise_batch_ratio)),
        ("noise to signal of one update", written_reading(readings.update_noise_to_signal)),
        ("the article’s NSR", written_reading(readings.article_nsr)),
    ]
