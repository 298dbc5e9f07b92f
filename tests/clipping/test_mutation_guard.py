"""A forward pass that keeps something of the records in the model is refused by every engine."""

import doctest
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, Phi3Config, PreTrainedModel

from workbench.clipping import mutation_guard as unchanged
from workbench.clipping.gradient_sum import ENGINES, clipped_gradient_sum
from workbench.clipping.mutation_guard import refusing_changes
from workbench.errors import InputError

WIDTH = 6
X = torch.randn(4, 3, WIDTH, generator=torch.Generator().manual_seed(0))
Change = Callable[["Keeper", Tensor], object]


class Keeper(nn.Module):
    """Does something to what it holds, knowing the mean of the records."""

    centre: Tensor
    nothing: Tensor | None
    turns: Tensor
    table: Tensor
    flags: Tensor

    def __init__(self, change: Change) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.register_buffer("centre", torch.zeros(WIDTH))
        self.register_buffer("nothing", None)
        self.register_buffer("narrow", torch.full((2,), torch.nan, dtype=torch.bfloat16))
        self.register_buffer("turns", torch.ones(3, dtype=torch.complex64))
        self.register_buffer("table", torch.tensor([1.0, 2.0, 0.0, -0.0]))
        self.register_buffer("flags", torch.tensor([True, False]))
        self.frozen = nn.Parameter(torch.zeros(WIDTH), requires_grad=False)
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.change(self, x.mean((0, 1)))
        return self.layer(x).square().sum((1, 2))


CHANGES: dict[str, tuple[Change, str]] = {
    "in place": (lambda m, mean: m.centre.lerp_(mean, 0.1), "buffer 'centre'"),
    "assigned": (lambda m, mean: setattr(m, "centre", 0.9 * m.centre + mean), "buffer 'centre'"),
    "another shape": (lambda m, mean: setattr(m, "centre", mean[:2]), "buffer 'centre'"),
    "through data": (lambda m, mean: m.centre.data.lerp_(mean, 0.1), "buffer 'centre'"),
    "one number": (lambda m, mean: m.turns.data[0].mul_(mean[0]), "buffer 'turns'"),
    "made": (lambda m, mean: setattr(m, "nothing", mean), "buffer 'nothing'"),
    "added": (lambda m, mean: m.layer.register_buffer("mean", mean), r"buffer 'layer\.mean'"),
    "taken away": (lambda m, mean: m._buffers.pop("centre"), "buffer 'centre'"),
    "frozen": (lambda m, mean: m.frozen.lerp_(mean, 0.1), "parameter 'frozen'"),
    "frozen, through data": (lambda m, mean: m.frozen.data.add_(mean), "parameter 'frozen'"),
    "exchanged numbers": (
        lambda m, mean: m.table.data.copy_(m.table.flip(0)),
        "buffer 'table'",
    ),
    "two that cancel": (
        lambda m, mean: m.table.data.add_(torch.tensor([1.0, -1, 0, 0])),
        "buffer 'table'",
    ),
    "the last bit": (
        lambda m, mean: m.table.data.copy_(m.table.nextafter(torch.full((4,), 9.0))),
        "buffer 'table'",
    ),
    "a flag": (lambda m, mean: m.flags.data[1].logical_not_(), "buffer 'flags'"),
    "a weight swapped": (
        lambda m, mean: m.layer.weight.data.copy_(m.layer.weight.roll(1, 0)),
        r"parameter 'layer\.weight'",
    ),
    "trained": (lambda m, mean: m.layer.bias.data.copy_(mean), r"parameter 'layer\.bias'"),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", CHANGES)
def test_a_change_is_refused_by_name(kind: str, engine: str) -> None:
    change, message = CHANGES[kind]
    model = Keeper(change)
    with pytest.raises(InputError, match=f"its {message} is changed by the forward pass"):
        clipped_gradient_sum(model, lambda: model(X), max_grad_norm=1, engine=engine)


ALLOWED: dict[str, Change] = {
    "nothing": lambda m, mean: None,
    "read": lambda m, mean: m.centre + mean,
    "the same made anew": lambda m, mean: setattr(m, "centre", m.centre.clone()),
    "the same again": lambda m, mean: setattr(m, "centre", m.centre),
    "written again": lambda m, mean: m.table.copy_(m.table.clone()),
    "zero added": lambda m, mean: m.table.add_(0),
    "there and back": lambda m, mean: m.table.mul_(2).div_(2),
    "a weight written again": lambda m, mean: m.layer.weight.data.copy_(m.layer.weight.clone()),
    "a parameter's memory set": lambda m, mean: m.frozen.set_(m.frozen.detach()),  # type: ignore[arg-type]
    "kept elsewhere": lambda m, mean: vars(m).update(seen=mean),
}


@pytest.mark.parametrize("kind", ALLOWED)
def test_what_changes_nothing_passes(kind: str) -> None:
    """NaN, complex numbers and buffers that are not there among what is compared."""
    model = Keeper(ALLOWED[kind])
    for _ in range(4):
        clipped_gradient_sum(model, lambda: model(X), max_grad_norm=1)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_small_buffer_is_compared_in_every_call(engine: str) -> None:
    """Rewritten with equal numbers at first, and with others where weights are not looked at."""
    model, again = Keeper(ALLOWED["written again"]), lambda: model(X)
    clipped_gradient_sum(model, again, max_grad_norm=1, engine=engine)
    model.change = CHANGES["exchanged numbers"][0]
    with pytest.raises(InputError, match="buffer 'table' is changed"):
        clipped_gradient_sum(model, again, max_grad_norm=1, engine=engine)


def test_large_tensors_are_compared_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unchanged, "_PIECE", 2)
    for change, message in (CHANGES["exchanged numbers"], CHANGES["a flag"]):
        model = Keeper(change)
        with pytest.raises(InputError, match=message):
            clipped_gradient_sum(model, lambda m=model: m(X), max_grad_norm=1)
    model = Keeper(ALLOWED["there and back"])
    clipped_gradient_sum(model, lambda: model(X), max_grad_norm=1)


def _rotary(kind: str, longest: int) -> PreTrainedModel:
    """A decoder whose positions are rescaled past ``longest`` tokens."""
    shape: dict[str, Any] = {
        "vocab_size": 61,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    scaling: dict[str, Any] = {"rope_type": kind, "rope_theta": 1e4, "factor": 4.0}
    if kind == "longrope":
        scaling |= {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
        shape |= {"original_max_position_embeddings": longest}
        longest = 64
    config = (Phi3Config if kind == "longrope" else LlamaConfig)(
        **shape, max_position_embeddings=longest, rope_parameters=scaling
    )
    return AutoModelForCausalLM.from_config(config).train()


@pytest.mark.parametrize("engine", ["bookkeeping", "reference"])
@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_rescaled_positions(kind: str, engine: str) -> None:
    """Fine while no record is longer than the scale's own length, and refused past it.

    There the longest record of a batch decides how all others are turned, so that a record's
    gradient depends on how long the others are, and dynamic scales keep that length as well.
    """
    model = _rotary(kind, 8)
    ids = torch.randint(61, (4, 12), generator=torch.Generator().manual_seed(0))

    def record_losses(length: int) -> Tensor:
        return model(input_ids=ids[:, :length], use_cache=False).logits.logsumexp(2).sum(1)

    for length in (6, 8, 7):
        clipped_gradient_sum(model, lambda n=length: record_losses(n), max_grad_norm=1)
    with pytest.raises(InputError, match=r"inv_freq' is changed by the forward pass"):
        clipped_gradient_sum(model, lambda: record_losses(12), max_grad_norm=1, engine=engine)


def test_values_are_compared_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading all weights twice is not for every call."""
    asked = []

    def noted(model: nn.Module, *, values: bool) -> object:
        asked.append(values)
        return refusing_changes(model, values=values)

    monkeypatch.setattr("workbench.clipping.gradient_sum.refusing_changes", noted)
    model = Keeper(ALLOWED["nothing"])
    for _ in range(17):
        clipped_gradient_sum(model, lambda: model(X), max_grad_norm=1, engine="reference")
    assert [call for call, values in enumerate(asked, 1) if values] == [1, 4, 16]


def test_the_docstring_example_runs() -> None:
    results = doctest.testmod(unchanged, optionflags=doctest.ELLIPSIS)
    assert (results.attempted, results.failed) == (2, 0)


def test_what_is_not_compared_by_value_is_by_what_autograd_counts() -> None:
    model = Keeper(CHANGES["frozen"][0])
    with pytest.raises(InputError, match="'frozen'"), refusing_changes(model, values=False):
        model(X)
    hidden = Keeper(CHANGES["frozen, through data"][0])
    with refusing_changes(hidden, values=False):
        hidden(X)
