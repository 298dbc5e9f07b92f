"""A loop of one's own: batches, clipping, noise, divisor and count are right whatever it does."""

import copy
import doctest
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from workbench import privacy
from workbench.errors import InputError
from workbench.runs import ledger as ledger_module
from workbench.runs.ledger import Ledger
from workbench.training import own_loop
from workbench.training.own_loop import PrivateSteps

N, B, C = 60, 20, 0.5
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(N, 5, generator=GENERATOR)
Y = torch.randint(3, (N,), generator=GENERATOR)


@pytest.fixture
def model() -> nn.Module:
    layer = nn.Linear(5, 3)
    with torch.no_grad():
        for number, parameter in enumerate(layer.parameters()):
            parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter) + number)
    return layer


def _steps(model: nn.Module, records: Any = X, **changes: Any) -> PrivateSteps:
    settings: dict[str, Any] = {
        "expected_batch_size": B,
        "noise_multiplier": 1.0,
        "max_grad_norm": C,
        "delta": 1e-5,
        "accountant": "rdp",
    }
    return PrivateSteps(model, records, **{**settings, **changes})


def _losses(model: nn.Module, i: Tensor) -> Tensor:
    return cross_entropy(model(X[i]), Y[i], reduction="none")


def _gradient(model: nn.Module) -> Tensor:
    gradients = [p.grad for p in model.parameters()]
    return torch.cat([g.flatten() for g in gradients if g is not None])


def test_the_example_in_its_docstring() -> None:
    assert doctest.testmod(own_loop).failed == 0


@pytest.mark.parametrize("part", [3, 1000])
@pytest.mark.parametrize("engine", ["bookkeeping", "reference"])
def test_the_gradient_is_the_clipped_sum_over_the_expected_batch(
    model: nn.Module, part: int, engine: str
) -> None:
    """Under noise of a millionth of C; each record's gradient from plain autograd."""
    private = _steps(model, noise_multiplier=1e-6, physical_batch_size=part, engine=engine)
    for _ in range(4):
        drawn: list[Tensor] = []

        def losses(i: Tensor, drawn: list[Tensor] = drawn) -> Tensor:
            drawn.append(i)
            return _losses(model, i)

        private.backward(losses)
        batch = sorted({int(i) for some in drawn for i in some})
        expected = torch.zeros(18)
        for i in batch:
            loss = _losses(model, torch.tensor([i]))[0]
            own = torch.cat([g.flatten() for g in torch.autograd.grad(loss, [*model.parameters()])])
            expected += own * min(1.0, C / float(own.norm()))
        assert max(len(some) for some in drawn) <= part
        torch.testing.assert_close(_gradient(model), expected / B, rtol=1e-4, atol=1e-5)


def test_the_noise_is_as_loud_as_claimed_and_never_the_same() -> None:
    """Losses that depend on nothing leave noise alone: χ² but for one run in 10⁶."""
    model = nn.Linear(200, 100)
    private = _steps(model, noise_multiplier=2.0)
    released = []
    for _ in range(2):
        private.backward(lambda i: 0 * model(torch.ones(len(i), 200)).sum(1))
        released.append(_gradient(model) * B / (2.0 * C))
    low, high = stats.chi2.interval(1 - 1e-6, len(released[0]))
    assert all(low < float(noise.double().square().sum()) < high for noise in released)
    correlation = np.corrcoef(*(noise.numpy() for noise in released))[0, 1]
    assert abs(correlation) < 5 / len(released[0]) ** 0.5


def test_batches_are_poisson_and_empty_ones_count(model: nn.Module) -> None:
    """One of sixty records in 100 steps: the variance is known to a sixth, 37 % are empty."""
    private, sizes = _steps(model, expected_batch_size=1), []

    def losses(i: Tensor) -> Tensor:
        sizes[-1] = len(i)
        return _losses(model, i)

    for step in range(1, 101):
        sizes.append(0)
        private.backward(losses)
        assert private.steps == step
        assert _gradient(model).abs().min() > 0
    assert 18 < sizes.count(0) < 57
    assert 0.5 < np.var(sizes) < 1.6
    expected = privacy.epsilon(1.0, 1 / N, 100, 1e-5, accountant="rdp")
    assert private.guarantee().epsilon == expected


def test_its_guarantee_has_its_terms(model: nn.Module) -> None:
    private = _steps(model, delta=1e-4, unit="patient", accountant="pld")
    private.backward(lambda i: _losses(model, i))
    found = private.guarantee()
    assert (found.delta, found.accountant, found.unit) == (1e-4, "pld", "patient")
    assert (found.sampling, found.neighbouring_relation) == ("poisson", "add_or_remove_one")
    assert found.epsilon == privacy.epsilon(1.0, B / N, 1, 1e-4)


def test_nothing_was_spent_before_the_first_step(model: nn.Module) -> None:
    assert _steps(model).guarantee().epsilon == 0.0


def test_a_step_is_on_disk_before_its_gradient_is_handed_out(
    model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = _steps(model, ledger=tmp_path / "ledger.jsonl")
    record = Ledger.record_step

    def looking(self: Ledger, **step: float) -> None:
        assert all(p.grad is None for p in model.parameters())
        record(self, **step)
        assert ledger_module.read(tmp_path / "ledger.jsonl").steps == private.steps + 1

    monkeypatch.setattr(Ledger, "record_step", looking)
    for _ in range(3):
        private.backward(lambda i: _losses(model, i))
    assert ledger_module.read(tmp_path / "ledger.jsonl").guarantee() == private.guarantee()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_step_that_could_not_be_recorded_hands_out_nothing(
    model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    private = _steps(model, ledger=tmp_path / "ledger.jsonl")
    private.backward(lambda i: _losses(model, i))

    def failing(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(Ledger, "record_step", failing)
    with pytest.raises(type(error)):
        private.backward(lambda i: _losses(model, i))
    assert all(p.grad is None for p in model.parameters())


def test_a_ledger_goes_on_and_counts_what_it_holds(model: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    for session in (1, 2, 3):
        private = _steps(model, ledger=path)
        for _ in range(2):
            private.backward(lambda i: _losses(model, i))
        assert private.steps == 2 * session
        del private
    record = ledger_module.read(path)
    assert (record.steps, record.renewed_at) == (6, (2, 4))
    expected = privacy.epsilon(1.0, B / N, 6, 1e-5, accountant="rdp")
    assert record.guarantee().epsilon == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"max_grad_norm": 1.0},
        {"noise_multiplier": 2.0},
        {"delta": 1e-6},
        {"expected_batch_size": 10},
        {"records": X[:50]},
        {"unit": "user"},
    ],
)
def test_a_ledger_of_other_steps_is_refused(
    model: nn.Module, tmp_path: Path, changes: dict[str, Any]
) -> None:
    path = tmp_path / "ledger.jsonl"
    private = _steps(model, ledger=path)
    private.backward(lambda i: _losses(model, i))
    del private
    with pytest.raises(InputError, match="was begun with other"):
        _steps(model, ledger=path, **changes)
    assert _steps(model, ledger=path).steps == 1


def test_two_loops_share_no_ledger(model: nn.Module, tmp_path: Path) -> None:
    private = _steps(model, ledger=tmp_path / "ledger.jsonl")
    with pytest.raises(InputError, match="being written by another process"):
        _steps(model, ledger=tmp_path / "ledger.jsonl")
    assert private.steps == 0


def test_a_data_set_that_grows_or_shrinks_is_refused(model: nn.Module) -> None:
    records = [*range(N)]
    private = _steps(model, records)
    private.backward(lambda i: _losses(model, i))
    records.append(N)
    with pytest.raises(InputError, match="There are 61 records but PrivateSteps began with 60"):
        private.backward(lambda i: _losses(model, i))
    assert all(p.grad is None for p in model.parameters())
    assert private.steps == 1


WRONG: dict[str, Any] = {
    "a mean": lambda model, i: _losses(model, i).mean(),
    "a mean of one": lambda model, i: _losses(model, i).mean()[None],
    "all records": lambda model, i: _losses(model, torch.arange(N)),
    "one a token": lambda model, i: _losses(model, i)[:, None].expand(-1, 2),
}


@pytest.mark.parametrize("kind", WRONG)
def test_losses_that_are_not_one_a_record_are_refused(model: nn.Module, kind: str) -> None:
    private = _steps(model, physical_batch_size=7)
    with pytest.raises(InputError, match="must give one loss a record"):
        private.backward(lambda i: WRONG[kind](model, i))
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"records": iter(X)}, "has no length"),
        ({"records": X[:10]}, "expected_batch_size is 20 but there are 10 records"),
        ({"expected_batch_size": 0}, "expected_batch_size is 0"),
        ({"physical_batch_size": 0}, "physical_batch_size is 0"),
        ({"noise_multiplier": 0.0}, "noise_multiplier is 0"),
        ({"max_grad_norm": -1.0}, "max_grad_norm is -1"),
        ({"delta": 0.0}, "delta is 0"),
    ],
)
def test_what_cannot_be_is_refused(model: nn.Module, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        _steps(model, **changes)


def test_a_model_in_evaluation_mode_or_frozen_is_refused(model: nn.Module) -> None:
    private = _steps(model)
    model.eval()
    with pytest.raises(InputError, match=r"model\.train\(\)"):
        private.backward(lambda i: _losses(model, i))
    model.requires_grad_(False)
    with pytest.raises(InputError, match="no trainable parameter"):
        _steps(model)


def test_chance_is_the_operating_systems_unless_a_seed_is_asked_for(model: nn.Module) -> None:
    def first(**changes: Any) -> Tensor:
        private = _steps(model, **changes)
        private.backward(lambda i: _losses(model, i))
        return _gradient(model)

    assert not torch.equal(first(), first())
    with pytest.warns(UserWarning, match="two loops with one seed share it") as heard:
        one, same, other, louder = (
            first(seed=seed, noise_multiplier=sigma)
            for seed, sigma in ((1, 1.0), (1, 1.0), (2, 1.0), (1, 1.1))
        )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.allclose(louder - one, torch.zeros(18), atol=0.01)
    assert heard[0].filename == __file__


def test_a_copy_that_would_draw_the_same_is_refused(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = _steps(model)
    for copied in (copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="would draw the same noise"):
            copied(private)
    monkeypatch.setattr(os, "getpid", lambda: -1)  # as after a fork
    with pytest.raises(InputError, match="made in another process"):
        private.backward(lambda i: _losses(model, i))


def test_a_wrapped_model_is_refused(model: nn.Module) -> None:
    for wrapped in (nn.DataParallel(model), nn.Sequential(nn.DataParallel(model))):
        with pytest.raises(InputError, match="inside DataParallel"):
            _steps(wrapped)


def test_processes_that_are_not_connected_are_refused(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="init_process_group first"):
        _steps(model)


def test_any_optimizer_takes_it(model: nn.Module) -> None:
    private = _steps(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    before = [p.detach().clone() for p in model.parameters()]
    for _ in range(3):
        private.backward(lambda i: _losses(model, i))
        optimizer.step()
    assert not any(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


_TWO = """
import json, sys
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from workbench import training
from workbench.errors import InputError

rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
torch.manual_seed(rank)
model = nn.Linear(300, 100)

def steps(model, records=range(60), **more):
    settings = {"expected_batch_size": 20, "max_grad_norm": 0.5, "noise_multiplier": 1.0}
    return training.PrivateSteps(
        model, records, delta=1e-5, accountant="rdp", **{**settings, **more}
    )

def refused(*args):
    try:
        steps(*args)
    except InputError as error:
        return str(error)

said = {
    "wrapped": refused(DistributedDataParallel(model)),
    "shards": refused(model, range(60 + rank)),
}
loud, drawn = steps(model, ledger=f"{folder}/ledger.jsonl"), []
def nothing(i):
    drawn.extend(i.tolist())
    return 0 * model(torch.ones(len(i), 300)).sum(1)
loud.backward(nothing)
said["shares"] = sorted({*drawn})  # an engine may look twice
said["noise"] = float(sum(p.grad.double().square().sum() for p in model.parameters()))
said["steps"], said["epsilon"] = loud.steps, loud.guarantee().epsilon
silent, seen = steps(model, noise_multiplier=1e-6), []
def one_each(i):  # every record's gradient has norm 1000 in the bias alone, clipped to 0.5
    seen.extend(i.tolist())
    return 100.0 * model(torch.zeros(len(i), 300)).sum(1)
silent.backward(one_each)
said["records"], said["bias"] = sorted({*seen}), float(model.bias.grad.norm())
said["weights"] = float(sum(p.double().sum() for p in model.parameters()))
said["grads"] = float(sum(p.grad.double().sum() for p in model.parameters()))
json.dump(said, open(f"{folder}/{rank}.json", "w"))
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_add_up_once_and_add_noise_once(tmp_path: Path) -> None:
    """Through gloo. Noise of both would be twice as much in χ², an average half of the sum."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", _TWO]
    two = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path)], env=environment, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    errors = [process.communicate()[1] for process in two]
    assert [process.returncode for process in two] == [0, 0], errors
    one, other = (json.loads((tmp_path / f"{rank}.json").read_text("utf-8")) for rank in range(2))
    for said in (one, other):
        assert "inside DistributedDataParallel" in said["wrapped"]
        assert "[60, 61] records each" in said["shards"]
    assert not set(one["shares"]) & set(other["shares"])
    assert len(one["shares"]) - len(other["shares"]) in (0, 1)
    for name in ("noise", "bias", "weights", "grads", "steps", "epsilon"):
        assert one[name] == other[name]
    low, high = stats.chi2.interval(1 - 1e-6, 300 * 100 + 100)
    assert low < one["noise"] * (20 / 0.5) ** 2 < high
    records = len(one["records"]) + len(other["records"])
    assert one["bias"] == pytest.approx(0.5 * records / 20, rel=1e-3)
    record = ledger_module.read(tmp_path / "ledger.jsonl")
    assert record.steps == one["steps"] == 1
    assert record.guarantee().epsilon == one["epsilon"]


def test_the_loop_of_the_readme_runs_and_counts(capsys: pytest.CaptureFixture[str]) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n([^`]*PrivateSteps.*?)```", readme, re.DOTALL)
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(8, 3)
    before = model.weight.detach().clone()
    given = {
        "model": model,
        "x": torch.randn(200, 8, generator=generator),
        "y": torch.randint(3, (200,), generator=generator),
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
    }
    exec(program, given)
    expected = privacy.epsilon(1.0, 64 / 200, 300, 1e-5)
    assert given["private"].guarantee().epsilon == expected
    assert capsys.readouterr().out.startswith(f"ε = {privacy.written_epsilon(expected)} at δ")
    assert not torch.equal(model.weight, before)
