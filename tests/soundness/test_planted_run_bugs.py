"""What a run draws, shows and computes with, each as a check that a planted bug makes fail.

As `test_planted_bugs`, of what stands between the plan and the numbers that a reader sees.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from workbench import privacy, training
from workbench.config import RunConfig
from workbench.training import StepReport, models, step
from workbench.training.prepare import Prepared, prepare
from workbench.training.spending import Reading, Spending
from workbench.training.step import Outcome, Stepper

from .witness import watch

Check = Callable[[RunConfig, Path], None]
Plant = Callable[[pytest.MonkeyPatch], None]


def batches_follow_their_schedule(config: RunConfig, folder: Path) -> None:
    """Each step's batch has the size of its own q: five standard deviations of a binomial.

    The schedule goes from a twelfth of the records to five sixths of them.
    """
    growing = {
        "training.expected_batch_size": 5,
        "training.steps": 6,
        "training.evaluate_every": 6,
        "schedule.batch": {"kind": "step", "end_factor": 10.0},
    }
    witness = watch(config.with_changes(growing), folder / "run")
    records = len(witness.prepared.training)
    for number, seen in enumerate(witness.steps):
        rate = (5 if number < 3 else 50) / records
        deviation = math.sqrt(records * rate * (1 - rate))
        assert abs(len(seen.indices) - records * rate) < 5 * deviation


def shown_epsilon_covers_each_step(config: RunConfig, folder: Path) -> None:
    """No report shows less than its steps have spent, nor more than the whole run will."""
    many = {
        "training.steps": 60,
        "training.evaluate_every": 60,
        "training.expected_batch_size": 61,  # all of them, of which Rényi accounting is quick
        "training.learning_rate": 1e-3,
        "privacy.accountant": "rdp",
    }
    reports: list[StepReport] = []
    result = training.train(
        config.with_changes(many), run_dir=folder / "run", on_step=reports.append
    )
    assert len(reports) == 61
    assert result.sample_rate == 1.0
    for report in reports[1:]:
        spent = privacy.epsilon(
            result.noise_multiplier, result.sample_rate, report.step, 1e-5, accountant="rdp"
        )
        assert spent <= report.epsilon <= result.guarantee.epsilon
        assert not report.epsilon_exact or report.epsilon == spent


def predicted_noise_is_the_noise(config: RunConfig, folder: Path) -> None:
    """σC√d of the gradient's own σ: its square is χ² with d degrees over d, five deviations.

    Beside a noisy count that σ is 1.07 where 0.8 is accounted; and one of the weights is frozen.
    """
    adaptive = {
        "model.source": "tiny-gpt2",
        "privacy.clipping": "adaptive",
        "privacy.count_noise_multiplier": 0.6,
    }
    build = models.tiny
    frozen: list[int] = []

    def with_frozen_positions(*args: Any, **kwargs: Any) -> Any:
        model: Any = build(*args, **kwargs)
        frozen.append(model.transformer.wpe.weight.requires_grad_(False).numel())
        return model

    reports: list[StepReport] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "tiny", with_frozen_positions)
        result = training.train(
            config.with_changes(adaptive), run_dir=folder / "run", on_step=reports.append
        )
    for report in reports[1:]:
        ratio = (report.noise_to_signal / report.predicted_noise_to_signal) ** 2
        assert abs(ratio - 1) < 5 * math.sqrt(2 / result.n_params)
    everything = build(
        config.with_changes(adaptive).model,
        vocabulary=len(_kept_tokenizer(result.run_dir)),
        context=config.corpus.record_tokens,
        generator=torch.Generator(),
    )
    assert result.n_params == everything.num_parameters() - frozen[0]


def _kept_tokenizer(run_dir: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(training.read_run(run_dir).checkpoint)


def only_the_forward_pass_is_narrow(config: RunConfig, folder: Path) -> None:
    """Under bf16 no backward pass, product or sum of gradients runs in autocast."""
    del folder
    for changes in ({}, {"runtime.engine": "reference"}, {"privacy.private": False}):
        narrow = config.with_changes({"runtime.precision": "bf16", **changes})
        within: list[bool] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(models, "record_losses", _seen(models.record_losses, within))
            prepared = prepare(narrow)
            step.batch_gradient_sum(
                prepared.model,
                prepared.training[:3],
                narrow,
                max_grad_norm=1.0,
                physical_batch_size=3,
            )
        assert within
        assert not any(within)


def _seen(losses: Callable[..., Tensor], within: list[bool]) -> Callable[..., Tensor]:
    """The same losses, whose backward pass notes whether autocast is on."""

    class Seen(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, given: Tensor) -> Tensor:  # type: ignore[override]
            return given.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
            within.append(torch.is_autocast_enabled("cpu"))
            return gradient

    return lambda *args: Seen.apply(losses(*args))  # type: ignore[return-value]


CHECKS: list[Check] = [
    batches_follow_their_schedule,
    shown_epsilon_covers_each_step,
    predicted_noise_is_the_noise,
    only_the_forward_pass_is_narrow,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_holds(check: Check, config: RunConfig, tmp_path: Path) -> None:
    check(config, tmp_path)


def the_draw_ignores_the_schedule(patch: pytest.MonkeyPatch) -> None:
    draw, rates = step.poisson_batch, []

    def always_the_first(n_records: int, *, sample_rate: float, generator: Any) -> Any:
        rates.append(sample_rate)
        return draw(n_records, sample_rate=rates[0], generator=generator)

    patch.setattr(step, "poisson_batch", always_the_first)


def epsilon_of_the_stretch_before(patch: pytest.MonkeyPatch) -> None:
    def floored(self: Any, taken: int, *, seconds: float) -> Reading:
        before = self.guarantee(taken // self._stretch * self._stretch)
        return Reading(before.epsilon, covering(self, taken, seconds=seconds).steps)

    covering = Spending.bound

    patch.setattr(Spending, "bound", floored)


def noise_predicted_from_the_accounted_sigma(patch: pytest.MonkeyPatch) -> None:
    take = Stepper.take

    def taking(self: Stepper, *args: Any) -> Outcome:
        outcome = take(self, *args)
        share = outcome.terms.noise_multiplier / outcome.terms.gradient_noise_multiplier
        return replace(outcome, predicted_noise_norm=outcome.predicted_noise_norm * share)

    patch.setattr(Stepper, "take", taking)


def frozen_weights_counted(patch: pytest.MonkeyPatch) -> None:
    every = property(lambda self: sum(p.numel() for p in self.model.parameters()))
    patch.setattr(Prepared, "n_params", every)


def backward_in_autocast(patch: pytest.MonkeyPatch) -> None:
    for name in ("clipped_gradient_sum", "unclipped_gradient_sum"):
        summed = getattr(step, name)

        def narrow(*args: Any, summed: Any = summed, **kwargs: Any) -> Any:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return summed(*args, **kwargs)

        patch.setattr(step, name, narrow)


PLANTS: list[tuple[Plant, Check]] = [
    (the_draw_ignores_the_schedule, batches_follow_their_schedule),
    (epsilon_of_the_stretch_before, shown_epsilon_covers_each_step),
    (noise_predicted_from_the_accounted_sigma, predicted_noise_is_the_noise),
    (frozen_weights_counted, predicted_noise_is_the_noise),
    (backward_in_autocast, only_the_forward_pass_is_narrow),
]


@pytest.mark.parametrize(
    ("plant", "check"), PLANTS, ids=[f"{p.__name__}-{c.__name__}" for p, c in PLANTS]
)
def test_a_planted_bug_is_caught(
    plant: Plant, check: Check, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        check(config, tmp_path)


def test_every_check_has_a_bug_that_it_catches() -> None:
    assert set(CHECKS) == {check for _, check in PLANTS}
