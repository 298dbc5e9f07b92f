"""What the pictures show over σ × batch and along the steps, computed."""

import math

import numpy as np
import pytest

from workbench import privacy
from workbench.analysis import (
    Hold,
    Lines,
    Point,
    article_lines,
    budget_curve,
    held_line,
    noise_plane,
    preview,
    privacy_plane,
    steps_within,
)
from workbench.analysis.planes import EPSILON_LEVELS, axes
from workbench.presets import find, presets
from workbench.privacy.surface import epsilon_surface

LAPTOP = Point.from_preset(find("laptop"))


@pytest.mark.parametrize("preset", presets(), ids=lambda preset: preset.name)
@pytest.mark.parametrize("changes", [{}, {"dataset_size": 10**11}, {"noise_multiplier": 300.0}])
def test_the_point_always_lies_on_its_plane(preset, changes: dict[str, float]) -> None:
    point = Point.from_preset(preset).changed(**changes)
    shown = axes(point)
    low, high = shown.batch_size
    assert low <= point.expected_batch_size <= high
    assert shown.noise_multiplier[0] <= point.noise_multiplier <= shown.noise_multiplier[1]


def test_cells_are_the_epsilon_of_their_sigma_and_batch() -> None:
    plane = privacy_plane(LAPTOP)
    assert plane.values.shape == (50, 50)
    row, column = 17, 31
    sigma, batch = plane.axes.sigma[row], plane.axes.batch[column]
    certified = privacy.epsilon(sigma, batch / 18_792, 300, 1e-5)
    assert plane.values[row, column] == pytest.approx(certified, rel=0.01, abs=0.01)


def test_at_fixed_epochs_the_cells_take_the_steps_of_their_batch() -> None:
    run = LAPTOP.counted_in("epochs")
    plane = privacy_plane(run)
    sigma, batch = plane.axes.sigma[20], plane.axes.batch[35]
    steps = math.ceil(run.epochs * 18_792 / batch)
    assert plane.values[20, 35] == pytest.approx(
        float(epsilon_surface(sigma, batch / 18_792, steps, 1e-5)), rel=1e-6
    )


def test_moving_within_a_plane_returns_the_same_object() -> None:
    moved = LAPTOP.changed(noise_multiplier=1.7, expected_batch_size=900, max_grad_norm=3.0)
    assert privacy_plane(moved) is privacy_plane(LAPTOP)
    assert privacy_plane(LAPTOP.changed(delta=1e-6)) is not privacy_plane(LAPTOP)
    assert noise_plane(LAPTOP.changed(noise_multiplier=1.7)) is noise_plane(LAPTOP)
    assert noise_plane(moved) is not noise_plane(LAPTOP)


def spends_its_level(lines: Lines, point: Point) -> None:
    """Every σ on an ε line previews that ε; between grid lines it is interpolated, hence 3 %."""
    batch = axes(point).batch
    for level, sigma in zip(lines.levels, lines.sigma, strict=True):
        at = np.isfinite(sigma)
        spent = epsilon_surface(sigma[at], batch[at] / point.dataset_size, point.steps, point.delta)
        np.testing.assert_allclose(spent, level, rtol=0.03)


def test_contours_of_epsilon_lie_where_that_epsilon_is_spent() -> None:
    lines = privacy_plane(LAPTOP).lines
    assert lines.levels == EPSILON_LEVELS
    assert sum(np.isfinite(sigma).any() for sigma in lines.sigma) >= 8
    spends_its_level(lines, LAPTOP)


def test_a_shifted_contour_is_caught() -> None:
    lines = privacy_plane(LAPTOP).lines
    shifted = Lines(lines.levels, tuple(np.roll(sigma, 1) for sigma in lines.sigma))
    with pytest.raises(AssertionError):
        spends_its_level(shifted, LAPTOP)


def test_contours_of_noise_to_signal_are_exact() -> None:
    point = LAPTOP.changed(max_grad_norm=0.5, mean_gradient_norm=0.2)
    plane = noise_plane(point)
    for level, sigma in zip(plane.lines.levels, plane.lines.sigma, strict=True):
        at = np.isfinite(sigma)
        ratio = privacy.update_noise_to_signal(
            sigma[at], np.asarray(0.5), plane.axes.batch[at], np.asarray(140_000.0), np.asarray(0.2)
        )
        np.testing.assert_allclose(ratio, level)


def test_the_articles_lines_are_its_two_thresholds() -> None:
    lines = article_lines(LAPTOP)
    assert lines.levels == (0.5, 1.0)
    batch = axes(LAPTOP).batch
    for level, sigma in zip(lines.levels, lines.sigma, strict=True):
        at = np.isfinite(sigma)
        np.testing.assert_allclose(
            privacy.article_nsr(sigma[at], np.asarray(1.0), batch[at], np.asarray(1.0)), level
        )


def test_a_held_epsilon_is_drawn_through_the_point() -> None:
    lines = held_line(LAPTOP, Hold("epsilon", preview(LAPTOP).epsilon))
    spends_its_level(lines, LAPTOP)
    batch = axes(LAPTOP).batch
    sigma = np.interp(np.log(512), np.log(batch), np.log(lines.sigma[0]))
    assert math.exp(sigma) == pytest.approx(0.8, rel=0.01)


def test_a_held_ratio_is_a_straight_line_and_nothing_held_is_none() -> None:
    lines = held_line(LAPTOP, Hold("noise_batch_ratio", 0.002))
    at = np.isfinite(lines.sigma[0])
    np.testing.assert_allclose(lines.sigma[0][at], 0.002 * axes(LAPTOP).batch[at])
    assert held_line(LAPTOP, Hold()).levels == ()


def test_the_budget_curve_passes_through_the_point() -> None:
    curve = budget_curve(LAPTOP)
    assert (curve.steps[0], curve.steps[-1]) == (1, 1000)
    here = np.interp(300, curve.steps, curve.epsilon)
    assert here == pytest.approx(preview(LAPTOP).epsilon, rel=0.01)
    assert np.all(np.diff(curve.epsilon) > 0)


def test_steps_within_a_target_are_those_that_the_certified_search_finds() -> None:
    curve = budget_curve(LAPTOP)
    certified = privacy.max_steps(8.0, 0.8, 512 / 18_792, 1e-5)
    # 1 % of ε is 2 % of steps here, and the curve is interpolated.
    assert steps_within(curve, 8.0) == pytest.approx(certified, rel=0.03)
    assert math.isnan(steps_within(curve, 0.01))
    assert math.isnan(steps_within(curve, 1000.0))


def test_settings_without_a_preview_give_empty_curves_and_planes() -> None:
    point = LAPTOP.changed(delta=1e-30)
    assert np.isnan(privacy_plane(point).values).all()
    assert math.isnan(steps_within(budget_curve(point), 8.0))
