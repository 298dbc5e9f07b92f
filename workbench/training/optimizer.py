"""From a clipped sum to new weights: noise, the fixed divisor, the optimizer.

The step's gradient is (Σ clipped + 𝒩(0, σ²C²)) / B̄ (Abadi et al. 2016, algorithm 1) with B̄ the
*expected* batch size. The realised size is private under Poisson sampling, and dividing by it would
let it out. What follows sees only the noisy mean, so no optimizer can spend more.
"""

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from workbench.clipping.clipped_sum import ClippedSum
from workbench.config import TrainingConfig
from workbench.errors import InputError
from workbench.training.noise import normal

_LEAST_SECOND_MOMENT = 1e-8  # γ′ of Tang et al. 2023: below it a coordinate is noise alone


def gaussian_noise(
    clipped: ClippedSum, *, noise_multiplier: float, generator: torch.Generator
) -> dict[str, Tensor]:
    """Noise for each parameter's sum, of deviation σC in every coordinate, in float32 or wider.

    C is the sum's own. ``generator`` is used for little else; what it draws is float64, see
    `workbench.training.noise`. Raises `InputError` for noise on a sum that was not clipped, whose
    scale nothing tells.
    """
    deviation = noise_deviation(clipped, noise_multiplier=noise_multiplier)
    return {
        name: normal(
            total.shape,
            deviation=deviation,
            # Noise rounded to bf16 is no longer Gaussian, and is lost where it is added to more.
            dtype=_wide(total),
            device=total.device,
            generator=generator,
        )
        for name, total in clipped.gradients.items()
    }


def noise_deviation(clipped: ClippedSum, *, noise_multiplier: float) -> float:
    """σC, the noise's standard deviation in each coordinate of the sum."""
    if not noise_multiplier:
        return 0.0
    if not math.isfinite(clipped.max_grad_norm):
        raise InputError(
            f"noise_multiplier is {noise_multiplier:g} but the sum was not clipped, and noise has "
            "no scale without a bound; set max_grad_norm."
        )
    return noise_multiplier * clipped.max_grad_norm


def noisy_mean(
    gradient_sum: Mapping[str, Tensor], noise: Mapping[str, Tensor], *, expected_batch_size: int
) -> dict[str, Tensor]:
    """(Σ clipped + noise) / B̄ for each parameter, in the memory and the type of ``noise``."""
    return {
        name: noise[name].add_(total).div_(expected_batch_size)
        for name, total in gradient_sum.items()
    }


class AdamWBC(Optimizer):
    """AdamW with the noise's share taken out of the second moment.

    Noise of deviation s in each coordinate of the mean adds s² to what Adam takes for g²; with
    v̂ − s² in its place the step has the size that the signal asks for (Tang et al. 2023, arXiv
    2312.14334, algorithm 1). ``noise_deviation`` is set before each step and may change.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        *,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "weight_decay": weight_decay})
        self.noise_deviation = 0.0

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move the weights by their ``.grad``."""
        assert closure is None, "a second look at the data is not accounted for"
        for group in self.param_groups:
            for parameter in group["params"]:
                self._move(parameter, group)

    def _move(self, parameter: nn.Parameter, group: dict) -> None:
        state, gradient, (beta1, beta2) = self.state[parameter], parameter.grad, group["betas"]
        assert gradient is not None
        if not state:
            state["first_moment"] = torch.zeros_like(parameter)
            state["second_moment"] = torch.zeros_like(parameter)
            state["taken"], state["noise_moment"] = 0, 0.0
        state["taken"] += 1
        first = state["first_moment"].lerp_(gradient, 1 - beta1)
        second = state["second_moment"].lerp_(gradient.square(), 1 - beta2)
        # The noise's moment is averaged as the gradient's is, so that what a schedule of σ or B
        # put in is what is taken out. Plain numbers: torch would round a tensor when it reloads.
        state["noise_moment"] += (1 - beta2) * (self.noise_deviation**2 - state["noise_moment"])
        unbiased1, unbiased2 = (1 - beta ** state["taken"] for beta in (beta1, beta2))
        signal = ((second - state["noise_moment"]) / unbiased2).clamp_(min=_LEAST_SECOND_MOMENT)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.addcdiv_(first / unbiased1, signal.sqrt_(), value=-group["lr"])


def optimizer(model: nn.Module, config: TrainingConfig) -> Optimizer:
    """The optimizer of ``config`` over the trainable parameters."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    rate, decay = config.learning_rate, config.weight_decay
    betas = (config.beta1, config.beta2)
    match config.optimizer:
        case "adamw":
            return AdamW(trainable, lr=rate, betas=betas, weight_decay=decay)
        case "adamw_bc":
            return AdamWBC(trainable, lr=rate, betas=betas, weight_decay=decay)
        case "sgd":
            return SGD(trainable, lr=rate, momentum=config.momentum, weight_decay=decay)


def learning_rate(config: TrainingConfig, step: int, steps: int) -> float:
    """The rate of ``step``, counted from 0, of ``steps``: a rise, then flat or half a cosine."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / (config.warmup_steps + 1)
    if config.learning_rate_schedule == "constant":
        return config.learning_rate
    along = (step - config.warmup_steps) / max(steps - config.warmup_steps, 1)
    return config.learning_rate * (1 + math.cos(math.pi * along)) / 2


def take_step(
    model: nn.Module,
    optimizer: Optimizer,
    gradients: Mapping[str, Tensor],
    *,
    learning_rate: float,
    noise_deviation: float,
) -> None:
    """Move the weights along ``gradients`` (parameter name → noisy mean gradient).

    ``noise_deviation`` is that of the noise in each coordinate of the mean, σC/B̄.
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    if isinstance(optimizer, AdamWBC):
        optimizer.noise_deviation = noise_deviation
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.grad = gradients[name].to(parameter.dtype)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
