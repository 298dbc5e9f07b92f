"""A forward pass that keeps something of the records in the model is refused by every engine."""

import doctest
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

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

    def __init__(self, change: Change) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.register_buffer("centre", torch.zeros(WIDTH))
        self.register_buffer("nothing", None)
        self.register_buffer("narrow", torch.full((2,), torch.nan, dtype=torch.bfloat16))
        self.register_buffer("turns", torch.ones(3, dtype=torch.complex64))
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
    "kept elsewhere": lambda m, mean: vars(m).update(seen=mean),
}


@pytest.mark.parametrize("kind", ALLOWED)
def test_what_changes_nothing_passes(kind: str) -> None:
    """NaN, complex numbers and buffers that are not there among what is compared."""
    model = Keeper(ALLOWED[kind])
    for _ in range(4):
        clipped_gradient_sum(model, lambda: model(X), max_grad_norm=1)


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
