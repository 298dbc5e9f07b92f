"""One private step, whose order is the guarantee.

Draw a Poisson batch; clip and sum over its physical parts; draw noise once for the whole batch;
have the step in the ledger, on disk; only then move the weights.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from workbench.clipping.clipped_sum import (
    ClippedSum,
    RecordLosses,
    refuse_other_norms,
    trainable,
    zeros,
)
from workbench.clipping.gradient_sum import clipped_gradient_sum
from workbench.config import RunConfig
from workbench.runs.ledger import Ledger
from workbench.training import models
from workbench.training.distributed import World
from workbench.training.optimizer import (
    gaussian_noise,
    learning_rate,
    noise_deviation,
    noisy_mean,
    take_step,
)
from workbench.training.plan import StepTerms
from workbench.training.prepare import Examples, Prepared
from workbench.training.quantile import count_below, moved_norm, noisy_share_below
from workbench.training.randomness import global_chance
from workbench.training.sampling import poisson_batch

_LOOKS = 4  # at a forward pass that seems to draw chance of its own


@dataclass(frozen=True)
class Outcome:
    """What one step did, as the first process knows it; ``norms`` are of the whole batch."""

    terms: StepTerms
    max_grad_norm: float
    learning_rate: float
    loss: float
    norms: np.ndarray
    batch_size: int
    tokens: int
    signal_norm: float  # of the clipped sum
    noise_norm: float
    predicted_noise_norm: float


class Stepper:
    """Takes a run's steps one after another; ``max_grad_norm`` is where adaptive C has arrived."""

    def __init__(
        self,
        config: RunConfig,
        prepared: Prepared,
        optimizer: Optimizer,
        world: World,
        *,
        physical_batch_size: int,
    ) -> None:
        self.config, self.prepared = config, prepared
        self.physical_batch_size = physical_batch_size
        self.optimizer, self.world = optimizer, world
        self.max_grad_norm: float | None = None
        self.draws_elsewhere = False  # whether the model's forward pass draws chance of its own

    def try_out(self) -> None:
        """Raise `InputError` where the engine cannot treat the model, before a run has begun.

        On two records made up, of the run's own shape, whose sum is thrown away: neither weights
        nor any generator of the run take part.
        """
        prepared = self.prepared
        shape = (2, prepared.training.tokens.shape[1])
        generator = torch.Generator().manual_seed(0)
        known = models.vocabulary(prepared.model)
        tokens = torch.randint(known, shape, generator=generator).to(prepared.device)

        def moves_global_chance() -> bool:
            before = global_chance()
            made_up = Examples(tokens, tokens)
            batch_gradient_sum(
                prepared.model, made_up, self.config, max_grad_norm=1.0, physical_batch_size=2
            )
            return global_chance() != before

        # Other threads, a notebook's or a cluster's, draw from the same generators now and then;
        # a model that draws does so every time.
        self.draws_elsewhere = all(moves_global_chance() for _ in range(_LOOKS))

    def take(self, step: int, ledger: Ledger | None) -> Outcome:
        """Take ``step``, counted from 0; the first process gives the ledger."""
        config, prepared, world = self.config, self.prepared, self.world
        terms = prepared.plan.at(step)
        norm = self.max_grad_norm or terms.max_grad_norm
        indices = self._draw(terms)
        total, losses = self._sum(indices, norm)
        signal_norm = _norm(total.gradients)
        multiplier = terms.gradient_noise_multiplier
        noise = gaussian_noise(
            total, noise_multiplier=multiplier, generator=prepared.randomness.noise
        )
        noise_norm = _norm(noise)
        noisy = noisy_mean(total.gradients, noise, expected_batch_size=terms.expected_batch_size)
        if ledger is not None:
            ledger.record_step(
                noise_multiplier=terms.noise_multiplier,
                sample_rate=terms.sample_rate,
                max_grad_norm=norm,
            )
        world.take_from_first(noisy)
        deviation = noise_deviation(total, noise_multiplier=multiplier)
        rate = learning_rate(config.training, step, prepared.plan.steps)
        take_step(
            prepared.model,
            self.optimizer,
            noisy,
            learning_rate=rate,
            noise_deviation=deviation / terms.expected_batch_size,
        )
        self._adapt(terms, norm, total.norms)
        return Outcome(
            terms=terms,
            max_grad_norm=norm,
            learning_rate=rate,
            loss=float(losses.mean()) if len(losses) else math.nan,
            norms=total.norms.float().numpy(),
            batch_size=len(indices),
            tokens=int((prepared.training.labels[torch.from_numpy(indices)] >= 0).sum()),
            signal_norm=signal_norm,
            noise_norm=noise_norm,
            predicted_noise_norm=deviation * math.sqrt(prepared.n_params),
        )

    def _draw(self, terms: StepTerms) -> np.ndarray:
        """The indices of one batch, the same in every process.

        Secure generators differ between processes; shares of different batches would hold one
        record several times, and the sum would move by more than C.
        """
        drawn = poisson_batch(
            len(self.prepared.training),
            sample_rate=terms.sample_rate,
            generator=self.prepared.randomness.sampling,
        )
        return self.world.agreed(drawn)

    def _sum(self, indices: np.ndarray, norm: float) -> tuple[ClippedSum, Tensor]:
        """The clipped sum of a batch and its record losses, each process doing its share."""
        world, prepared = self.world, self.prepared
        batch = prepared.training[torch.from_numpy(world.share(indices))]
        total, losses = batch_gradient_sum(
            prepared.model,
            batch,
            self.config,
            max_grad_norm=norm,
            physical_batch_size=self.physical_batch_size,
        )
        world.add_up(total.gradients)
        refuse_other_norms(world.gathered(total.max_grad_norm))
        norms = torch.cat(world.gathered(total.norms.cpu()))
        whole = ClippedSum(total.gradients, norms, total.max_grad_norm)
        return whole, torch.cat(world.gathered(losses.cpu()))

    def _adapt(self, terms: StepTerms, norm: float, norms: Tensor) -> None:
        """Move C towards its quantile by a noisy count, which this step's σ has paid for."""
        if terms.count_noise_multiplier is None:
            return
        privacy = self.config.privacy
        share = noisy_share_below(
            count_below(norms, norm),
            len(norms),
            count_noise_multiplier=terms.count_noise_multiplier,
            expected_batch_size=terms.expected_batch_size,
            generator=self.prepared.randomness.noise,
        )
        moved = moved_norm(
            norm, share, quantile=privacy.clip_quantile, rate=privacy.clip_learning_rate
        )
        self.max_grad_norm = self.world.agreed(moved)


def batch_gradient_sum(
    model: nn.Module,
    batch: Examples,
    config: RunConfig,
    *,
    max_grad_norm: float,
    physical_batch_size: int,
) -> tuple[ClippedSum, Tensor]:
    """The clipped sum of a logical batch and its record losses, one physical part at a time.

    Parts only divide the work: the sum over parts is the sum over the batch up to the rounding of
    float32 additions in another order. An empty batch gives zeros. Where nothing is clipped,
    ``norms`` is empty and ``max_grad_norm`` is infinite.
    """
    bound = max_grad_norm if config.privacy.clips else math.inf
    total = ClippedSum(zeros(trainable(model)), torch.zeros(0), bound)
    losses = [torch.zeros(0)]
    for start in range(0, len(batch), physical_batch_size):
        part = batch[start : start + physical_batch_size].without_common_padding()

        def record_losses(part: Examples = part) -> Tensor:
            with _forward_precision(config.runtime.precision, part.tokens.device):
                return models.record_losses(model, part.tokens, part.labels)  # type: ignore[arg-type]

        with _products_in("ieee"):
            clipped, of_part = _summed(model, record_losses, config, max_grad_norm)
        losses.append(of_part.float().cpu())
        total = total.with_part(clipped)
        del clipped  # else it stays beside all that the next part needs
    return total, torch.cat(losses)


def _summed(
    model: nn.Module, record_losses: RecordLosses, config: RunConfig, max_grad_norm: float
) -> tuple[ClippedSum, Tensor]:
    """The sum of one physical part and its losses (part,)."""
    seen: list[Tensor] = []

    def watched() -> Tensor:
        losses = record_losses()
        if not seen:  # later passes may be a probe's, of other records
            seen.append(losses.detach())
        return losses

    if not config.privacy.clips:
        return unclipped_gradient_sum(model, watched), seen[0]
    clipped = clipped_gradient_sum(
        model,
        watched,
        max_grad_norm=max_grad_norm,
        engine=config.runtime.engine,
        normalised=config.privacy.clipping == "normalised",
    )
    return clipped, seen[0]


def unclipped_gradient_sum(model: nn.Module, record_losses: RecordLosses) -> ClippedSum:
    """Σᵢ gᵢ without clipping, for the twin that is not private; ``norms`` is empty, C infinite."""
    parameters = trainable(model)
    gradients = torch.autograd.grad(
        record_losses().sum(), list(parameters.values()), allow_unused=True, materialize_grads=True
    )
    return ClippedSum(dict(zip(parameters, gradients, strict=True)), torch.zeros(0), math.inf)


@contextmanager
def _forward_precision(precision: str, device: torch.device) -> Iterator[None]:
    """The forward pass in bf16 or TF32 if asked for; whatever is clipped and summed is not."""
    with (
        _products_in("tf32" if precision == "tf32" else "ieee"),
        torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"),
    ):
        yield


@contextmanager
def _products_in(precision: str) -> Iterator[None]:
    """Float32 products on a GPU in this precision, whatever the process has chosen."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = precision
    try:
        yield
    finally:
        matmul.fp32_precision = before


def _norm(tensors: dict[str, Tensor]) -> float:
    """The norm over all tensors together."""
    return float(nn.utils.get_total_norm(tensors.values()))
