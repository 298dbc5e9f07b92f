"""The same run on every device there is: sums, norms and noise in float32, memory as it reports."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from workbench import training
from workbench.clipping.gradient_sum import clipped_gradient_sum
from workbench.config import RunConfig
from workbench.training.models import record_losses
from workbench.training.prepare import prepare

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.cuda,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA"),
        ],
    ),
    pytest.param(
        "mps",
        marks=pytest.mark.skipif(
            not torch.backends.mps.is_available(), reason="this machine has no MPS"
        ),
    ),
]
each_device = pytest.mark.parametrize("device", DEVICES)


@pytest.fixture
def here(config: RunConfig, device: str) -> RunConfig:
    """The tiny run, on this device."""
    return config.with_changes({"runtime.device": device})


@each_device
@pytest.mark.parametrize("engine", ["bookkeeping", "hooks"])
def test_clipped_sums_are_the_cpus(here: RunConfig, config: RunConfig, engine: str) -> None:
    """Float32 products in another order: 1e-4 of the sum."""
    sums = []
    for each in (here, config):
        prepared = prepare(each)
        model, records = prepared.model, prepared.training
        clipped = clipped_gradient_sum(
            model,
            lambda model=model, records=records: record_losses(
                model, records.tokens, records.labels
            ),
            max_grad_norm=0.5,
            engine=engine,
        )
        sums.append(torch.cat([g.flatten().cpu() for g in clipped.gradients.values()]))
        assert clipped.norms.dtype == torch.float32
    assert (sums[0] - sums[1]).norm() <= 1e-4 * sums[1].norm()


@each_device
@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_a_run_trains_and_can_go_on(here: RunConfig, tmp_path: Path, precision: str) -> None:
    result = training.train(
        here.with_changes({"runtime.precision": precision}), run_dir=tmp_path / "run"
    )
    record = training.read_run(result.run_dir)
    assert record.summary["device"].startswith(here.runtime.device)
    assert record.metrics["memory_mb"].to_numpy().min() > 0
    assert record.checkpoint is not None
    weights = load_file(record.checkpoint / "model.safetensors")
    assert {w.dtype for w in weights.values()} == {torch.float32}
    assert training.resume(result.run_dir).steps == result.steps


@each_device
def test_noise_is_drawn_on_the_device_and_repeats_where_every_bit_does(
    here: RunConfig, tmp_path: Path
) -> None:
    """A GPU adds in any order: the same noise on two sums would let out their difference."""
    prepared = prepare(here)
    device = here.runtime.device
    # Apple's GPU has no float64 to draw in.
    assert prepared.randomness.noise.device.type == ("cpu" if device == "mps" else device)
    one, other = (
        training.train(here, run_dir=tmp_path / name).heldout_loss for name in ("one", "other")
    )
    assert (one == other) == (device == "cpu")
