"""The book-keeping engine on single layers: known, unknown, shared, frozen and refused."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding as look_up
from torch.nn.functional import layer_norm
from torch.utils.checkpoint import checkpoint
from transformers.pytorch_utils import Conv1D

from workbench.clipping.bookkeeping import isolation, recorder
from workbench.clipping.gradient_sum import clipped_gradient_sum
from workbench.errors import InputError

from .decoders import FAMILIES, FORMS, decoder, error, flat, force, losses

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
    ids[:, 0] = 3  # the row that some take for padding
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


class IndexedNorm(nn.Module):
    """Gives its weight a dimension more: copies of it then make an output of another shape."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight.unsqueeze(0) * layer_norm(x, x.shape[-1:])


class ChannelsFirstNorm(IndexedNorm):
    def forward(self, x: Tensor) -> Tensor:
        return (self.weight.unsqueeze(-1) * layer_norm(x, x.shape[-1:]).mT).mT


class NamedInput(nn.Module):
    """Layers whose input is given by name, and one with an argument called ``layer``."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.scale, self.linear = Named(), Chosen(), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(input=self.scale(self.norm(hidden_states=x), layer=1))


class Named(OddNorm):
    def forward(self, hidden_states: Tensor) -> Tensor:  # type: ignore[override]
        return layer_norm(hidden_states, (WIDTH,)) * self.weight


class Chosen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, WIDTH))

    def forward(self, x: Tensor, layer: int = 0) -> Tensor:
        return self.weight[layer] * x


class Gate(nn.Module):
    """One number that the normalisation after it divides out: its gradient is rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.norm = Gain1(), nn.RMSNorm(WIDTH, eps=0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.gate(x))


class Gain1(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.3))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * x


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


class ChangedInPlace(nn.Module):
    """Outputs of layers that are changed in place right after."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.conv = nn.Linear(WIDTH, WIDTH), Conv1D(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.layer(x).relu_()).mul_(2.0)


class TiedAcrossKinds(nn.Module):
    """One matrix in a linear layer, a transposed one and one without a rule; one vector in two."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.conv, self.norm = (
            nn.Linear(WIDTH, WIDTH),
            Conv1D(WIDTH, WIDTH),
            nn.LayerNorm(WIDTH),
        )
        self.gain = Gain()
        self.conv.weight = self.gain.mix = self.layer.weight  # type: ignore[assignment]
        self.norm.bias = self.layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.gain(self.norm(self.conv(self.layer(x).tanh())))


class Flattened(nn.Module):
    """Records and positions in one dimension, as OPT has them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.layer(x.flatten(0, 1)).tanh()).unflatten(0, x.shape[:2])


class Hooked(nn.Module):
    """A forward that was replaced before, and a hook that changes an output."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.replaced = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.layer.register_forward_hook(lambda *given: 3.0 * given[2])  # type: ignore[operator]
        forward = self.replaced.forward
        self.replaced.forward = lambda input: 2.0 * forward(input)

    def forward(self, x: Tensor) -> Tensor:
        return self.replaced(self.layer(x).tanh())


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
    "indexed norm": (IndexedNorm, (TOKENS, WIDTH)),
    "channels-first norm": (ChannelsFirstNorm, (TOKENS, WIDTH)),
    "named input": (NamedInput, (TOKENS, WIDTH)),
    "divided out": (Gate, (TOKENS, WIDTH)),
    "low rank": (lambda: LowRank(nn.Linear(WIDTH, WIDTH)), (TOKENS, WIDTH)),
    "called twice": (TwiceThrough, (TOKENS, WIDTH)),
    "changed in place": (ChangedInPlace, (TOKENS, WIDTH)),
    "tied across kinds": (TiedAcrossKinds, (TOKENS, WIDTH)),
    "flattened": (Flattened, (TOKENS, WIDTH)),
    "hooked": (Hooked, (TOKENS, WIDTH)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", LAYERS)
def test_layer_equals_the_reference(kind: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    force(form, monkeypatch)
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

    monkeypatch.setattr(isolation.Trial, "agrees", lambda *_: True)
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


class ChangesItsInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x) * 1.0
        return self.second(hidden) + hidden.add_(1.0)


class Rolled(nn.Module):
    """Records give their place to those two further on, whom half of the losses would not show."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.roll(2, 0))


class KeepsStatistics(nn.Module):
    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.register_buffer("mean", torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        self.mean.lerp_(x.detach().mean((0, 1)), 0.1)
        return self.layer(x - self.mean)


def _compiled() -> nn.Module:
    layer = nn.Linear(WIDTH, WIDTH)
    layer.compile(backend="eager")
    return layer


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "batch norm": (lambda: nn.BatchNorm1d(TOKENS), r"'1' .BatchNorm1d.: it mixes"),
    "changed input": (ChangesItsInput, r"'1\.second' .Linear.: its input was changed"),
    "rolled": (Rolled, "its rows are not one record's each"),
    "statistics": (KeepsStatistics, r"its buffer '1\.mean' is changed"),
    "running statistics": (
        lambda: nn.InstanceNorm1d(TOKENS, track_running_stats=True),
        "'1' .InstanceNorm1d.: it keeps statistics",
    ),
    "compiled": (_compiled, "'1' .Linear.: it is compiled"),
}


@pytest.fixture
def without_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Apple's GPUs have none; scaled by powers of two, float32 sums round alike."""
    monkeypatch.setattr(isolation, "widest", lambda _: torch.float32)


@pytest.mark.parametrize("family", FAMILIES)
def test_records_are_told_apart_without_float64(without_float64: None, family: str) -> None:
    model = decoder(family)
    assert error(model, losses(model)) <= 1e-5


@pytest.mark.parametrize("kind", ["rolled"])
def test_strangers_are_seen_without_float64_as_well(without_float64: None, kind: str) -> None:
    build, message = REFUSED[kind]
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), build())
    with pytest.raises(InputError, match=message):
        clipped_gradient_sum(
            model, _squares(model, BATCH, TOKENS, WIDTH), max_grad_norm=1, engine="bookkeeping"
        )


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_told_apart_is_refused_by_name(kind: str) -> None:
    build, message = REFUSED[kind]
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), build())
    with pytest.raises(InputError, match=message):
        clipped_gradient_sum(
            model, _squares(model, BATCH, TOKENS, WIDTH), max_grad_norm=1, engine="bookkeeping"
        )


class AsksFor(nn.Embedding):
    """Looks up with its own options instead of those it was built with."""

    def __init__(
        self, count: int, width: int, options: dict[str, Any], padding_idx: int | None = None
    ) -> None:
        super().__init__(count, width, padding_idx)
        nn.init.normal_(self.weight)
        self.options = options

    def forward(self, ids: Tensor) -> Tensor:  # type: ignore[override]
        return look_up(input=ids, weight=self.weight, **self.options) * 2


def _with_another_weight() -> nn.Embedding:
    embedding = nn.Embedding(10, WIDTH)
    embedding.weight = nn.Parameter(torch.randn(20, WIDTH))
    return embedding


class ScalesByAGain(nn.Embedding):
    def __init__(self, count: int, width: int) -> None:
        super().__init__(count, width)
        self.gain = nn.Parameter(torch.tensor(2.0))

    def forward(self, ids: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(ids) * self.gain


@pytest.mark.parametrize(
    ("embedding", "message"),
    [
        (lambda: nn.Embedding(20, WIDTH, max_norm=1.0), "max_norm changes its weights"),
        (lambda: nn.Embedding(20, WIDTH, scale_grad_by_freq=True), "scale_grad_by_freq mixes"),
        (lambda: AsksFor(20, WIDTH, {"scale_grad_by_freq": True}), "scale_grad_by_freq mixes"),
        (lambda: AsksFor(20, WIDTH, {"max_norm": 1.0}), "max_norm changes its weights"),
    ],
)
def test_embeddings_that_do_more_are_refused_by_name(
    embedding: Callable[[], nn.Module], message: str
) -> None:
    model = nn.Sequential(embedding(), nn.Linear(WIDTH, 20))
    with pytest.raises(InputError, match=f"'0' .*{message}"):
        clipped_gradient_sum(model, _token_losses(model), max_grad_norm=1, engine="bookkeeping")


@pytest.mark.parametrize(
    "embedding",
    [
        lambda: ScalesByAGain(20, WIDTH),
        lambda: nn.Embedding(20, WIDTH, sparse=True),
        lambda: AsksFor(20, WIDTH, {}, padding_idx=3),
        lambda: AsksFor(20, WIDTH, {"padding_idx": -17}),
        _with_another_weight,
    ],
    ids=["gain of its own", "sparse", "padding not meant", "padding meant", "another weight"],
)
def test_embeddings_of_other_kinds(embedding: Callable[[], nn.Module]) -> None:
    model = nn.Sequential(embedding(), nn.Linear(WIDTH, 20))
    assert error(model, _token_losses(model)) <= 1e-5


def test_a_table_is_not_changed_before_it_is_refused() -> None:
    model = AsksFor(20, WIDTH, {"max_norm": 0.1})
    before = model.weight.detach().clone()
    with pytest.raises(InputError):
        clipped_gradient_sum(model, _token_losses(model), max_grad_norm=1)
    assert torch.equal(model.weight, before)


def test_an_error_of_the_model_itself_stays_what_it_is() -> None:
    model = nn.Linear(WIDTH, WIDTH)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        clipped_gradient_sum(model, lambda: model(torch.ones(2, 1)).sum(1), max_grad_norm=1)


@pytest.mark.parametrize("reentrant", [True, False])
def test_layers_that_run_again_in_the_backward_pass(reentrant: bool) -> None:
    """Against the same layers run once: the reference cannot go through reentrant checkpoints."""
    embedding, body = nn.Embedding(20, WIDTH), TwiceThrough()
    model = nn.ModuleList([embedding, body])
    ids = torch.randint(20, (BATCH, TOKENS))

    def again() -> Tensor:
        hidden = checkpoint(body, embedding(ids), use_reentrant=reentrant)
        assert isinstance(hidden, Tensor)
        return hidden.square().sum((1, 2))

    def once() -> Tensor:
        return body(embedding(ids)).square().sum((1, 2))

    for _ in range(2):
        found, expected = (
            flat(clipped_gradient_sum(model, losses, max_grad_norm=0.7)) for losses in (again, once)
        )
        assert (found - expected).norm() <= 1e-6 * expected.norm()


def test_a_forward_of_its_own_is_put_back() -> None:
    model = Hooked()
    before = model.replaced.forward
    record_losses = _squares(model, BATCH, TOKENS, WIDTH)
    clipped_gradient_sum(model, record_losses, max_grad_norm=1, engine="bookkeeping")
    assert model.replaced.forward is before


@pytest.mark.parametrize("engine", ["bookkeeping", "hooks"])
def test_norms_of_large_layers_keep_their_digits(engine: str) -> None:
    """A single float32 sum of a million squares is off by some 1e-5; one a row is not."""
    layer = nn.Linear(1024, 1024, bias=False)
    x = torch.randn(2, 300, 1024)
    weights = torch.randn(2, 300, 1024)
    norms = clipped_gradient_sum(
        layer, lambda: (layer(x) * weights).sum((1, 2)), max_grad_norm=1, engine=engine
    ).norms
    exact = (weights.double().mT @ x.double()).flatten(1).norm(dim=1)
    assert ((norms - exact).abs() <= 1e-6 * exact).all()


def test_a_model_is_tried_out_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """At calls 1, 4 and 16, and for more records: what layers do may depend on what they see."""
    tried: list[int] = []
    trial = recorder.Recorder.trial

    def counted(self: recorder.Recorder, losses: Tensor) -> isolation.Trial:
        tried.append(call)
        return trial(self, losses)

    monkeypatch.setattr(recorder.Recorder, "trial", counted)
    model = nn.Linear(WIDTH, WIDTH)
    for call in range(1, 21):
        record_losses = _squares(model, 50 if call == 7 else BATCH, TOKENS, WIDTH)
        clipped_gradient_sum(model, record_losses, max_grad_norm=1, engine="bookkeeping")
    assert tried == [1, 4, 7, 16]


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


def test_shared_layers_in_other_places_are_one_parameter() -> None:
    """A layer under two names is clipped as the one it is."""
    shared = nn.Linear(WIDTH, WIDTH)
    model = nn.Sequential(shared, nn.Tanh(), shared)
    record_losses = _squares(model, BATCH, TOKENS, WIDTH)
    assert error(model, record_losses) <= 1e-5
    clipped = clipped_gradient_sum(model, record_losses, max_grad_norm=1, engine="bookkeeping")
    assert list(clipped.gradients) == ["0.weight", "0.bias"]
    assert flat(clipped).norm() <= BATCH * (1 + 1e-6)
