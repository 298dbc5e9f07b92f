"""Every check holds on the code as it is, and fails on a bug that would break the guarantee.

A bug is a few lines of patching, written as somebody might have written them in earnest.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import linear

from workbench import corpora, privacy
from workbench.clipping import clipped_sum as clipping
from workbench.clipping.clipped_sum import ClippedSum
from workbench.config import RunConfig
from workbench.corpora import Records
from workbench.runs.ledger import Ledger, LedgerRecord
from workbench.training import plan, prepare, randomness, start, step
from workbench.training.plan import Plan

from . import checks

Check = Callable[[RunConfig, Path], None]
Plant = Callable[[pytest.MonkeyPatch], None]

CHECKS: dict[str, Any] = {
    name: check
    for name, check in vars(checks).items()
    if callable(check) and getattr(check, "__module__", "") == checks.__name__
}


@pytest.mark.parametrize("name", CHECKS)
def test_holds(name: str, config: RunConfig, tmp_path: Path) -> None:
    CHECKS[name](config, tmp_path)


def noise_halved(patch: pytest.MonkeyPatch) -> None:
    noise = step.gaussian_noise
    patch.setattr(
        step,
        "gaussian_noise",
        lambda *a, **k: {name: value / 2 for name, value in noise(*a, **k).items()},
    )


def noise_from_c_of_the_first_step(patch: pytest.MonkeyPatch) -> None:
    noise, first = step.gaussian_noise, []

    def stale(total: ClippedSum, **more: Any) -> Any:
        first.append(total.max_grad_norm)
        return noise(replace(total, max_grad_norm=first[0]), **more)

    patch.setattr(step, "gaussian_noise", stale)


def noise_from_c_of_the_next_step(patch: pytest.MonkeyPatch) -> None:
    """As where a scheduler's step() is called too early: noise shrinks before clipping does."""
    noise, at = step.gaussian_noise, iter((1.0, 0.25, 0.25, 0.25))

    def early(total: ClippedSum, **more: Any) -> Any:
        return noise(replace(total, max_grad_norm=next(at)), **more)

    patch.setattr(step, "gaussian_noise", early)


def noise_of_every_physical_part(patch: pytest.MonkeyPatch) -> None:
    noise = step.gaussian_noise
    patch.setattr(
        step,
        "gaussian_noise",
        lambda *a, **k: {name: v * math.sqrt(2) for name, v in noise(*a, **k).items()},
    )


def noise_in_bf16(patch: pytest.MonkeyPatch) -> None:
    noise, mean = step.gaussian_noise, step.noisy_mean

    def narrow(tensors: Any) -> Any:
        return {name: value.bfloat16() for name, value in tensors.items()}

    patch.setattr(step, "gaussian_noise", lambda *a, **k: narrow(noise(*a, **k)))
    patch.setattr(
        step,
        "noisy_mean",
        lambda total, drawn, **k: {n: v.float() for n, v in mean(total, drawn, **k).items()},
    )


def the_same_noise_each_step(patch: pytest.MonkeyPatch) -> None:
    noise = step.gaussian_noise

    def reseeded(total: Any, *, generator: torch.Generator, **more: Any) -> Any:
        return noise(total, generator=generator.manual_seed(1), **more)

    patch.setattr(step, "gaussian_noise", reseeded)


def nothing_is_clipped(patch: pytest.MonkeyPatch) -> None:
    _replaced(patch, lambda gradients, norms, bound: gradients.sum(0))


def the_sum_is_clipped_instead(patch: pytest.MonkeyPatch) -> None:
    def clipped(gradients: torch.Tensor, norms: torch.Tensor, bound: float) -> torch.Tensor:
        total = gradients.sum(0)
        return total * min(1.0, len(gradients) * bound / float(total.norm()))

    _replaced(patch, clipped)


def the_mean_of_each_part_is_clipped(patch: pytest.MonkeyPatch) -> None:
    def clipped(gradients: torch.Tensor, norms: torch.Tensor, bound: float) -> torch.Tensor:
        mean = gradients.mean(0)
        return len(gradients) * mean * min(1.0, bound / float(mean.norm()))

    _replaced(patch, clipped)


def each_layer_is_clipped_to_c(patch: pytest.MonkeyPatch) -> None:
    """Per-layer clipping under the noise of flat clipping: sensitivity √layers too large."""

    def clipped(gradients: torch.Tensor, norms: torch.Tensor, bound: float) -> torch.Tensor:
        halves = gradients.chunk(2, dim=1)
        parts = [h * (bound / h.norm(dim=1).clamp(min=1e-12)).clamp(max=1)[:, None] for h in halves]
        return torch.cat(parts, dim=1).sum(0)

    _replaced(patch, clipped)


def a_tied_weight_counted_once(patch: pytest.MonkeyPatch) -> None:
    """The norm sees what the embedding does to its input and not to the output."""

    def norms(model: Any, record_losses: Any, gradients: torch.Tensor) -> torch.Tensor:
        head = model.lm_head
        head.forward = lambda hidden: linear(hidden, head.weight.detach())
        try:
            return _rows(model, record_losses).norm(dim=1)
        finally:
            del head.forward

    _replaced(patch, _flat, norms)


def a_broadcast_position_counted_once_a_batch(patch: pytest.MonkeyPatch) -> None:
    """GPT-2 looks positions up once for all records, and the mean over them passes for each."""

    def norms(model: Any, record_losses: Any, gradients: torch.Tensor) -> torch.Tensor:
        sizes = {name: p.numel() for name, p in clipping.trainable(model).items()}
        parts = dict(zip(sizes, gradients.split([*sizes.values()], dim=1), strict=True))
        if "transformer.wpe.weight" in parts:
            parts["transformer.wpe.weight"] = (
                parts["transformer.wpe.weight"].mean(0).expand(len(gradients), -1)
            )
        return torch.cat([*parts.values()], dim=1).norm(dim=1)

    _replaced(patch, _flat, norms)


def _flat(gradients: torch.Tensor, norms: torch.Tensor, bound: float) -> torch.Tensor:
    return (bound / norms).clamp(max=1) @ gradients


def _rows(model: Any, record_losses: Any) -> torch.Tensor:
    """Every record's gradient, (records, d)."""
    parameters = list(clipping.trainable(model).values())
    return torch.stack([
        torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, retain_graph=True)])
        for loss in record_losses()
    ])  # fmt: skip


def _replaced(
    patch: pytest.MonkeyPatch,
    clip: Callable[..., torch.Tensor],
    norms_of: Callable[..., torch.Tensor] = lambda _, __, gradients: gradients.norm(dim=1),
) -> None:
    """Put another rule in the place of clipping: from gradients (records, d), norms, C to (d,)."""

    def summed(model: Any, record_losses: Any, *, max_grad_norm: float, **_: Any) -> ClippedSum:
        parameters = clipping.trainable(model)
        gradients = _rows(model, record_losses)
        norms = norms_of(model, record_losses, gradients)
        total = clip(gradients, norms, max_grad_norm)
        parts = total.split([p.numel() for p in parameters.values()])
        sums = {n: t.view_as(p) for (n, p), t in zip(parameters.items(), parts, strict=True)}
        return ClippedSum(sums, gradients.norm(dim=1), max_grad_norm)

    patch.setattr(step, "clipped_gradient_sum", summed)


def divided_by_the_realised_batch(patch: pytest.MonkeyPatch) -> None:
    draw, mean, sizes = step.poisson_batch, step.noisy_mean, []

    def drawing(*args: Any, **kwargs: Any) -> np.ndarray:
        batch = draw(*args, **kwargs)
        sizes.append(len(batch))
        return batch

    patch.setattr(step, "poisson_batch", drawing)
    patch.setattr(
        step, "noisy_mean", lambda t, n, **_: mean(t, n, expected_batch_size=max(1, sizes[-1]))
    )


def empty_batches_drawn_again(patch: pytest.MonkeyPatch) -> None:
    draw = step.poisson_batch

    def until_somebody_is_in(*args: Any, **kwargs: Any) -> np.ndarray:
        while not len(batch := draw(*args, **kwargs)):
            pass
        return batch

    patch.setattr(step, "poisson_batch", until_somebody_is_in)


def batches_of_a_fixed_size(patch: pytest.MonkeyPatch) -> None:
    def shuffled(n_records: int, *, sample_rate: float, generator: Any) -> np.ndarray:
        return np.sort(generator.permutation(n_records)[: round(n_records * sample_rate)])

    patch.setattr(step, "poisson_batch", shuffled)


def recorded_after_the_weights_moved(patch: pytest.MonkeyPatch) -> None:
    record, late = Ledger.record_step, []

    def later(self: Ledger, **values: float) -> None:
        for waiting in late:
            record(self, **waiting)
        late[:] = [values]

    patch.setattr(Ledger, "record_step", later)


def a_step_not_recorded(patch: pytest.MonkeyPatch) -> None:
    record, count = Ledger.record_step, iter(range(100))

    def forgetful(self: Ledger, **values: float) -> None:
        if next(count) != 1:
            record(self, **values)

    patch.setattr(Ledger, "record_step", forgetful)


def a_schedule_accounted_as_constant(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        Plan,
        "history",
        lambda self, steps=None, *, since=0: [
            (
                self.noise[0][0],
                self.batch[0][0] / self.dataset_size,
                self.steps,
            )
        ],
    )


def a_resumed_accountant_starts_at_zero(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LedgerRecord, "first", lambda self, count: [])
    patch.setattr(LedgerRecord, "history", property(lambda self: [
        (*pair, 1) for *pair, _ in self.every_step
    ]))  # fmt: skip


def new_noise_taken_for_the_old(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(start, "can_replay", lambda *_: True)


def secure_chance_from_the_seed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(randomness.secrets, "randbits", lambda bits: 7)


def chance_from_the_seed_alone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(randomness, "_seeds", lambda *_: np.random.SeedSequence(0).spawn(2))


def a_session_drawn_from_its_number(patch: pytest.MonkeyPatch) -> None:
    """Copies of one run have sessions of one number."""
    patch.setattr(start, "renewed", lambda chance, own: randomness.seeded(chance, own, "session 2"))


def a_run_drawn_from_its_configuration(patch: pytest.MonkeyPatch) -> None:
    """And records and weights, but not from where it computes."""
    patch.setattr(start, "seeded", lambda chance, own: randomness.seeded(chance, chance.root))


def held_out_records_trained_on(patch: pytest.MonkeyPatch) -> None:
    load = corpora.load

    def leaking(*args: Any, **kwargs: Any) -> Records:
        records = load(*args, **kwargs)
        return replace(records, training=records.training + records.heldout[:1])

    patch.setattr(corpora, "load", leaking)


def a_record_twice_in_the_training_set(patch: pytest.MonkeyPatch) -> None:
    encoded = prepare._encoded

    def doubled(*args: Any) -> Any:
        training, heldout = encoded(*args)
        rows = np.concatenate([training.tokens, training.tokens[:1]])
        labels = np.concatenate([training.labels, training.labels[:1]])
        return replace(training, tokens=rows, labels=labels), heldout

    patch.setattr(prepare, "_encoded", doubled)


def the_tokenizer_learns_from_private_text(patch: pytest.MonkeyPatch) -> None:
    build = prepare._model_and_tokenizer
    patch.setattr(
        prepare,
        "_model_and_tokenizer",
        lambda config, records, tokenizer, generator: build(
            config, replace(records, public=records.public + records.training), tokenizer, generator
        ),
    )


def counts_for_free(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(plan, "gradient_share", lambda noise_multiplier, count: noise_multiplier)


def a_count_without_noise(patch: pytest.MonkeyPatch) -> None:
    share = step.noisy_share_below
    patch.setattr(
        step,
        "noisy_share_below",
        lambda *a, **k: share(*a, **{**k, "count_noise_multiplier": 0.0}),
    )


def noise_of_the_whole_sigma_beside_a_count(patch: pytest.MonkeyPatch) -> None:
    noise = step.gaussian_noise
    patch.setattr(
        step, "gaussian_noise", lambda *a, **k: noise(*a, **{**k, "noise_multiplier": 0.8})
    )


def sigma_rounded_to_the_nearest(patch: pytest.MonkeyPatch) -> None:
    scale = privacy.noise_scale
    patch.setattr(privacy, "noise_scale", lambda *a, **k: round(scale(*a, **k) - 0.004, 2))


PLANTS: list[tuple[Plant, Check]] = [
    (noise_halved, checks.the_noise_is_as_loud_as_claimed),
    (noise_from_c_of_the_first_step, checks.the_noise_is_as_loud_as_claimed),
    (noise_from_c_of_the_next_step, checks.the_noise_is_as_loud_as_claimed),
    (noise_of_every_physical_part, checks.the_noise_is_as_loud_as_claimed),
    (noise_in_bf16, checks.the_noise_is_fine_grained),
    (the_same_noise_each_step, checks.each_step_draws_new_noise),
    (nothing_is_clipped, checks.the_sum_is_the_definition),
    (the_sum_is_clipped_instead, checks.the_sum_is_the_definition),
    (the_mean_of_each_part_is_clipped, checks.the_sum_is_the_definition),
    (each_layer_is_clipped_to_c, checks.the_sum_is_the_definition),
    (a_tied_weight_counted_once, checks.the_sum_is_the_definition),
    (a_broadcast_position_counted_once_a_batch, checks.the_sum_is_the_definition),
    (divided_by_the_realised_batch, checks.the_sum_is_the_definition),
    (empty_batches_drawn_again, checks.batches_are_poisson),
    (batches_of_a_fixed_size, checks.batches_are_poisson),
    (recorded_after_the_weights_moved, checks.the_ledger_is_ahead_of_the_weights),
    (a_step_not_recorded, checks.the_ledger_is_ahead_of_the_weights),
    (a_schedule_accounted_as_constant, checks.a_schedule_costs_what_it_uses),
    (a_resumed_accountant_starts_at_zero, checks.a_resumed_run_remembers_what_it_spent),
    (new_noise_taken_for_the_old, checks.steps_taken_again_with_new_noise_are_paid_again),
    (secure_chance_from_the_seed, checks.secure_runs_share_no_chance),
    (chance_from_the_seed_alone, checks.runs_that_differ_share_no_noise),
    (a_session_drawn_from_its_number, checks.runs_elsewhere_share_no_noise),
    (a_run_drawn_from_its_configuration, checks.runs_elsewhere_share_no_noise),
    (held_out_records_trained_on, checks.no_record_is_in_two_parts),
    (a_record_twice_in_the_training_set, checks.no_record_is_in_two_parts),
    (the_tokenizer_learns_from_private_text, checks.the_tokenizer_saw_public_records_only),
    (counts_for_free, checks.the_count_is_paid_for),
    (a_count_without_noise, checks.both_releases_of_an_adaptive_step_are_noisy),
    (
        noise_of_the_whole_sigma_beside_a_count,
        checks.both_releases_of_an_adaptive_step_are_noisy,
    ),
    (sigma_rounded_to_the_nearest, checks.calibration_keeps_within_its_target),
]


@pytest.mark.slow
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
    assert set(CHECKS.values()) == {check for _, check in PLANTS}
