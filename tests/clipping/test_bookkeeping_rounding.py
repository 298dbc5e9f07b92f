"""One record's contribution is at most C(1 + 1e-6) in floating point, whatever its factors are."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers.pytorch_utils import Conv1D

from workbench.clipping.bookkeeping import products
from workbench.clipping.bookkeeping.contributions import Outer, Rows, measure
from workbench.clipping.bookkeeping.rounding import rounded_down, squared_norms
from workbench.clipping.gradient_sum import clipped_gradient_sum

from .decoders import FORMS, force

WIDTH, HEIGHT = 24, 32


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(WIDTH)), nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight + self.bias


class ScaleNorm(Scale):
    """Treated by copies of its vectors, while `Scale` runs row by row."""


class Beside(Scale):
    """Parameters beside a layer are taken record by record."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * self.weight + self.bias


class Twice(nn.Module):
    """One matrix in two layers, whose gradients may cancel each other."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.other.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) - self.other(x * (1 + 1e-6))


class TiedConv(Twice):
    def __init__(self) -> None:
        super().__init__()
        self.other = Conv1D(WIDTH, WIDTH)
        self.other.weight = self.one.weight  # type: ignore[assignment]


class Tied(nn.Module):
    """A table that is looked up and multiplied by; of the look-up the gradient comes from x."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(HEIGHT, WIDTH), nn.Linear(WIDTH, HEIGHT, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        ids = torch.arange(x.shape[1]).expand(len(x), -1) % 3
        looked_up, made = self.table(ids), self.head(x)[..., :WIDTH]
        return looked_up - made


class LookUp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(HEIGHT, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.table(torch.arange(x.shape[1]).expand(len(x), -1) % 3)


class UsedPast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) - linear(x, self.inner.weight)


RULES: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(WIDTH, WIDTH),
    "conv1d": lambda: Conv1D(WIDTH, WIDTH),
    "layer norm": lambda: nn.LayerNorm(WIDTH),
    "RMS norm": lambda: nn.RMSNorm(WIDTH),
    "copies": ScaleNorm,
    "row by row": Scale,
    "beside": Beside,
    "used past": UsedPast,
    "look-up": LookUp,
    "twice": Twice,
    "twice, transposed": TiedConv,
    "tied": Tied,
}
PATTERNS = ("random", "repeated", "cancelling", "constant", "zero rows", "one row")


def _factor(pattern: str, positions: int, scale: float, generator: torch.Generator) -> Tensor:
    """(positions, width) numbers that are hard on norms in this way."""
    values = torch.randn(positions, WIDTH, generator=generator)
    if pattern in ("repeated", "cancelling"):
        values = values[:1].expand(positions, -1).clone()
    if pattern == "cancelling":
        values[1::2] *= -1
        values += 1e-4 * torch.randn(positions, WIDTH, generator=generator)
    if pattern == "constant":
        values = torch.full_like(values, float(values[0, 0]))
    if pattern == "zero rows":
        values[1:] = 0
    return values * scale


def _contribution(
    model: nn.Module, x: Tensor, r: Tensor, *, max_grad_norm: float, normalised: bool
) -> float:
    clipped = clipped_gradient_sum(
        model,
        lambda: (model(x) * r).flatten(1).sum(1),
        max_grad_norm=max_grad_norm,
        normalised=normalised,
    )
    return float(sum(g.double().square().sum() for g in clipped.gradients.values()) ** 0.5)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    rule=st.sampled_from(sorted(RULES)),
    form=st.sampled_from(sorted(FORMS)),
    patterns=st.tuples(st.sampled_from(PATTERNS), st.sampled_from(PATTERNS)),
    positions=st.sampled_from([1, 2, 7, 64]),
    scales=st.tuples(st.sampled_from([-20, -8, 0, 4, 10]), st.sampled_from([-20, -8, 0, 4, 10])),
    max_grad_norm=st.sampled_from([1e-10, 1e-3, 0.37, 1.0, 1e3]),
    normalised=st.booleans(),
    narrow=st.booleans(),
    seed=st.integers(0, 2**20),
)
@example("linear", "Gram", ("constant", "cancelling"), 64, (0, 0), 1.0, True, False, 0)
@example("tied", "Gram", ("constant", "repeated"), 64, (0, 0), 0.37, False, False, 1)
@example("look-up", "kept", ("random", "cancelling"), 64, (0, 4), 1e-3, True, False, 2)
def test_a_contribution_is_at_most_c(
    rule: str,
    form: str,
    patterns: tuple[str, str],
    positions: int,
    scales: tuple[int, int],
    max_grad_norm: float,
    normalised: bool,
    narrow: bool,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    positions = 1 if "one row" in patterns else positions
    x, r = (
        _factor(pattern, positions, 10.0**scale, generator)[None]
        for pattern, scale in zip(patterns, scales, strict=True)
    )
    if narrow:  # factors of few digits, as bf16 leaves them
        x, r = x.bfloat16().float(), r.bfloat16().float()
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        force(form, patch)
        torch.manual_seed(seed)
        found = _contribution(
            RULES[rule](), x, r, max_grad_norm=max_grad_norm, normalised=normalised
        )
    assert found <= max_grad_norm * (1 + 1e-6)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("width", [8, 256])
def test_positions_that_nearly_cancel(width: int, normalised: bool) -> None:
    """The gradient r(x₂ − x₁)ᵀ has norm 2, its two terms 10 000 times that."""
    generator = torch.Generator().manual_seed(0)

    def unit() -> Tensor:
        vector = torch.randn(width, generator=generator, dtype=torch.float64)
        return vector / vector.norm()

    layer = nn.Linear(width, width, bias=False)
    for _ in range(10):
        base, step, r = 1e4 * unit(), 2 * unit(), unit().float()
        x = torch.stack([base, base + step])[None].float()
        signs = torch.tensor([-1.0, 1.0])[:, None]
        found = _contribution(layer, x, signs * r, max_grad_norm=1.0, normalised=normalised)
        assert 0.99 <= found <= 1 + 1e-6


def test_rows_of_a_table_are_added_up_before_they_are_measured() -> None:
    values = torch.tensor([[[1.0], [-1.0], [1e-3]], [[2.0], [3.0], [4.0]]])
    rows = Rows(torch.tensor([[5, 5, 5], [0, 1, 0]]), values, 6)
    merged = rows.merged()
    assert merged.values[..., 0].tolist() == [[pytest.approx(1e-3), 0, 0], [6, 3, 0]]
    assert torch.equal(rows.weighted_sum(torch.ones(2)), merged.weighted_sum(torch.ones(2)))


@pytest.mark.parametrize("positions", [0, 1, 5, 16, 40, 130])
def test_a_measure_bounds_what_rounding_does(positions: int) -> None:
    generator = torch.Generator().manual_seed(positions)
    left, right = (torch.randn(3, positions, n, generator=generator) for n in (9, 11))
    found = measure([Outer(left, right)])
    exact = left.double().mT @ right.double()
    squares = exact.square().sum((1, 2))
    assert ((found.squares - squares).abs() <= found.square_rounding).all()
    single = torch.stack([one.mT @ other for one, other in zip(left, right, strict=True)])
    off = (single.double() - exact).flatten(1).norm(dim=1)
    assert (off <= found.rounding).all()
    products_of_all = (left.double() @ left.double().mT) * (right.double() @ right.double().mT)
    assert torch.allclose(found.sizes, products_of_all.abs().sum((1, 2)))
    assert torch.equal(products.signed_and_sizes(left, right)[0], found.squares)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e-12, 1.0, 1e15, 1e25])
def test_squares_neither_vanish_nor_overflow(scale: float) -> None:
    gradients = torch.randn(3, 5, 70, generator=torch.Generator().manual_seed(0)) * scale
    exact = gradients.double().square().sum((1, 2))
    assert torch.allclose(squared_norms(gradients), exact, rtol=5e-7, atol=0)
    assert torch.allclose(squared_norms([gradients[0].mT])[0], exact[0], rtol=5e-7, atol=0)
    assert squared_norms(torch.zeros(2, 3)).tolist() == [0, 0]


def test_factors_never_grow() -> None:
    factors = torch.rand(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rounded = rounded_down(factors, torch.float32).double()
    assert (rounded <= factors).all()
    assert torch.allclose(rounded, factors, rtol=2**-23, atol=0)
