"""Small models whose weights are large enough for a wrong gradient to show."""

from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

from workbench.config import ModelConfig
from workbench.training import models


@pytest.fixture
def tiny() -> Callable[..., PreTrainedModel]:
    """Build a preset of one small layer: ``tiny("tiny-gpt2", seed=1)``."""

    def build(source: str = "tiny-llama", *, seed: int = 0, width: int = 8) -> PreTrainedModel:
        generator = torch.Generator().manual_seed(seed)
        shape = ModelConfig(source=source, width=width, layers=2, heads=2, vocabulary=258)
        model = models.tiny(shape, vocabulary=40, context=10, generator=generator)
        # Presets start with tiny weights, near which a wrong term of the gradient would be small.
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.empty_like(parameter).normal_(0, 0.3, generator=generator))
        return model.train()

    return build
