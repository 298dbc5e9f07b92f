"""Rows that all records share, rows that are made of the records, and layers that run again."""

import gc
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress

import pytest
import torch
import transformers
from opacus import GradSampleModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from workbench.clipping import gradient_sum
from workbench.clipping.gradient_sum import clipped_gradient_sum
from workbench.errors import InputError

from .decoders import decoder, error, flat, losses

BATCH, WIDTH = 6, 8
Cut = Callable[[nn.Module, Tensor], Tensor]


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def _by_segments(model: nn.Module, x: Tensor) -> Tensor:
    """Records of 2 and 1 positions in turn, in one row, as padding-free batches have them."""
    row = torch.cat([x[:, 0], x[:, 1]])[None]
    owners = torch.arange(len(x)).repeat(2)
    values = model(row)[0].square().sum(1)
    return torch.zeros(len(x)).index_add(0, owners, values)


PACKED: dict[str, Cut] = {
    "reshaped": lambda model, x: model(x[None]).reshape(len(x), -1).square().sum(1),
    "indexed": lambda model, x: model(x[None])[0].flatten(1).square().sum(1),
    "squeezed": lambda model, x: model(x[None]).squeeze(0).view(len(x), -1).square().sum(1),
    "segments": _by_segments,
    "split": lambda model, x: torch.stack(
        [part.square().sum() for part in model(x.flatten(0, 1)[None])[0].split(2)]
    ),
    "averaged": lambda model, x: model(x[None]).reshape(len(x), -1).square().mean(1),
    "one token, time first": lambda model, x: (
        model(x[:, 0][None]).transpose(0, 1).flatten(1).square().sum(1)
    ),
    "two rows": lambda model, x: (
        model(x.flatten(0, 1).view(2, -1, WIDTH)).view(len(x), -1).square().sum(1)
    ),
    "more rows": lambda model, x: (
        model(x.flatten(0, 1).view(-1, WIDTH)[None].expand(2 * len(x), -1, -1))[0]
        .view(len(x), -1)
        .square()
        .sum(1)
    ),
}


@pytest.mark.parametrize("alike", [False, True], ids=["", "all records alike at first"])
@pytest.mark.parametrize("batch", [2, 6])
@pytest.mark.parametrize("kind", PACKED)
def test_records_in_one_row_are_summed_right_or_refused(kind: str, batch: int, alike: bool) -> None:
    """Also where an earlier call, on records that were alike, could not show what a row is."""
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 3))
    for call in range(3):
        x = torch.randn(batch, 2, WIDTH)
        if alike and call == 0:
            x = x[:1].expand(batch, -1, -1)

        def record_losses(x: Tensor = x) -> Tensor:
            return PACKED[kind](model, x)

        with suppress(InputError):
            assert error(model, record_losses) <= 1e-5


class Context(nn.Module):
    """Adds to each record what a layer makes of all records' mean."""

    def __init__(self) -> None:
        super().__init__()
        self.context, self.inner = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * self.context(x.mean(0, keepdim=True))


def test_a_shared_row_made_of_the_records_is_refused() -> None:
    model, x = Context(), torch.randn(BATCH, WIDTH)
    with pytest.raises(InputError, match=r"'context' .Linear.: its input's single row is made of"):
        clipped_gradient_sum(model, lambda: model(x).square().sum(1), max_grad_norm=1)


class Averaged(nn.Module):
    """Makes another thing of positions that all records share than of each record's."""

    def __init__(self, positions: int) -> None:
        super().__init__()
        self.position, self.inner = nn.Embedding(positions, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        positions = self.position(torch.arange(x.shape[1])[None])
        return self.inner(x) * positions * len(positions)


@pytest.mark.parametrize("flat", [True, False], ids=["one token", "three tokens"])
def test_ids_that_count_up_are_still_records(flat: bool) -> None:
    """As toy data has them: where losses mix records, they pass for no positions."""
    model = nn.Sequential(nn.Embedding(12, WIDTH), nn.Linear(WIDTH, WIDTH))
    ids = torch.arange(4 if flat else 12).view((4,) if flat else (4, 3))

    def record_losses() -> Tensor:
        z = model(ids).view(4, -1)
        return (z @ z.mT).log_softmax(1).diagonal()

    for _ in range(2):
        with pytest.raises(InputError):
            clipped_gradient_sum(model, record_losses, max_grad_norm=1)


def test_losses_that_change_where_rows_are_repeated_are_refused() -> None:
    model, x = Averaged(3), torch.randn(BATCH, 3, WIDTH)
    with pytest.raises(InputError, match=r"'position' .Embedding.: all records share .* losses"):
        clipped_gradient_sum(model, lambda: model(x).square().sum((1, 2)), max_grad_norm=1)


def test_one_record_teaches_nothing() -> None:
    """Rows that are the record's in a batch of one may be others' in a larger one."""
    model = nn.Linear(WIDTH, WIDTH)

    def record_losses(x: Tensor) -> Tensor:
        return model(x).roll(1, 0).square().sum(1)

    clipped_gradient_sum(model, lambda: record_losses(torch.randn(1, WIDTH)), max_grad_norm=1)
    x = torch.randn(2, WIDTH)
    with pytest.raises(InputError, match="its rows are not one record's each"):
        clipped_gradient_sum(model, lambda: record_losses(x), max_grad_norm=1)


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text", "phi"])
def test_checkpoints_change_nothing(family: str, reentrant: bool) -> None:
    """From the first call on, also where layers are looked at while they run in a checkpoint."""
    sums = []
    for checkpointed in (False, True):
        model = decoder(family)
        if checkpointed:
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
        sums.append(
            [flat(clipped_gradient_sum(model, losses(model), max_grad_norm=0.7)) for _ in range(2)]
        )
    for plain, found in zip(*sums, strict=True):
        assert (found - plain).norm() <= 1e-6 * plain.norm()


class Gained(nn.Module):
    """Parameters without a rule, inside a checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.inner = nn.Parameter(torch.randn(WIDTH)), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return (self.gain * self.inner(x)).tanh()


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])
def test_parameters_without_a_rule_in_checkpoints(reentrant: bool) -> None:
    first, inner, x = nn.Linear(WIDTH, WIDTH), Gained(), torch.randn(BATCH, WIDTH)
    model = nn.ModuleList([first, inner])

    def again() -> Tensor:
        hidden = checkpoint(inner, first(x), use_reentrant=reentrant)
        assert isinstance(hidden, Tensor)
        return hidden.square().sum(1)

    def once() -> Tensor:
        return inner(first(x)).square().sum(1)

    expected = clipped_gradient_sum(model, once, max_grad_norm=0.7, engine="reference")
    for _ in range(2):
        found = clipped_gradient_sum(model, again, max_grad_norm=0.7)
        assert (flat(found) - flat(expected)).norm() <= 1e-5 * flat(expected).norm()


@pytest.mark.parametrize("autocast", [False, True])
def test_float16_is_refused_by_its_name(autocast: bool) -> None:
    model = nn.Linear(WIDTH, WIDTH).to(torch.float32 if autocast else torch.float16)
    x = torch.randn(BATCH, WIDTH)

    def record_losses() -> Tensor:
        with torch.autocast("cpu", torch.float16, enabled=autocast):
            return model(x if autocast else x.half()).float().square().sum(1)

    with pytest.raises(InputError, match=r"float16.* use bfloat16 or float32"):
        clipped_gradient_sum(model, record_losses, max_grad_norm=1)
    model, x = model.bfloat16(), x.bfloat16()
    clipped_gradient_sum(model, lambda: model(x).float().square().sum(1), max_grad_norm=1)


def test_what_opacus_has_wrapped_is_refused_with_the_way_out() -> None:
    wrapped = GradSampleModule(nn.Linear(WIDTH, WIDTH), loss_reduction="sum")
    x = torch.randn(BATCH, WIDTH)
    with pytest.raises(InputError, match=r"to_standard_module\(\)"):
        clipped_gradient_sum(wrapped, lambda: wrapped(x).square().sum(1), max_grad_norm=1)
    model = wrapped.to_standard_module()
    assert error(model, lambda: model(x).square().sum(1)) <= 1e-5


def test_a_table_of_rotations_that_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dynamic rotary positions, in records longer than any before.

    Whether a forward pass may write such a table is for the guard on changes to say.
    """
    monkeypatch.setattr(gradient_sum, "refusing_changes", lambda *_, **__: nullcontext())
    config = transformers.LlamaConfig(
        vocab_size=60,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=8,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
    )
    model = transformers.AutoModelForCausalLM.from_config(config).train()
    for tokens in (7, 11, 7):
        assert error(model, losses(model, tokens=tokens)) <= 1e-5


def test_dropout_is_drawn_alike_in_every_pass() -> None:
    """The first call makes several passes; its sum is that of the numbers drawn first."""
    model, x = nn.Sequential(Gained(), nn.Dropout(0.5), nn.Linear(WIDTH, 2)), torch.randn(4, WIDTH)
    sums = []
    for engine in ("bookkeeping", "reference"):
        torch.manual_seed(5)
        sums.append(
            flat(
                clipped_gradient_sum(
                    model, lambda: model(x).square().sum(1), max_grad_norm=0.1, engine=engine
                )
            )
        )
    assert (sums[0] - sums[1]).norm() <= 1e-5 * sums[1].norm()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_nothing_of_a_pass_outlives_the_call(family: str) -> None:
    """No activation is left behind, nor held by a circle until garbage is collected."""
    model = decoder(family)

    def activations() -> int:
        tensors = (held for held in gc.get_objects() if issubclass(type(held), Tensor))
        return sum(held.ndim == 3 and held.shape[:2] == (4, 9) for held in tensors)

    losses_of_the_model = losses(model)
    gc.collect()
    gc.disable()
    try:
        before = activations()
        clipped_gradient_sum(model, losses_of_the_model, max_grad_norm=1)
        assert activations() == before
    finally:
        gc.enable()
