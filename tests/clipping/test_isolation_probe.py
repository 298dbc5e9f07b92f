"""No engine sums losses that depend on other records, and none refuses those that do not."""

from collections.abc import Callable
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize, one_hot

from workbench.clipping import isolation_probe
from workbench.clipping.gradient_sum import ENGINES, clipped_gradient_sum
from workbench.clipping.isolation_probe import MixedRecordsError
from workbench.errors import InputError

from .decoders import decoder, error, losses

WIDTH = 6
OPACUS_TOO = pytest.mark.parametrize("engine", ["ghost", "hooks", "reference"])
Losses = Callable[[nn.Module, Tensor], Tensor]


def _records(count: int = 8) -> Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(0))


def _layer() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 3))
    model.register_buffer("class_weights", torch.tensor([1.0, 2.0, 3.0]))
    return model.train()


class Between(nn.Module):
    """Two layers and something between them."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.one, self.between, self.other = nn.Linear(WIDTH, WIDTH), between, nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.other(self.between(self.one(x)))


class Frozen(nn.Module):
    """A batch normalisation of the raw records, which nothing trainable stands before."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(WIDTH, affine=False, track_running_stats=False)
        self.layer = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.norm(x))


class ZeroHead(nn.Module):
    """Losses say nothing at first, because the head is zero; their gradients do."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm = nn.Linear(WIDTH, WIDTH), Frozen().norm
        self.head = nn.Linear(WIDTH, 3)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.one(x)))


def _detached_mean(y: Tensor) -> Tensor:
    with torch.no_grad():
        return y.mean(0)


def _by_label_frequency(m: nn.Module, x: Tensor) -> Tensor:
    labels = (x[:, 0] > 0).long()
    counts = one_hot(labels, 3).sum(0).clamp(min=1)
    return cross_entropy(m(x), labels, reduction="none") / counts[labels]


def _plain(m: nn.Module, x: Tensor) -> Tensor:
    return m(x).square().sum(1)


MIXING: dict[str, tuple[Callable[[], nn.Module], Losses]] = {
    "batch normalisation": (lambda: Between(Frozen().norm), _plain),
    "of the raw records": (Frozen, _plain),
    "behind a head of zeros": (ZeroHead, lambda m, x: m(x).logsumexp(1) - m(x)[:, 0]),
    "in-batch negatives": (
        _layer,
        lambda m, x: cross_entropy(
            5 * normalize(m(x), dim=1) @ normalize(m(x), dim=1).T,
            torch.arange(len(x)).roll(1),
            reduction="none",
        ),
    ),
    "the batch's mean": (_layer, lambda m, x: m(x).square().mean().expand(len(x))),
    "a little of the mean": (_layer, lambda m, x: _plain(m, x) + 0.01 * _plain(m, x).mean()),
    "attention across": (
        lambda: Between(lambda y: (y @ y.T).softmax(1) @ y),
        _plain,
    ),
    "a causal sum across": (lambda: Between(lambda y: y.cumsum(0)), _plain),
    "the first as an anchor": (lambda: Between(lambda y: y - y[:1]), _plain),
    "the last as an anchor": (lambda: Between(lambda y: y - y[-1:]), _plain),
    "detached statistics": (lambda: Between(lambda y: y - _detached_mean(y)), _plain),
    "statistics as numbers": (lambda: Between(lambda y: y * float(y.detach().std())), _plain),
    "statistics by numpy": (
        lambda: Between(lambda y: y - torch.tensor(y.detach().numpy().mean(0))),
        _plain,
    ),
    "raw records centred": (_layer, lambda m, x: _plain(m, x - x.mean(0))),
    "weights by frequency": (_layer, _by_label_frequency),
    "losses in order of size": (_layer, lambda m, x: _plain(m, x).sort().values),
    "ranks": (_layer, lambda m, x: _plain(m, x) * x[:, 0].argsort().argsort()),
    "the hardest negative": (
        _layer,
        lambda m, x: (m(x) @ m(x).T + torch.diag(torch.full((len(x),), -1e9))).amax(1),
    ),
    "scaled by the batch": (_layer, lambda m, x: _plain(m, x) / _plain(m, x).sum().detach()),
    "packed, with one mean": (_layer, lambda m, x: _plain(m, (x[None] - x[None].mean(1))[0])),
    "exchanged": (_layer, lambda m, x: _plain(m, x).roll(1)),
}


@OPACUS_TOO
@pytest.mark.parametrize("kind", MIXING)
def test_mixed_records_are_refused(kind: str, engine: str) -> None:
    build, record_losses = MIXING[kind]
    model, x = build().train(), _records()
    with pytest.raises(InputError) as refused:
        clipped_gradient_sum(
            model, lambda: record_losses(model, x), max_grad_norm=1.0, engine=engine
        )
    # No engine is named that would take it, and none that would refuse it in turn.
    if isinstance(refused.value, MixedRecordsError):
        assert "engine=" not in str(refused.value)
    else:
        with pytest.raises(MixedRecordsError):
            clipped_gradient_sum(
                model, lambda: record_losses(model, x), max_grad_norm=1.0, engine="reference"
            )


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", MIXING)
def test_no_engine_takes_them(kind: str, engine: str) -> None:
    build, record_losses = MIXING[kind]
    model, x = build().train(), _records()
    with pytest.raises(InputError):
        clipped_gradient_sum(
            model, lambda: record_losses(model, x), max_grad_norm=1.0, engine=engine
        )


class TimeFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:  # (records, positions, features)
        return self.out(self.inner(x.transpose(0, 1)).tanh().transpose(0, 1).mean(1))


def _positions(seed: int = 0) -> Tensor:
    return torch.randn(5, 4, WIDTH, generator=torch.Generator().manual_seed(seed))


SEVERAL = [torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(n)) for n in (2, 5, 3)]
EQUAL = _records(1).expand(4, -1)
RECORDS, POSITIONS = _records(), _positions()
PACKED = torch.cat(SEVERAL)[None]
LENGTHS = torch.tensor([2, 5, 3])
TIME_FIRST = torch.randn(5, 8, WIDTH, generator=torch.Generator().manual_seed(1))
CLASS_WEIGHTS = torch.tensor([1.0, 2.0, 3.0])


def _of_packed(m: nn.Module, across: Callable[[Tensor], Tensor] = lambda y: y) -> Tensor:
    numbers = across(m(PACKED)).square().sum(2)[0]
    return torch.stack([part.sum() for part in numbers.split([2, 5, 3])])


ALONE: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], Tensor]]] = {
    "plain": (_layer, lambda m: _plain(m, RECORDS)),
    "two records": (_layer, lambda m: _plain(m, RECORDS[:2])),
    "one record": (_layer, lambda m: _plain(m, RECORDS[:1])),
    "equal records": (_layer, lambda m: _plain(m, EQUAL)),
    "packed into one row": (_layer, lambda m: _plain(m, RECORDS[None][0])),
    "records to cut from a row": (_layer, _of_packed),
    "a tensor each": (_layer, lambda m: torch.stack([m(x).square().sum() for x in SEVERAL])),
    "time first": (TimeFirst, lambda m: _plain(m, POSITIONS)),
    "as many positions as records": (TimeFirst, lambda m: _plain(m, POSITIONS[:4])),
    "time first from outside": (
        _layer,
        lambda m: m(TIME_FIRST).square().sum((0, 2)),
    ),
    "class weights": (
        _layer,
        lambda m: cross_entropy(
            m(RECORDS), torch.arange(8) % 3, weight=CLASS_WEIGHTS, reduction="none"
        ),
    ),
    "dropout": (
        lambda: nn.Sequential(nn.Dropout(), _layer()),
        lambda m: _plain(m, RECORDS),
    ),
    "chance of numpy": (
        _layer,
        lambda m: _plain(m, RECORDS + torch.from_numpy(np.random.normal(size=(8, 6))).float()),
    ),
    "zeros": (_layer, lambda m: 0 * _plain(m, RECORDS)),
    "packed, with class weights": (
        _layer,
        lambda m: (
            cross_entropy(
                m(PACKED)[0],
                torch.arange(10) % 3,
                weight=m.get_buffer("class_weights"),
                reduction="none",
            )
            .unflatten(0, (5, 2))
            .sum(1)
        ),
    ),
    "no data": (_layer, lambda m: _plain(m, torch.ones(3, WIDTH))),
    "made of lists": (_layer, lambda m: _plain(m, torch.tensor(RECORDS.tolist()))),
    "in float64": (lambda: _layer().double(), lambda m: _plain(m, RECORDS.double())),
    "under autocast": (_layer, lambda m: _in_bf16(m)),
}


def _in_bf16(m: nn.Module) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        y = m(RECORDS)
    return y.float().square().sum(1)


@pytest.mark.parametrize("kind", ALONE)
def test_the_reference_takes_losses_that_are_each_of_one_record(kind: str) -> None:
    build, record_losses = ALONE[kind]
    model = build().train()
    for _ in range(4):
        clipped = clipped_gradient_sum(
            model, lambda: record_losses(model), max_grad_norm=1.0, engine="reference"
        )
        assert clipped.norms.isfinite().all()


@pytest.mark.parametrize("across", ["attention", "mean"])
def test_packed_records_that_see_each_other_are_refused(across: str) -> None:
    """Nothing can be exchanged there; the weights of their losses tell."""
    mixes: dict[str, Callable[[Tensor], Tensor]] = {
        "attention": lambda y: (y @ y.mT).softmax(2) @ y,
        "mean": lambda y: y - y.mean(1),
    }
    model = _layer()
    with pytest.raises(MixedRecordsError):
        clipped_gradient_sum(
            model, lambda: _of_packed(model, mixes[across]), max_grad_norm=1.0, engine="reference"
        )


@pytest.mark.parametrize("engine", ["ghost", "hooks"])
def test_positions_are_not_taken_for_records(engine: str) -> None:
    """As many positions as records; the remedy is one that works."""
    model, x = TimeFirst(), _positions()[:4]
    with pytest.raises(
        InputError, match=r"the gradients of its rows are not those.*choose engine='reference'"
    ):
        clipped_gradient_sum(model, lambda: _plain(model, x), max_grad_norm=1.0, engine=engine)
    clipped_gradient_sum(model, lambda: _plain(model, x), max_grad_norm=1.0, engine="reference")


@pytest.mark.parametrize("engine", ["ghost", "hooks"])
def test_positions_are_not_taken_for_records_later(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where as many stand there as there are records, also between the calls that look closely."""
    model, by_chance = TimeFirst(), _positions()[:4]
    monkeypatch.setattr(f"workbench.clipping.opacus_{engine}.rows_are_due", lambda *_: False)
    with pytest.raises(InputError, match="the gradients of its rows are not those"):
        clipped_gradient_sum(
            model, lambda: _plain(model, by_chance), max_grad_norm=1.0, engine=engine
        )


def test_what_was_refused_once_is_refused_again() -> None:
    """Two records are too few for the probe to be due by their number."""
    model, x = _layer(), _records(2)
    for _ in range(5):
        with pytest.raises(MixedRecordsError):
            clipped_gradient_sum(
                model,
                lambda: _plain(model, x - x.mean(0)),
                max_grad_norm=1.0,
                engine="reference",
            )


def test_losses_that_do_not_repeat_are_refused() -> None:
    model, x, generator = _layer(), _records(), torch.Generator().manual_seed(0)

    def record_losses() -> Tensor:
        return _plain(model, x + torch.randn(x.shape, generator=generator))

    with pytest.raises(InputError, match="gives other losses when it is called again"):
        clipped_gradient_sum(model, record_losses, max_grad_norm=1.0, engine="reference")


@pytest.mark.parametrize("engine", ENGINES)
def test_what_all_share_may_be_a_buffer_of_as_many_rows(engine: str) -> None:
    """From outside it would be taken for the records', and the refusal says what to do."""
    model, x, weights = _layer(), _records(3), torch.tensor([1.0, 2.0, 3.0])

    def record_losses(weights: Tensor) -> Tensor:
        labels = torch.arange(3).roll(1)
        return cross_entropy(model(x), labels, weight=weights, reduction="none")

    with pytest.raises(MixedRecordsError, match="make what all records share a buffer"):
        clipped_gradient_sum(
            model, lambda: record_losses(weights), max_grad_norm=1.0, engine="reference"
        )
    clipped_gradient_sum(
        model,
        lambda: record_losses(model.get_buffer("class_weights")),
        max_grad_norm=1.0,
        engine=engine,
    )


def test_the_probe_runs_at_calls_1_4_16_and_for_many_more_records(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []
    probe = isolation_probe.refuse_mixing
    monkeypatch.setattr(
        "workbench.clipping.gradient_sum.refuse_mixing",
        lambda *a, **k: (asked.append(k["call"]), probe(*a, **k)),
    )
    model = _layer()
    for call in range(1, 18):
        x = _records(20 if call == 7 else 1 if call == 1 else 4)
        clipped_gradient_sum(
            model, lambda x=x: _plain(model, x), max_grad_norm=1.0, engine="reference"
        )
    assert asked == [2, 4, 7, 16]


def test_a_probe_beside_the_fast_engine_is_three_forward_passes() -> None:
    """As the records are, and with either half of them replaced; the engine itself takes one."""
    model, x = _layer(), _records()
    losses = Mock(side_effect=lambda: _plain(model, x))
    taken = []
    for _ in range(4):
        losses.reset_mock()
        clipped_gradient_sum(model, losses, max_grad_norm=1.0, engine="bookkeeping")
        taken.append(losses.call_count)
    assert taken == [4, 1, 1, 4]


@pytest.mark.parametrize("engine", ENGINES)
def test_the_probe_leaves_chance_and_gradients_as_they_were(engine: str) -> None:
    """A run that repeats draws the same numbers with the probe and without."""
    model = nn.Sequential(nn.Dropout(), _layer()).train()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    x = _records()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        drawn = []
        for _ in range(2):  # the second call is not probed
            clipped_gradient_sum(model, lambda: _plain(model, x), max_grad_norm=1.0, engine=engine)
            drawn.append(torch.rand(()))
        torch.manual_seed(5)
        for number in drawn:
            model(x)
            assert torch.rand(()) == number
    assert all((p.grad == 7).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("family", ["gpt2", "llama", "bloom", "opt", "falcon"])
@pytest.mark.parametrize("shape", [(4, 9), (9, 9), (2, 5)])
def test_decoders_pass(family: str, shape: tuple[int, int]) -> None:
    model = decoder(family)
    record_losses = losses(model, batch=shape[0], tokens=shape[1])
    assert error(model, record_losses) <= 1e-5
