"""A point is what the sliders say; holds move it along the curve that they promise."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench import privacy
from workbench.analysis import Hold, Point, preview
from workbench.errors import InputError
from workbench.presets import find, presets

LAPTOP = Point.from_preset(find("laptop"))


@pytest.mark.parametrize("preset", presets(), ids=lambda preset: preset.name)
def test_presets_arrive_unchanged(preset: Any) -> None:
    point = Point.from_preset(preset)
    for name in ("noise_multiplier", "max_grad_norm", "expected_batch_size", "dataset_size"):
        assert getattr(point, name) == getattr(preset, name)
    assert (point.steps, point.delta) == (preset.steps, preset.delta)
    assert point.target_epsilon == (preset.claimed_epsilon or 8)


def test_steps_epochs_and_tokens_follow_from_one_another() -> None:
    assert LAPTOP.sample_rate == 512 / 18_792
    assert LAPTOP.epochs == pytest.approx(300 * 512 / 18_792)
    assert LAPTOP.tokens == 300 * 512 * 64


@settings(derandomize=True)
@given(steps=st.integers(1, 10**6), batch=st.integers(1, 10**4), extra=st.integers(0, 10**9))
def test_counting_in_epochs_and_back_keeps_the_steps(steps: int, batch: int, extra: int) -> None:
    point = LAPTOP.changed(expected_batch_size=batch, dataset_size=batch + extra, length=steps)
    assert point.counted_in("epochs").steps == steps
    assert point.counted_in("epochs").counted_in("steps").steps == steps


def test_at_fixed_epochs_a_larger_batch_means_fewer_steps() -> None:
    run = LAPTOP.changed(dataset_size=20_480, length=4, length_unit="epochs")
    assert [run.changed(expected_batch_size=b).steps for b in (512, 1024, 2048)] == [160, 80, 40]
    np.testing.assert_array_equal(run.steps_at(np.array([512, 1024, 2048])), [160, 80, 40])


def test_a_broken_epoch_is_rounded_up() -> None:
    run = LAPTOP.changed(dataset_size=1000, length=1, length_unit="epochs")
    assert run.changed(expected_batch_size=300).steps == 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"noise_multiplier": 0.0}, "Noise multiplier σ is 0 .* above 0"),
        ({"noise_multiplier": -1.0}, "Noise multiplier σ is -1"),
        ({"noise_multiplier": math.nan}, "Noise multiplier σ is nan"),
        ({"max_grad_norm": math.inf}, "Clipping norm C is inf"),
        ({"max_grad_norm": 1e-300}, "Clipping norm C is 1e-300 .* between"),
        ({"mean_gradient_norm": 0.0}, "Mean gradient ḡ is 0"),
        ({"n_params": 1e300}, "Parameters d is 1e\\+300 .* between"),
        ({"target_epsilon": 0.0}, "Target ε is 0"),
        ({"delta": 1.0}, "δ is 1 .* between 0 and 1"),
        ({"delta": 0.0}, "δ is 0"),
        ({"length": 0.0}, "Training length is 0"),
        ({"expected_batch_size": 0}, "Expected batch size B is 0"),
        ({"expected_batch_size": math.nan}, "Expected batch size B is nan"),
        ({"record_tokens": 0}, "Tokens per record is 0"),
        ({"expected_batch_size": 20_000}, "N = 18,792 .* q = B/N would exceed 1; lower B"),
        ({"dataset_size": 100}, "N = 100 .* q = B/N would exceed 1"),
    ],
)
def test_what_cannot_be_a_run_is_refused_in_one_sentence(
    changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words) as refused:
        LAPTOP.changed(**changes)
    assert str(refused.value).endswith(".")
    assert "\n" not in str(refused.value)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(batch=st.integers(512, 15_000), epsilon=st.floats(0.3, 20))
def test_holding_epsilon_solves_sigma_for_it(batch: int, epsilon: float) -> None:
    moved = Hold("epsilon", epsilon).apply(
        LAPTOP.changed(expected_batch_size=batch), moved="expected_batch_size"
    )
    # The search for σ ends at 0.2 % of ε + 0.01; σ is then rounded up, by up to 0.1 %.
    assert preview(moved).epsilon == pytest.approx(epsilon, rel=0.006, abs=0.001)
    assert moved.expected_batch_size == batch


def test_the_held_epsilon_is_the_certified_one_to_within_the_previews_error() -> None:
    doubled = LAPTOP.changed(expected_batch_size=1024)
    held = Hold("epsilon", preview(LAPTOP).epsilon).apply(doubled, moved="expected_batch_size")
    run = (held.noise_multiplier, held.sample_rate, held.steps, held.delta)
    unmoved = (LAPTOP.noise_multiplier, LAPTOP.sample_rate, LAPTOP.steps, LAPTOP.delta)
    assert privacy.epsilon(*run) == pytest.approx(privacy.epsilon(*unmoved), rel=0.01)


def test_an_epsilon_out_of_reach_cannot_be_held() -> None:
    with pytest.raises(InputError, match=r"cannot be held at 1e\+03 .* change the target"):
        Hold("epsilon", 1000.0).apply(LAPTOP.changed(length=1), moved="steps")


def test_holding_the_noise_batch_ratio_moves_sigma_with_the_batch_and_back() -> None:
    hold = Hold.at(LAPTOP, "noise_batch_ratio", math.nan)
    wider = hold.apply(LAPTOP.changed(expected_batch_size=2048), moved="expected_batch_size")
    assert wider.noise_multiplier == pytest.approx(4 * 0.8)
    back = hold.apply(wider.changed(noise_multiplier=1.6), moved="noise_multiplier")
    assert back.expected_batch_size == 1024


def test_holding_nothing_changes_nothing() -> None:
    assert Hold.at(LAPTOP, "nothing", 5.0).apply(LAPTOP, moved="steps") is LAPTOP
