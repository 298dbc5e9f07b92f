"""Two processes train as one does: each clips its share, and noise is added once."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from workbench import training
from workbench.config import RunConfig
from workbench.training.distributed import World

LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def _weights(run_dir: Path) -> dict[str, torch.Tensor]:
    checkpoint = training.read_run(run_dir).checkpoint
    assert checkpoint is not None
    return load_file(checkpoint / "model.safetensors")


def test_shares_are_the_batch_whole_and_once() -> None:
    batch = np.array([3, 5, 8, 9, 12])
    shares = [World(rank, 3).share(batch) for rank in range(3)]
    assert sorted(np.concatenate(shares)) == batch.tolist()


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(config: RunConfig, tmp_path: Path) -> None:
    """Started as a user would. Float32 sums in another order, grown by four steps: 1e-4.

    Noise added by both processes would move every weight by far more.
    """
    config = config.with_changes(
        {"privacy.clipping": "adaptive", "training.optimizer": "sgd", "training.learning_rate": 0.1}
    )
    alone = training.train(config, run_dir=tmp_path / "alone")
    file = tmp_path / "run.yaml"
    file.write_text(config.to_yaml(), "utf-8")
    command = [*LAUNCH, "-m", "workbench", "train", str(file), "--run-dir", str(tmp_path / "two")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Done (all steps) after 4 steps") == 1
    for name, weight in _weights(tmp_path / "alone").items():
        torch.testing.assert_close(weight, _weights(tmp_path / "two")[name], rtol=1e-4, atol=1e-5)
    records = [training.read_run(tmp_path / name) for name in ("alone", "two")]
    for column in ("batch_size", "clipped_fraction", "norm_median", "epsilon"):
        one, other = (record.metrics[column].to_numpy() for record in records)
        np.testing.assert_allclose(one, other, rtol=1e-4)
    for one, other in zip(*(r.ledger.every_step for r in records), strict=True):
        assert one == pytest.approx(other, rel=1e-6)
    assert training.verify(tmp_path / "two") == alone.guarantee
