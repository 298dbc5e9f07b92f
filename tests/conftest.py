"""A corpus of a hundred lines and a model of two thousand parameters: whole runs in a second."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from workbench.config import ModelConfig, RunConfig

if TYPE_CHECKING:
    from distributed import Client
    from transformers import PreTrainedModel

# No test fails because a machine is slow or busy.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred different lines of different lengths."""
    path = tmp_path_factory.mktemp("corpus") / "lines.txt"
    lines = (f"line {i} counts {i * i} and {'more ' * (i % 7)}words" for i in range(100))
    path.write_text("\n".join(lines), "utf-8")
    return path


@pytest.fixture
def config(corpus: Path) -> RunConfig:
    """Four steps on that corpus, about half of the training records in each."""
    return RunConfig.parse(
        {
            "corpus": {
                "source": str(corpus),
                "record": "line",
                "min_words": 1,
                "record_tokens": 12,
                "public_fraction": 0.2,
                "heldout_fraction": 0.2,
            },
            "model": {"width": 8, "layers": 1, "heads": 2, "vocabulary": 270},
            "training": {"expected_batch_size": 30, "steps": 4, "evaluate_every": 2},
            "runtime": {"device": "cpu", "threads": 1},
        }
    )


@pytest.fixture(scope="module")
def client() -> "Iterator[Client]":
    """One Dask worker in a thread of this process, reached like a scheduler elsewhere."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            processes=False,
            protocol="tcp://",
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture
def tiny() -> "Callable[..., PreTrainedModel]":
    """Build a preset of one small layer: ``tiny("tiny-gpt2", seed=1)``."""

    import torch

    from workbench.training import models

    def build(source: str = "tiny-llama", *, seed: int = 0, width: int = 8) -> "PreTrainedModel":
        generator = torch.Generator().manual_seed(seed)
        shape = ModelConfig(source=source, width=width, layers=2, heads=2, vocabulary=258)
        model = models.tiny(shape, vocabulary=40, context=10, generator=generator)
        # Presets start with tiny weights, near which a wrong term of the gradient would be small.
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.empty_like(parameter).normal_(0, 0.3, generator=generator))
        return model.train()

    return build
