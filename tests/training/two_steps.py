"""Two steps and an evaluation with numbers: what a prediction of memory is held against."""

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from workbench.config import RunConfig
from workbench.training import models
from workbench.training.memory.predict import physical_batch_size
from workbench.training.optimizer import gaussian_noise, noisy_mean, optimizer, take_step
from workbench.training.prepare import Examples
from workbench.training.step import batch_gradient_sum


def two_steps(config: RunConfig, shape: PretrainedConfig) -> None:
    """As `workbench.training.step` takes them, on random records of full length."""
    model = AutoModelForCausalLM.from_config(models.without_dropout(shape)).train()
    moving, chance = optimizer(model, config.training), torch.Generator()
    expected, size = config.training.expected_batch_size, physical_batch_size(config, model)
    records = torch.randint(256, (expected, config.corpus.record_tokens))
    for _ in range(2):
        total, _ = batch_gradient_sum(
            model,
            Examples(records, records),
            config,
            max_grad_norm=1.0,
            physical_batch_size=size,
        )
        multiplier = 0.8 if config.privacy.private else 0.0
        noise = gaussian_noise(total, noise_multiplier=multiplier, generator=chance)
        noisy = noisy_mean(total.gradients, noise, expected_batch_size=expected)
        take_step(model, moving, noisy, learning_rate=1e-3, noise_deviation=1.0)
        del total, noise, noisy
    models.mean_loss(model, records[:size], records[:size], batch_size=size)
