"""The book-keeping engine on single layers: known, unknown, shared, frozen and refused."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import AutoModelForCausalLM, MixtralConfig

from workbench.errors import InputError
from workbench.training.clipping import clipped_gradient_sum
from workbench.training.engines import recorder, uses

from .decoders import decoder, error, flat, losses

BATCH, TOKENS, WIDTH = 4, 8, 6


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def _squares(model: nn.Module, *shape: int) -> Callable[[], Tensor]:
    """Losses that weigh every output of ``model`` on a fixed random input (batch, …)."""
    x = torch.randn(shape)
    return lambda: (model(x).square() * 0.3 + model(x).sin()).flatten(1).sum(1)


class Positions(nn.Module):
    """Token and position embeddings as in many hand-written models: positions are (tokens,)."""

    def __init__(self, tokens: int = TOKENS) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(20, WIDTH), nn.Embedding(tokens, WIDTH)
        self.head = nn.Linear(WIDTH, 20)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.token(ids) + self.position(torch.arange(ids.shape[1])))


def _token_losses(model: nn.Module, batch: int = BATCH) -> Callable[[], Tensor]:
    ids = torch.randint(20, (batch, TOKENS))
    return lambda: model(ids).square().sum((1, 2))


class Gain(nn.Module):
    """A layer nobody has a rule for."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.mix = nn.Parameter(torch.randn(())), nn.Parameter(torch.randn(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        return (self.gain * x @ self.mix).tanh()


class OddNorm(nn.Module):
    """Named like a normalisation, but its weight is not applied element by element."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.softmax(0) * self.weight.sum()


class PooledNorm(OddNorm):
    """As above, with a mean that copies of the weight would share between records."""

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.mean()


class LowRank(nn.Module):
    """LoRA as `peft` builds it: a frozen layer and two small ones beside it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + 2.0 * self.up(self.down(x))


class TwiceThrough(nn.Module):
    """One layer of each kind, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.layer(self.norm(self.layer(x)).tanh()))


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(WIDTH, 5), (TOKENS, WIDTH)),
    "linear, one position": (lambda: nn.Linear(WIDTH, 5), (WIDTH,)),
    "linear, four dimensions": (lambda: nn.Linear(WIDTH, 5), (2, 3, WIDTH)),
    "linear without bias": (lambda: nn.Linear(WIDTH, 5, bias=False), (TOKENS, WIDTH)),
    "layer norm": (lambda: nn.LayerNorm(WIDTH), (TOKENS, WIDTH)),
    "layer norm without bias": (lambda: nn.LayerNorm(WIDTH, bias=False), (TOKENS, WIDTH)),
    "layer norm over two": (lambda: nn.LayerNorm([3, WIDTH]), (TOKENS, 3, WIDTH)),
    "layer norm, one position": (lambda: nn.LayerNorm(WIDTH), (WIDTH,)),
    "RMS norm": (lambda: nn.RMSNorm(WIDTH), (TOKENS, WIDTH)),
    "unknown": (Gain, (TOKENS, WIDTH)),
    "unknown convolution": (lambda: nn.Conv1d(TOKENS, 3, 2), (TOKENS, WIDTH)),
    "odd norm": (OddNorm, (TOKENS, WIDTH)),
    "low rank": (lambda: LowRank(nn.Linear(WIDTH, WIDTH)), (TOKENS, WIDTH)),
    "called twice": (TwiceThrough, (TOKENS, WIDTH)),
}


@pytest.mark.parametrize("keep_up_to", [0.0, float("inf")], ids=["Gram", "kept"])
@pytest.mark.parametrize("kind", LAYERS)
def test_layer_equals_the_reference(
    kind: str, keep_up_to: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uses, "KEEP_UP_TO", keep_up_to)
    build, shape = LAYERS[kind]
    first = nn.Linear(shape[-1], shape[-1])
    model = nn.Sequential(first, nn.Tanh(), build())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    record_losses = _squares(model, BATCH, *shape)
    for _ in range(2):  # the second pass relies on what the first has learnt
        assert error(model, record_losses) <= 1e-5


@pytest.mark.parametrize("batch", [1, 3, 4, 8, 16])
def test_positions_shared_by_all_records(batch: int) -> None:
    """Also where their number is, divides or is divided by that of the records."""
    model = Positions()
    assert error(model, _token_losses(model, batch)) <= 1e-5


def test_taking_shared_positions_for_records_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why the first call on a model tries out whom each loss reaches: without, this is silent."""

    def count_only(self: recorder.Recorder, record_losses: Tensor) -> list[recorder.Tap]:
        self.batch = len(record_losses)
        return []

    monkeypatch.setattr(recorder.Recorder, "strangers", count_only)
    model = Positions()
    assert error(model, _token_losses(model)) > 1e-2


def test_padding_row_gets_nothing() -> None:
    model = nn.Sequential(nn.Embedding(20, WIDTH, padding_idx=3), nn.Linear(WIDTH, 20))
    assert error(model, _token_losses(model)) <= 1e-5


@pytest.mark.parametrize("frozen", ["embed_tokens", "q_proj", "lm_head", "norm", "layers.0"])
def test_frozen_parts(frozen: str) -> None:
    """What is frozen neither counts in the norm nor comes back."""
    model = decoder("llama", tied=False)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(frozen not in name)
    assert error(model, losses(model)) <= 1e-5
    clipped = clipped_gradient_sum(model, losses(model), max_grad_norm=1, engine="bookkeeping")
    assert clipped.gradients
    assert not any(frozen in name for name in clipped.gradients)


def test_only_biases_train() -> None:
    model = decoder("gpt2")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith("bias"))
    assert error(model, losses(model)) <= 1e-5


def test_adapters_on_every_layer() -> None:
    model = decoder("llama").requires_grad_(False)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if name.endswith("_proj") and isinstance(child, nn.Linear):
                setattr(parent, name, LowRank(child))
    assert error(model, losses(model)) <= 1e-5


def test_adapters_of_peft() -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], lora_dropout=0.0)
    model = peft.get_peft_model(decoder("llama"), config).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter) * parameter.requires_grad)
    assert error(model, losses(model)) <= 1e-5


def test_a_parameter_without_gradient_is_named() -> None:
    model = nn.ModuleDict({"used": nn.Linear(3, 3), "idle": nn.Linear(3, 3)})
    x = torch.randn(4, 3)
    with pytest.warns(RuntimeWarning, match=r"idle\.weight, idle\.bias"):
        clipped = clipped_gradient_sum(
            model,
            lambda: model["used"](x).square().sum(1),
            max_grad_norm=1,
            engine="bookkeeping",
        )
    assert not clipped.gradients["idle.weight"].any()


class PositionsThroughALayer(Positions):
    """Positions that go through a layer before they meet the records."""

    def forward(self, ids: Tensor) -> Tensor:
        positions = self.head(self.position(torch.arange(ids.shape[1])))
        return self.head(self.token(ids)) * positions


@pytest.mark.parametrize("batch", [1, 3, 4, 8])
def test_what_shared_positions_go_through(batch: int) -> None:
    model = PositionsThroughALayer()
    assert error(model, _token_losses(model, batch)) <= 1e-5


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


class ChangesItsInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x) * 1.0
        return self.second(hidden) + hidden.add_(1.0)


class OwnParameters(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.gain = nn.Linear(WIDTH, WIDTH), nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * self.layer(x)


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "batch norm": (lambda: nn.BatchNorm1d(TOKENS), r"'1' .BatchNorm1d.: it mixes"),
    "attention over records": (SequenceFirst, r"'1\.layer' .Linear.: its rows"),
    "pooled norm": (PooledNorm, "'1' .PooledNorm.: its rows"),
    "changed input": (ChangesItsInput, r"'1\.second' .Linear.: its input was changed"),
    "parameters beside parts": (OwnParameters, "'1' .OwnParameters.: it has trainable"),
    "multi-head": (lambda: _SelfAttention(), r"'1\.inner' .MultiheadAttention"),
    "tuple": (lambda: _First(nn.GRU(WIDTH, WIDTH, batch_first=True)), r"'1\.inner' .GRU"),
}


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


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_told_apart_is_refused_by_name(kind: str) -> None:
    build, message = REFUSED[kind]
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), build())
    tokens = BATCH if kind == "attention over records" else TOKENS
    with pytest.raises(InputError, match=message):
        clipped_gradient_sum(
            model, _squares(model, BATCH, tokens, WIDTH), max_grad_norm=1, engine="bookkeeping"
        )


def test_a_weight_used_past_its_layer_is_refused_by_name() -> None:
    model = Stray()
    with pytest.raises(InputError, match=r"'embedding\.weight': it is used outside"):
        clipped_gradient_sum(model, _token_losses(model), max_grad_norm=1, engine="bookkeeping")


def test_losses_that_depend_on_other_records_are_refused() -> None:
    model = nn.Linear(WIDTH, WIDTH)
    x = torch.randn(BATCH, TOKENS, WIDTH)
    with pytest.raises(InputError, match="a record's loss depends on other records"):
        clipped_gradient_sum(
            model,
            lambda: (model(x) - model(x).mean(0)).square().flatten(1).sum(1),
            max_grad_norm=1,
            engine="bookkeeping",
        )


def test_experts_are_refused_by_name() -> None:
    config = MixtralConfig(
        vocab_size=60,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
    )
    model = AutoModelForCausalLM.from_config(config).train()
    with pytest.raises(InputError, match=r"mlp\.gate' .MixtralTopKRouter"):
        clipped_gradient_sum(model, losses(model), max_grad_norm=1, engine="bookkeeping")


def test_shared_layers_in_other_places_are_one_parameter() -> None:
    """A layer under two names is clipped as the one it is."""
    shared = nn.Linear(WIDTH, WIDTH)
    model = nn.Sequential(shared, nn.Tanh(), shared)
    record_losses = _squares(model, BATCH, TOKENS, WIDTH)
    assert error(model, record_losses) <= 1e-5
    clipped = clipped_gradient_sum(model, record_losses, max_grad_norm=1, engine="bookkeeping")
    assert list(clipped.gradients) == ["0.weight", "0.bias"]
    assert flat(clipped).norm() <= BATCH * (1 + 1e-6)
