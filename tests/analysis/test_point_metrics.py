"""Readings at once agree with what is certified later."""

import math

import numpy as np
import pytest

from workbench import privacy
from workbench.analysis import Point, ceilings, certify, preview
from workbench.analysis.point_metrics import FALSE_POSITIVE_RATES
from workbench.presets import Preset, find, presets
from workbench.privacy import Guarantee

LAPTOP = Point.from_preset(find("laptop"))
# Those of the article take seconds each: ε is near zero there, so one of each size stands for all.
QUICK = [p for p in presets() if p.group != "The article" or p.claimed_epsilon == 1]


@pytest.mark.parametrize("preset", QUICK, ids=lambda preset: preset.name)
def test_the_preview_is_as_close_to_the_certified_value_as_it_says(preset: Preset) -> None:
    point = Point.from_preset(preset)
    certified = privacy.epsilon(point.noise_multiplier, point.sample_rate, point.steps, point.delta)
    assert preview(point).epsilon == pytest.approx(certified, rel=0.01, abs=0.01)


def test_the_noise_readings_are_those_of_privacy() -> None:
    readings = preview(LAPTOP.changed(max_grad_norm=0.5, mean_gradient_norm=0.1))
    assert readings.noise_batch_ratio == pytest.approx(0.8 / 512)
    assert readings.update_noise_to_signal == pytest.approx(
        0.8 * 0.5 * math.sqrt(140_000) / (512 * 0.1)
    )
    assert readings.article_nsr == pytest.approx(0.8 * 0.5 / (math.sqrt(512) * 0.1))


def test_neither_model_size_nor_gradient_norm_changes_epsilon() -> None:
    changed = LAPTOP.changed(n_params=1e9, mean_gradient_norm=0.01, max_grad_norm=7.0)
    assert preview(changed).epsilon == preview(LAPTOP).epsilon


@pytest.mark.parametrize(("delta", "warned"), [(1e-5, False), (1 / 18_792, True), (1e-3, True)])
def test_a_delta_of_one_over_n_or_more_is_warned_about(delta: float, warned: bool) -> None:
    warnings = preview(LAPTOP.changed(delta=delta)).warnings
    assert [("1/N" in warning) for warning in warnings] == [True] * warned


def test_outside_its_domain_the_preview_is_missing_and_the_rest_is_not() -> None:
    readings = preview(LAPTOP.changed(noise_multiplier=0.2))
    assert math.isnan(readings.epsilon)
    assert readings.noise_batch_ratio == pytest.approx(0.2 / 512)


def test_certifying_yields_the_guarantee_and_then_the_mechanisms_ceiling() -> None:
    guarantee, ceiling = certify(LAPTOP)
    assert isinstance(guarantee, Guarantee)
    assert isinstance(ceiling, np.ndarray)
    assert guarantee.epsilon == privacy.epsilon(0.8, 512 / 18_792, 300, 1e-5)
    assert (guarantee.delta, guarantee.sampling, guarantee.unit) == (1e-5, "poisson", "record")
    bounds = ceilings(guarantee.epsilon, guarantee.delta)
    # What is possible lies under what (ε, δ) alone allows, and above guessing.
    assert np.all(ceiling <= bounds.epsilon_delta * (1 + 1e-9))
    assert np.all(ceiling >= FALSE_POSITIVE_RATES)


def test_ceilings_are_the_formulas_and_absent_without_an_epsilon() -> None:
    bounds = ceilings(8.0, 1e-5)
    at = int(np.argmin(np.abs(bounds.false_positive_rate - 0.1)))
    assert bounds.epsilon_delta[at] == pytest.approx(0.9997, abs=1e-4)
    assert bounds.gaussian[at] == pytest.approx(0.65, abs=0.01)
    assert np.isnan(ceilings(math.nan, 1e-5).gaussian).all()
