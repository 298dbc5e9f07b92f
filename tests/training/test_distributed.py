"""Two processes train as one does: each clips its share, and noise is added once."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy import stats

from workbench import training
from workbench.config import RunConfig
from workbench.errors import InputError
from workbench.training import distributed, start, step
from workbench.training.distributed import World
from workbench.training.optimizer import optimizer
from workbench.training.prepare import prepare
from workbench.training.step import Stepper

ROOT = Path(__file__).parents[2]
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def _weights(run_dir: Path) -> dict[str, torch.Tensor]:
    checkpoint = training.read_run(run_dir).checkpoint
    assert checkpoint is not None
    return load_file(checkpoint / "model.safetensors")


def test_shares_are_the_batch_whole_and_once() -> None:
    batch = np.array([3, 5, 8, 9, 12])
    shares = [World(rank, 3).share(batch) for rank in range(3)]
    assert sorted(np.concatenate(shares)) == batch.tolist()


class InThreads(World):
    """Processes played by threads of this one, that meet at a barrier to exchange a value."""

    slots: list[Any]
    barrier: threading.Barrier

    def gathered(self, value: Any) -> list[Any]:
        self.slots[self.rank] = value
        self.barrier.wait(600)
        values = list(self.slots)
        self.barrier.wait(600)
        return values

    def agreed(self, value: Any) -> Any:
        return self.gathered(value)[0]

    def add_up(self, gradients: Any) -> None:
        shares = self.gathered({name: g.clone() for name, g in gradients.items()})
        for name, gradient in gradients.items():
            gradient.copy_(sum(share[name] for share in shares))

    def take_from_first(self, gradients: Any) -> None:
        for name, gradient in self.agreed(dict(gradients)).items():
            gradients[name].copy_(gradient)


def stepper(config: RunConfig, prepared: Any, chosen: Any, world: World) -> Stepper:
    return Stepper(config, prepared, chosen, world, physical_batch_size=16)


def test_secure_processes_share_one_poisson_batch(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their generators differ; with a batch each, a record could be in the sum twice."""
    trained: dict[int, list[tuple[int, ...]]] = {0: [], 1: []}
    summed = step.batch_gradient_sum

    def watched(model: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
        trained[ranks[threading.get_ident()]] += map(tuple, batch.tokens.tolist())
        return summed(model, batch, *args, **kwargs)

    monkeypatch.setattr(step, "batch_gradient_sum", watched)
    config = config.with_changes({"randomness": "secure", "privacy.clipping": "adaptive"})
    InThreads.slots, InThreads.barrier = [None, None], threading.Barrier(2)
    steppers, ranks = [], {}
    for rank in range(2):
        prepared = prepare(config)
        chosen = optimizer(prepared.model, config.training)
        steppers.append(stepper(config, prepared, chosen, InThreads(rank, 2)))

    def take(rank: int) -> Any:
        ranks[threading.get_ident()] = rank
        return steppers[rank].take(0, None)

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(take, range(2)))
    assert outcomes[0].batch_size == len(trained[0]) + len(trained[1])
    assert not set(trained[0]) & set(trained[1])
    assert steppers[0].max_grad_norm == steppers[1].max_grad_norm
    pairs = zip(*(s.prepared.model.parameters() for s in steppers), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


class Averaging(InThreads):
    """The bug of a wrapper that averages: each process adds noise of its own, and it thins out."""

    def take_from_first(self, gradients: Any) -> None:
        shares = self.gathered({name: g.clone() for name, g in gradients.items()})
        for name, gradient in gradients.items():
            gradient.copy_(sum(share[name] for share in shares) / self.size)


@pytest.mark.parametrize(("world", "sound"), [(InThreads, True), (Averaging, False)])
def test_the_noise_is_that_of_one_process(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, world: type[InThreads], sound: bool
) -> None:
    """Σ noise² / σ² is χ² of the coordinates, but for one run in 10⁶; averaging would halve it."""
    released: list[dict[str, torch.Tensor]] = []
    sums: list[dict[str, torch.Tensor]] = []
    mean = step.noisy_mean

    def meaning(total: Any, noise: Any, **more: Any) -> Any:
        sums.append({name: value.clone() for name, value in total.items()})
        return mean(total, noise, **more)

    monkeypatch.setattr(step, "noisy_mean", meaning)
    monkeypatch.setattr(step, "take_step", lambda _, __, noisy, **___: released.append(noisy))
    config = config.with_changes({"randomness": "secure", "privacy.noise_multiplier": 1.0})
    world.slots, world.barrier = [None, None], threading.Barrier(2)
    steppers = []
    for rank in range(2):
        prepared = prepare(config)
        chosen = optimizer(prepared.model, config.training)
        steppers.append(stepper(config, prepared, chosen, world(rank, 2)))
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda stepper: stepper.take(0, None), steppers))
    noise = torch.cat([(30 * released[0][name] - sums[0][name]).flatten() for name in sums[0]])
    low, high = stats.chi2.interval(1 - 1e-6, len(noise))
    assert (low < float(noise.double().square().sum()) < high) == sound


_THE_SAME_NOISE = """
from workbench.cli import main
from workbench.training import start

seeded = start.seeded
start.seeded = lambda chance, fingerprint: seeded(chance, "the same")
main()
"""


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Started as a user would. Float32 sums in another order, grown by four steps: 1e-4.

    By themselves two processes draw other noise than one, because of that order; here they are
    told to draw the same. Noise added by both would move every weight by far more.
    """
    seeded = start.seeded
    monkeypatch.setattr(start, "seeded", lambda chance, _: seeded(chance, "the same"))
    config = config.with_changes(
        {"privacy.clipping": "adaptive", "training.optimizer": "sgd", "training.learning_rate": 0.1}
    )
    alone = training.train(config, run_dir=tmp_path / "alone")
    file = tmp_path / "run.yaml"
    file.write_text(config.to_yaml(), "utf-8")
    script = tmp_path / "train.py"
    script.write_text(_THE_SAME_NOISE, "utf-8")
    command = [*LAUNCH, str(script), "train", str(file), "--run-dir", str(tmp_path / "two")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
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


_STOP_AND_GO_ON = """
import sys, threading
from pathlib import Path
import torch.distributed as dist
from workbench import training
from workbench.config import RunConfig

config, folder, stop = RunConfig.load(sys.argv[1]), Path(sys.argv[2]), threading.Event()
dist.init_process_group("gloo")
training.train(config, run_dir=folder / "whole")
training.train(
    config,
    run_dir=folder / "parts",
    stop=stop,
    on_step=lambda report: stop.set() if report.step == 3 else None,
)
training.resume(folder / "parts")
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_go_on_bit_for_bit(config: RunConfig, tmp_path: Path) -> None:
    """Stopped between two evaluations; C adapts, so that it has to be brought along as well."""
    config = config.with_changes({"privacy.clipping": "adaptive", "training.steps": 5})
    file, script = tmp_path / "run.yaml", tmp_path / "stop_and_go_on.py"
    file.write_text(config.to_yaml(), "utf-8")
    script.write_text(_STOP_AND_GO_ON, "utf-8")
    command = [*LAUNCH, str(script), str(file), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    whole, parts = (training.read_run(tmp_path / name) for name in ("whole", "parts"))
    assert (parts.summary["state"], parts.summary["steps"]) == ("done", 5)
    assert (parts.ledger.resumed_at, parts.ledger.renewed_at) == ((3,), ())
    assert parts.ledger.every_step == whole.ledger.every_step
    assert training.verify(parts.path) == training.verify(whole.path)
    for name, weight in _weights(whole.path).items():
        assert torch.equal(weight, _weights(parts.path)[name]), name


@pytest.mark.parametrize(("device", "backend"), [("cpu", "gloo"), ("auto", "nccl")])
def test_the_backend_is_that_of_the_run(
    monkeypatch: pytest.MonkeyPatch, device: str, backend: str
) -> None:
    """A run on the processor of a machine with GPUs must not hand its tensors to NCCL."""
    _as_if_with_one_gpu(monkeypatch, rank=0)
    chosen = []

    def choose(name: str) -> None:
        chosen.append(name)
        raise InterruptedError

    monkeypatch.setattr(distributed.dist, "init_process_group", choose)
    with pytest.raises(InterruptedError), distributed.joined(device):
        pass
    assert chosen == [backend]


def test_a_process_without_a_gpu_of_its_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _as_if_with_one_gpu(monkeypatch, rank=1)
    with (
        pytest.raises(InputError, match=r"more processes on this machine than it has GPUs \(1\)"),
        distributed.joined("cuda"),
    ):
        pass


def _as_if_with_one_gpu(patch: pytest.MonkeyPatch, *, rank: int) -> None:
    patch.setenv("WORLD_SIZE", "2")
    patch.setenv("LOCAL_RANK", str(rank))
    patch.setattr(torch.cuda, "is_available", lambda: True)
    patch.setattr(torch.cuda, "device_count", lambda: 1)
    patch.setattr(torch.cuda, "set_device", lambda index: None)
