"""Parameters for which the book-keeping engine has no rule: exact, record by record."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import AutoModelForCausalLM, MixtralConfig, ViTConfig, ViTModel

from workbench.clipping.bookkeeping import recorder
from workbench.clipping.gradient_sum import clipped_gradient_sum
from workbench.errors import InputError

from .decoders import error, losses

BATCH, TOKENS, WIDTH = 4, 8, 6


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


class Stray(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, WIDTH)

    def forward(self, ids: Tensor) -> Tensor:
        return linear(self.embedding(ids), self.embedding.weight)


class SequenceFirst(nn.Module):
    """Puts positions before records, which rows do not show when there are as many."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.transpose(0, 1)).transpose(0, 1)


class OwnParameters(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.gain = nn.Linear(WIDTH, WIDTH), nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * self.layer(x)


class ScalarNorm(nn.Module):
    """Named like a normalisation; copies of its weight give the same output, by the first alone."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight[0]


class CallsItself(nn.Linear):
    def forward(self, input: Tensor, *, deep: bool = True) -> Tensor:
        return super().forward(self(input, deep=False) if deep else input)


class SlopesWithin(nn.Module):
    """Its output's slopes count in the loss, and with them the weight they came through."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, *, followed: bool = True) -> Tensor:
        x = x.detach().requires_grad_()
        output = self.layer(x).tanh()
        return output + _slopes(output, x, followed=followed)


def _slopes(output: Tensor, x: Tensor, *, followed: bool) -> Tensor:
    return torch.autograd.grad(output.sum(), x, retain_graph=True, create_graph=followed)[0]


class Mapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return torch.vmap(self.layer)(x)


class _Vector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDTH))


class SummingNorm(_Vector):
    """As kernels by hand have it: the weight's gradient is summed over all but the last."""

    def forward(self, x: Tensor) -> Tensor:
        return _Scaled.apply(x, self.weight)  # type: ignore[return-value]


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x, weight)
        return x * weight

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        return gradient * weight, (gradient * x).flatten(0, -2).sum(0)


class PairNorm(_Vector):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return self.weight * x, x


class Routed(nn.Module):
    """Each position goes to one of two experts."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList([nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)])

    def forward(self, x: Tensor) -> Tensor:
        positions = x.flatten(0, 1)
        chosen = (positions.sum(1) > 0).long()
        output = torch.zeros_like(positions)
        for number, expert in enumerate(self.experts):
            mine = (chosen == number).nonzero()[:, 0]
            output = output.index_add(0, mine, expert(positions[mine]))
        return output.unflatten(0, x.shape[:2])


class _First(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)[0]


class _SelfAttention(_First):
    def __init__(self) -> None:
        super().__init__(nn.MultiheadAttention(WIDTH, 2, batch_first=True))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x, x)[0]


class UsesItsTable(nn.Embedding):
    def forward(self, ids: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(ids) + self.weight.mean()


class _SharedPrompt(nn.Module):
    """A prompt for all records, repeated for each by the model itself, as peft has it."""

    def __init__(self) -> None:
        super().__init__()
        self.prompt, self.head = nn.Embedding(2, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        prompt = self.prompt(torch.arange(2)).repeat(len(x), 1, 1)
        return self.head(torch.cat([prompt, x], 1))


class PooledNorm(_Vector):
    """As above, with a mean that copies of the weight would share between records."""

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.mean()


class ClassToken(nn.Module):
    """A token put before those of each record, and a table of relative positions beside layers."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.relative = nn.Parameter(torch.randn(2 * TOKENS + 1))
        self.inside, self.norm = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        places = torch.arange(x.shape[1])
        bias = self.relative[places[:, None] - places + TOKENS]
        return self.norm((x @ x.mT + bias).softmax(-1) @ self.inside(x))


class Sinks(nn.Module):
    """Attention that may turn to a learnt number instead of a token, as in GPT-OSS."""

    def __init__(self) -> None:
        super().__init__()
        self.sink, self.value = nn.Parameter(torch.randn(1)), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        scores = torch.cat([x @ x.mT, self.sink.expand(len(x), x.shape[1], 1)], 2)
        return scores.softmax(-1)[..., :-1] @ self.value(x)


class RelativeTable(nn.Module):
    """A table that is looked up by distance, once for all records, as in T5."""

    def __init__(self) -> None:
        super().__init__()
        self.bias, self.value = nn.Embedding(2 * TOKENS, 1), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(x.shape[1])
        bias = self.bias(places[:, None] - places + TOKENS)[..., 0]
        return (x @ x.mT + bias).softmax(-1) @ self.value(x)


class Recurrent(nn.Module):
    def __init__(self, kind: Callable[..., nn.Module], **options: Any) -> None:
        super().__init__()
        self.inner = kind(WIDTH, WIDTH, batch_first=True, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)[0]


class TimeFirst(nn.Module):
    """Time before records, where the layers are not the first that see them."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.GRU(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.transpose(0, 1))[0].transpose(0, 1)


class Experts(nn.Module):
    """Experts in one tensor and a router of them, as mixtures of experts have them."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.Parameter(torch.randn(3, WIDTH, WIDTH))
        self.router = nn.Parameter(torch.randn(3, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        positions = x.flatten(0, 1)
        weights, chosen = linear(positions, self.router).softmax(1).topk(2)
        output = torch.zeros_like(positions)
        for number in range(3):
            mine, place = (chosen == number).nonzero(as_tuple=True)
            made = linear(positions[mine], self.experts[number]) * weights[mine, place, None]
            output = output.index_add(0, mine, made)
        return output.unflatten(0, x.shape[:2])


class SingleVector(nn.Module):
    """A layer that runs once on a vector and once on the records."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.vector = nn.Linear(WIDTH, WIDTH), nn.Parameter(torch.randn(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * self.layer(self.vector)


class Table(nn.Module):
    """Gives what it holds, of no input."""

    def __init__(self) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.randn(TOKENS, WIDTH))

    def forward(self) -> Tensor:
        return self.values * 2


class AsksATable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.layer = Table(), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x + self.table())


WITHOUT_RULE: dict[str, Callable[[], nn.Module]] = {
    "class token and relative positions": ClassToken,
    "attention sinks": Sinks,
    "table of relative positions": RelativeTable,
    "LSTM": lambda: Recurrent(nn.LSTM),
    "LSTM, both ways, two layers": lambda: nn.Sequential(
        Recurrent(nn.LSTM, bidirectional=True, num_layers=2), nn.Linear(2 * WIDTH, WIDTH)
    ),
    "GRU": lambda: Recurrent(nn.GRU),
    "time first": TimeFirst,
    "multi-head attention": lambda: _SelfAttention(),
    "transformer layer": lambda: nn.TransformerEncoderLayer(
        WIDTH, 2, 12, dropout=0.0, batch_first=True
    ),
    "experts in one tensor": Experts,
    "experts by hand": Routed,
    "parameters beside parts": OwnParameters,
    "layer on a single vector": SingleVector,
    "rows in the second dimension": SequenceFirst,
    "without input": AsksATable,
    "pooled norm": PooledNorm,
    "scalar norm": ScalarNorm,
    "calls itself": lambda: CallsItself(WIDTH, WIDTH),
    "vmap": Mapped,
    "sums in backward": SummingNorm,
    "several outputs": lambda: _First(PairNorm()),
    "shared prompt": lambda: _SharedPrompt(),
}


def _squares(model: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    return lambda: (model(x).square() * 0.3 + model(x).sin()).flatten(1).sum(1)


@pytest.mark.parametrize("first", [True, False], ids=["behind a layer", "alone"])
@pytest.mark.parametrize("kind", WITHOUT_RULE)
def test_what_has_no_rule_equals_the_reference(kind: str, first: bool) -> None:
    """In float64, in the first call and in the later ones that rely on it."""
    inner = WITHOUT_RULE[kind]()
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), inner) if first else inner
    model = model.double().train()
    try:
        for batch in (BATCH, BATCH, TOKENS, 1, 3):
            x = torch.randn(batch, TOKENS, WIDTH, dtype=torch.float64)
            assert error(model, _squares(model, x)) <= 1e-10
    except InputError:
        # Rows that are not records', of inputs that nothing is known of.
        assert not first
        assert kind in ("time first", "rows in the second dimension", "experts by hand")


def test_the_rest_stays_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what has no rule is taken record by record."""
    taken: list[int] = []
    apart = recorder.Recorder.apart

    def counted(self: recorder.Recorder, losses: Tensor, parameters: Any) -> list[Tensor]:
        taken.append(len(parameters))
        return apart(self, losses, parameters)

    monkeypatch.setattr(recorder.Recorder, "apart", counted)
    model = ClassToken()
    x = torch.randn(BATCH, TOKENS, WIDTH)
    clipped_gradient_sum(model, _squares(model, x), max_grad_norm=1)
    assert taken == [2]  # token and table, of six parameters


def test_slopes_within_count() -> None:
    model, x = SlopesWithin(), torch.randn(BATCH, TOKENS, WIDTH)
    assert error(model, lambda: model(x).square().flatten(1).sum(1)) <= 1e-5


def test_slopes_that_are_numbers_alone_are_no_hindrance() -> None:
    model = SlopesWithin()
    x = torch.randn(BATCH, TOKENS, WIDTH)
    assert error(model, lambda: model(x, followed=False).square().sum((1, 2))) <= 1e-5


def test_a_weight_used_past_its_layer_as_well() -> None:
    """One part of its gradient comes from the layer's rule, the other is taken by itself."""
    for model in (Stray(), nn.Sequential(UsesItsTable(20, WIDTH), nn.Linear(WIDTH, 20))):
        model.double()
        ids = torch.randint(20, (BATCH, TOKENS))
        for _ in range(2):
            assert error(model, _squares(model, ids)) <= 1e-10


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm"])
def test_mixtures_of_experts(implementation: str) -> None:
    config = MixtralConfig(
        vocab_size=60,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
    )
    config._experts_implementation = implementation
    model = AutoModelForCausalLM.from_config(config).train()
    if implementation == "eager":  # the other has no float64
        model.double()
    for _ in range(2):
        assert error(model, losses(model)) <= (1e-10 if implementation == "eager" else 1e-5)


def test_a_vision_transformer() -> None:
    """Class token and positions beside layers, and a convolution of the picture."""
    config = ViTConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = ViTModel(config, add_pooling_layer=False).double().train()
    pictures = torch.randn(BATCH, 3, 8, 8, dtype=torch.float64)
    model.embeddings.mask_token = None

    def record_losses() -> Tensor:
        return model(pixel_values=pictures).last_hidden_state[:, 0].square().sum(1)

    for _ in range(2):
        assert error(model, record_losses) <= 1e-10
