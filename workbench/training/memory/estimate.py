"""The parts of the memory that a run takes at most, by a dry run of one step and an evaluation.

It is the code that trains that runs, the engine's included, on tensors without numbers
(`workbench.training.memory.fake_tensors`), so that a prediction follows whatever that code does.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from workbench.clipping.clipped_sum import trainable
from workbench.config import RunConfig
from workbench.training import models
from workbench.training.memory.fake_tensors import DryRun
from workbench.training.optimizer import gaussian_noise, noisy_mean, optimizer, take_step
from workbench.training.prepare import Examples
from workbench.training.step import batch_gradient_sum


@dataclass(frozen=True)
class MemoryEstimate:
    """Predicted bytes of each part at the moment when they are most together, ``moment``.

    ``activations`` is what the forward pass keeps for the backward pass, and copies of weights in
    bf16; ``logits`` they and what is made of them up to the losses; ``gradients`` what the backward
    pass and the engine make; ``update`` noise, noisy mean and what the optimizer needs for a while;
    ``evaluation`` all of an evaluation; ``records`` the tokens of the logical batch.
    """

    weights: int
    optimizer: int
    records: int
    activations: int
    logits: int
    gradients: int
    update: int
    evaluation: int
    moment: str

    @property
    def total(self) -> int:
        """All of it, in bytes."""
        return sum(getattr(self, part) for part in _PARTS)


_PARTS = tuple(field.name for field in fields(MemoryEstimate) if field.name != "moment")


def estimated(config: RunConfig, build: Callable[[], nn.Module], size: int) -> MemoryEstimate:
    """For a step of one part of ``size`` records, and an evaluation, of the model built."""
    tokens, expected = config.corpus.record_tokens, config.training.expected_batch_size
    with DryRun() as run:
        run.part = "weights"
        model = build().train()
        _name_parts(run, model)
        device = next(model.parameters()).device
        run.part = "optimizer"
        optimizing = optimizer(model, config.training)
        for group in optimizing.param_groups:  # torch's choice, which it hides from fake tensors
            group["foreach"] = device.type == "cuda"
        move = partial(take_step, model, optimizing, learning_rate=1.0, noise_deviation=1.0)
        move({name: torch.zeros_like(p) for name, p in trainable(model).items()})
        run.part = "records"
        shape = (expected, tokens)
        batch = _Whole(*(torch.zeros(shape, dtype=torch.int64, device=device) for _ in range(2)))
        run.part = "gradients"
        total, _ = batch_gradient_sum(
            model, batch[:size], config, max_grad_norm=1.0, physical_batch_size=size
        )
        run.part, run.backward_part = "update", ""
        multiplier = 1.0 if config.privacy.private else 0.0
        noise = gaussian_noise(total, noise_multiplier=multiplier, generator=torch.Generator())
        noisy = noisy_mean(total.gradients, noise, expected_batch_size=expected)
        move(noisy)
        del total, noise, noisy, batch
        run.part = "evaluation"
        heldout = torch.zeros(size, tokens, dtype=torch.int64, device=device)
        models.mean_loss(model, heldout, heldout, batch_size=size)  # type: ignore[arg-type]
    return MemoryEstimate(**{part: run.parts[part] for part in _PARTS}, moment=run.moment)


class _Whole(Examples):
    """Records that are all as long as records may be."""

    def __getitem__(self, indices: Tensor | slice) -> "_Whole":
        return _Whole(self.tokens[indices], self.labels[indices])

    def without_common_padding(self) -> "_Whole":
        """The same: nothing is padding."""
        return self


def _name_parts(run: DryRun, model: nn.Module) -> None:
    """Have what the model makes counted by what it is for, whichever engine calls it and when."""

    def naming(part: str) -> Callable[..., None]:
        def name(*_: Any) -> None:
            if run.part != "evaluation":
                run.part = part

        return name

    run.backward_part = "gradients"
    model.register_forward_pre_hook(naming("activations"))
    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    (head or model).register_forward_hook(naming("logits"))
