"""Opacus's ghost clipping: equal to one record at a time, or refused by name."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from workbench.clipping import opacus_ghost as ghost
from workbench.clipping.gradient_sum import clipped_gradient_sum
from workbench.errors import InputError

from .decoders import decoder, error, losses

TOKENS, WIDTH = 6, 5
IDS = torch.tensor([[1, 2, 1, 4, 0, 2], [3, 3, 3, 0, 1, 4], [4, 0, 2, 2, 2, 1]])


def _sum(model: nn.Module, record_losses: Callable[[], Tensor]) -> None:
    clipped_gradient_sum(model, record_losses, max_grad_norm=1.0, engine="ghost")


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("max_grad_norm", [0.3, 1e6])
def test_equals_the_reference(family: str, dtype: torch.dtype, max_grad_norm: float) -> None:
    """The same sums in another order: 1e-5 in float32 and 1e-10 in float64.

    Llama's normalisation rounds to float32 inside, here after the factors: 1e-6.
    """
    model = decoder(family, tied=False, dtype=dtype)
    record_losses = losses(model, positions=True)
    largest = error(model, record_losses, max_grad_norm=max_grad_norm, engine="ghost")
    in_double = 1e-6 if family == "llama" else 1e-10
    assert largest <= (1e-5 if dtype == torch.float32 else in_double)


def test_frozen_parts_are_left_out() -> None:
    model = decoder("llama", tied=False)
    model.get_input_embeddings().requires_grad_(False)
    assert error(model, losses(model), engine="ghost") <= 1e-5


class _Body(nn.Module):
    """Token ids to a number a record, through an embedding and a linear layer."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, WIDTH, **options)  # type: ignore[arg-type]
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, ids: Tensor) -> Tensor:
        return self.layer(self.embedding(ids).tanh()).square().sum((1, 2))


class _Twice(_Body):
    def forward(self, ids: Tensor) -> Tensor:
        return self.layer(self.layer(self.embedding(ids)).tanh()).square().sum((1, 2))


class _PastItsLayer(_Body):
    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.embedding(ids).tanh()
        return linear(self.layer(hidden), self.layer.weight).square().sum((1, 2))


def _made_louder(output: Tensor) -> None:
    output.register_hook(lambda gradient: 30 * gradient)


class _LouderOnItsWay(_Body):
    """A hook on a tensor: the first pass sees the gradient before it, the sum what comes after."""

    def __init__(self) -> None:
        super().__init__()
        self.layer.register_forward_hook(lambda *given: _made_louder(given[2]))


class _AlwaysAsLong(torch.autograd.Function):
    """Passes on gradients of length 1, whatever the losses are multiplied by."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:  # type: ignore[override]
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient / gradient.norm()


class _Evened(_Body):
    def forward(self, ids: Tensor) -> Tensor:
        hidden = _AlwaysAsLong.apply(self.layer(self.embedding(ids)))
        return hidden.square().sum((1, 2))  # type: ignore[union-attr]


class _FourDimensions(_Body):
    def forward(self, ids: Tensor) -> Tensor:
        return self.layer(self.embedding(ids)[:, None]).square().sum((1, 2, 3))


class _SharedPositions(_Body):
    def forward(self, ids: Tensor) -> Tensor:
        positions = self.layer(self.embedding(torch.arange(5)[None]))
        return positions.square().sum((1, 2)).expand(len(ids)) * ids.sum(1)


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "called twice": (_Twice, "called twice"),
    "past its layer": (_PastItsLayer, r"'layer\.weight': it is used outside"),
    "four dimensions": (_FourDimensions, r"'layer\.weight': Opacus found no norm"),
    "shared positions": (_SharedPositions, r"'embedding\.weight': Opacus found no norm"),
    "padding": (lambda: _Body(padding_idx=0), r"'embedding\.weight': .* padding row"),
    "louder on its way": (_LouderOnItsWay, "not as long as its norm says"),
    "always as long": (_Evened, "the gradients of its rows are not those of the records"),
    "by frequency": (lambda: _Body(scale_grad_by_freq=True), "scale_grad_by_freq mixes"),
}


def test_what_is_refused_below_is_otherwise_right() -> None:
    model = _Body()
    assert error(model, lambda: model(IDS), engine="ghost") <= 1e-5


@pytest.mark.parametrize("kind", REFUSED)
def test_what_opacus_would_clip_wrongly_is_refused_by_name(kind: str) -> None:
    build, message = REFUSED[kind]
    model = build()
    with pytest.raises(InputError, match=message):
        _sum(model, lambda: model(IDS))
    assert not any(hasattr(p, "_norm_sample") for p in model.parameters())


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_tied_weights_are_refused_by_name(family: str) -> None:
    model = decoder(family)
    with pytest.raises(InputError, match=r"(wte|embed_tokens)\.weight': it is tied.*bookkeeping"):
        _sum(model, losses(model, positions=True))


def test_norms_in_bf16_are_refused() -> None:
    model = decoder("llama", tied=False)
    with pytest.raises(InputError, match=r"takes its norm in torch\.bfloat16"):
        _sum(model, losses(model, bf16=True))


def test_a_use_that_the_hooks_miss_would_go_unclipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why the graph is searched for other uses: without, this sum is not what C allows.

    That a record's gradient is longer than its norm says is seen as well, but now and then only.
    """
    monkeypatch.setattr(ghost, "refuse_other_uses", lambda *_: None)
    model = _PastItsLayer()
    with pytest.raises(InputError, match="not as long as its norm says"):
        _sum(model, lambda: model(IDS))
    monkeypatch.setattr(ghost, "_refuse_another_length", lambda *_: None)
    assert error(model, lambda: model(IDS), engine="ghost", max_grad_norm=0.1) > 1e-2


def test_the_model_is_left_as_it_was_found() -> None:
    model = _Body()
    before = {name: vars(m).keys() for name, m in model.named_modules()}
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    _sum(model, lambda: model(IDS))
    assert {name: vars(m).keys() for name, m in model.named_modules()} == before
    assert all(p.grad is not None and (p.grad == 7).all() for p in model.parameters())
    assert not any(vars(p) for p in model.parameters())
