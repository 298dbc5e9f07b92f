"""A point as something to take away: YAML, Python, or a call of Opacus."""

import math

from workbench.analysis.settings import Point
from workbench.config import RunConfig


def run_config(point: Point) -> RunConfig:
    """The default run with the settings of ``point``; N comes from the corpus, not from it.

    Raises `InputError` for settings that no run can have.
    """
    return RunConfig().with_changes(
        {
            "privacy.noise_multiplier": point.noise_multiplier,
            "privacy.delta": point.delta,
            "privacy.max_grad_norm": point.max_grad_norm,
            "training.expected_batch_size": point.expected_batch_size,
            "training.steps": point.steps if point.length_unit == "steps" else None,
            "training.epochs": point.length if point.length_unit == "epochs" else None,
            "corpus.record_tokens": max(2, point.record_tokens),
        }
    )


def as_yaml(point: Point) -> str:
    """The same as a file for `RunConfig.from_yaml`."""
    config = run_config(point)
    return f"# The explorer assumed {point.dataset_size:,} training records.\n{config.to_yaml()}"


def as_python(point: Point) -> str:
    """A program that computes the certified ε, with this workbench as its only import."""
    return f"""\
from workbench import privacy

epsilon = privacy.epsilon(
    noise_multiplier={point.noise_multiplier!r},
    sample_rate={point.expected_batch_size} / {point.dataset_size},
    steps={point.steps},
    delta={point.delta!r},
)
print(f"ε = {{privacy.written_epsilon(epsilon)}} at δ = {point.delta!r}")
"""


def as_opacus(point: Point) -> str:
    """A call that makes a model, optimizer and data loader of the reader's own private.

    Opacus draws with q = 1/len(data_loader), which is B/N only where B divides N.
    """
    batches = math.ceil(point.dataset_size / point.expected_batch_size)
    rate = point.sample_rate
    return f"""\
from opacus import PrivacyEngine

# model, optimizer and data_loader are yours: {point.dataset_size:,} records,
# batch_size={point.expected_batch_size}; then take {point.steps:,} optimizer steps.
# Opacus draws with q = 1/len(data_loader) = 1/{batches} = {1 / batches:.4g}; B/N is {rate:.4g}.
privacy_engine = PrivacyEngine(accountant="prv")
model, optimizer, data_loader = privacy_engine.make_private(
    module=model,
    optimizer=optimizer,
    data_loader=data_loader,
    noise_multiplier={point.noise_multiplier!r},
    max_grad_norm={point.max_grad_norm!r},
    poisson_sampling=True,
)
# after training: privacy_engine.get_epsilon(delta={point.delta!r})
"""
