"""The book-keeping engine equals one record at a time, and planted bugs are seen."""

import doctest
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from workbench.clipping.bookkeeping import book
from workbench.clipping.bookkeeping import contributions as uses
from workbench.clipping.bookkeeping import engine as bookkeeping
from workbench.clipping.bookkeeping import layer_rules as layers
from workbench.clipping.gradient_sum import clipped_gradient_sum
from workbench.errors import InputError

from .decoders import FAMILIES, FORMS, SINGLE_INSIDE, Losses, decoder, error, flat, force, losses


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every form of an outer product, whatever the shapes would choose."""
    force(request.param, monkeypatch)
    return request.param


def _sum(record_losses: Losses, model: nn.Module, *, max_grad_norm: float = 1.0) -> Tensor:
    return flat(
        clipped_gradient_sum(
            model, record_losses, max_grad_norm=max_grad_norm, engine="bookkeeping"
        )
    )


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_reference(family: str, tied: bool, form: str) -> None:
    """1e-5 in float32 and 1e-10 in float64: the same sums in another order.

    Where a family rounds to float32 inside, its float64 gradients are float32 sums: 1e-6.
    """
    model = decoder(family, tied=tied)
    assert error(model, losses(model)) <= 1e-5
    double = decoder(family, tied=tied, dtype=torch.float64)
    assert error(double, losses(double)) <= (1e-6 if family in SINGLE_INSIDE else 1e-10)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3_text", "falcon"])
def test_under_bf16_autocast(family: str, form: str) -> None:
    """One bf16 rounding apart: the reference's gradients leave each product as bf16 (2⁻⁹ = 0.2 %).

    Ours stay in float32 from the product's factors on, so the difference is that rounding, met a
    few times in parameters used twice.
    """
    model = decoder(family)
    record_losses = losses(model, bf16=True)
    assert error(model, record_losses) <= 1e-2
    clipped = clipped_gradient_sum(model, record_losses, max_grad_norm=1, engine="bookkeeping")
    assert {g.dtype for g in (*clipped.gradients.values(), clipped.norms)} == {torch.float32}


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("batch", [1, 2, 3, 9])
def test_any_batch_size_also_that_of_the_tokens(family: str, batch: int) -> None:
    model = decoder(family)
    assert error(model, losses(model, batch=batch)) <= 1e-5


def test_one_model_through_many_shapes() -> None:
    """What was learnt of a model holds for other batches: GPT-2's positions are shared by all."""
    model = decoder("gpt2")
    for batch, tokens in ((1, 9), (3, 9), (9, 9), (4, 8), (1, 4), (5, 5)):
        assert error(model, losses(model, batch=batch, tokens=tokens)) <= 1e-5


def test_an_empty_batch_is_a_sum_of_zeros() -> None:
    """Attention does not run on nothing, so the model is one that does."""
    model = nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 5))
    ids = torch.zeros(0, 3, dtype=torch.int64)
    clipped = clipped_gradient_sum(
        model, lambda: model(ids).sum((1, 2)), max_grad_norm=1, engine="bookkeeping"
    )
    assert clipped.norms.shape == (0,)
    assert clipped.gradients.keys() == dict(model.named_parameters()).keys()
    assert not flat(clipped).any()


def test_a_record_without_labels_adds_nothing() -> None:
    model = decoder("llama")
    record_losses = losses(model, batch=2)
    kept = torch.tensor([1.0, 0.0])
    assert error(model, lambda: record_losses() * kept) <= 1e-5


def test_parts_of_a_batch_add_up() -> None:
    model = decoder("gpt2")
    total, *sums = (
        _sum(losses(model, batch=6, only=slice(*part)), model, max_grad_norm=0.5)
        for part in ((0, 6), (0, 2), (2, 3), (3, 6))
    )
    assert (sum(sums) - total).norm() <= 1e-5 * total.norm()


@settings(derandomize=True, deadline=None, max_examples=30)
@given(
    family=st.sampled_from(["gpt2", "llama", "gemma3_text", "opt"]),
    tied=st.booleans(),
    batch=st.integers(2, 6),
    tokens=st.integers(4, 12),
    max_grad_norm=st.floats(1e-3, 1e3),
    seed=st.integers(0, 2**20),
    form=st.sampled_from(sorted(FORMS)),
)
def test_one_record_moves_the_sum_by_at_most_c(
    family: str, tied: bool, batch: int, tokens: int, max_grad_norm: float, seed: int, form: str
) -> None:
    """‖Σ over all − Σ without one‖ ≤ C(1 + 1e-5), and equal sums of rounding 1e-6·C·batch apart."""
    with pytest.MonkeyPatch.context() as patch:
        force(form, patch)
        model = decoder(family, tied=tied, seed=seed)
        all_records, all_but_one = (
            _sum(
                losses(model, batch=batch, tokens=tokens, seed=seed, only=only),
                model,
                max_grad_norm=max_grad_norm,
            )
            for only in (slice(None), slice(1, None))
        )
    moved = (all_records - all_but_one).norm()
    assert moved <= max_grad_norm * (1 + 1e-5 + 1e-6 * batch)


def test_the_docstring_example_runs() -> None:
    results = doctest.testmod(bookkeeping)
    assert results.attempted >= 8
    assert not results.failed


def test_nothing_is_left_on_the_model() -> None:
    """Neither gradients, nor hooks, nor another forward; gradients that were there stay."""
    model = decoder("llama")
    before = {name: vars(m).keys() for name, m in model.named_modules()}
    first, *others = model.parameters()
    first.grad = torch.ones_like(first)
    clipped_gradient_sum(model, losses(model), max_grad_norm=1, engine="bookkeeping")
    assert {name: vars(m).keys() for name, m in model.named_modules()} == before
    assert torch.equal(first.grad, torch.ones_like(first))
    assert all(p.grad is None for p in others)
    assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in model.parameters())


def test_a_failing_forward_leaves_the_model_whole() -> None:
    model = decoder("llama")
    before = {name: vars(m).keys() for name, m in model.named_modules()}

    def failing() -> Tensor:
        losses(model)()
        raise RuntimeError("no such record")

    with pytest.raises(RuntimeError, match="no such record"):
        clipped_gradient_sum(model, failing, max_grad_norm=1, engine="bookkeeping")
    assert {name: vars(m).keys() for name, m in model.named_modules()} == before


def test_gradient_checkpointing_changes_nothing() -> None:
    model = decoder("llama")
    plain = _sum(losses(model), model)
    model.activation_checkpointing_enable()
    again = _sum(losses(model), model)
    assert (again - plain).norm() <= 1e-6 * plain.norm()


def test_evaluation_mode_is_refused() -> None:
    model = decoder("llama").eval()
    with pytest.raises(InputError, match=r"call model\.train\(\)"):
        clipped_gradient_sum(model, losses(model), max_grad_norm=1, engine="bookkeeping")


def test_a_mean_over_records_is_refused() -> None:
    model = decoder("llama")
    with pytest.raises(InputError, match="one loss a record"):
        clipped_gradient_sum(
            model, lambda: losses(model)().mean(), max_grad_norm=1, engine="bookkeeping"
        )


def test_a_gradient_that_is_not_finite_is_refused() -> None:
    model = decoder("llama")
    with pytest.raises(FloatingPointError):
        clipped_gradient_sum(
            model, lambda: losses(model)() * torch.inf, max_grad_norm=1, engine="bookkeeping"
        )


def test_a_matrix_is_formed_or_left_in_factors_by_its_shape() -> None:
    """A record's gradient takes m·n numbers, its factors T·(m + n): 256 to 512, and 4096 to 256."""
    few, many = torch.ones(2, 16, 16), torch.ones(2, 2, 64)
    assert isinstance(uses.outer(few, few), uses.Kept)
    assert isinstance(uses.outer(many, many), uses.Outer)


Plant = Callable[[pytest.MonkeyPatch], None]


def _cross_term_dropped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(uses, "inner_products", lambda _, rows: torch.zeros(len(rows.indices)))
    patch.setattr(book, "joined", _joined_without_cross_term)


def _joined_without_cross_term(one: uses.Use, other: uses.Use) -> uses.Use | None:
    squares = uses.measure([one]).squares + uses.measure([other]).squares
    both = uses.joined(one, other)
    return uses.Kept(both.gradients, squares) if isinstance(both, uses.Kept) else both


def _positions_from_their_mean_over_records(patch: pytest.MonkeyPatch) -> None:
    """What an embedding broadcast over the batch seems to get, seen from its own output."""
    squared_norms = uses.Rows.squared_norms

    def of_the_mean(self: uses.Rows) -> Tensor:
        if (self.indices == self.indices[:1]).all():
            mean = self.values.mean(0, keepdim=True).expand_as(self.values)
            return squared_norms(uses.Rows(self.indices, mean, self.height))
        return squared_norms(self)

    patch.setattr(uses.Rows, "squared_norms", of_the_mean)


def _mean_over_tokens(patch: pytest.MonkeyPatch) -> None:
    outer = uses.outer
    patch.setattr(layers, "outer", lambda left, right: outer(left / left.shape[1], right))


def _bias_forgotten_in_the_norm(patch: pytest.MonkeyPatch) -> None:
    class Biasless(uses.Dense):
        def squared_norms(self) -> Tensor:
            squares = super().squared_norms()
            return squares if self.gradients.ndim > 2 else torch.zeros_like(squares)

    patch.setattr(layers, "Dense", Biasless)


def _factors_along_the_wrong_axis(patch: pytest.MonkeyPatch) -> None:
    def weighted_sum(self: uses.Outer, factors: Tensor) -> Tensor:
        tokens = self.right.flatten(0, 1)
        factors = factors.to(tokens.dtype).repeat(len(tokens) // len(factors))
        weighted = factors[:, None] * tokens
        return self.left.flatten(0, 1).mT @ weighted

    patch.setattr(uses.Outer, "weighted_sum", weighted_sum)


@pytest.mark.parametrize(
    ("plant", "family", "form"),
    [
        (_cross_term_dropped, "gpt2", "kept"),
        (_cross_term_dropped, "gpt2", "kept one by one"),
        (_cross_term_dropped, "llama", "Gram"),
        (_positions_from_their_mean_over_records, "gpt2", "kept"),
        (_mean_over_tokens, "llama", "kept"),
        (_mean_over_tokens, "llama", "Gram"),
        (_bias_forgotten_in_the_norm, "gpt2", "kept"),
        (_factors_along_the_wrong_axis, "llama", "Gram"),
    ],
)
def test_planted_bug_is_seen(
    plant: Plant, family: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = decoder(family)
    record_losses = losses(model, batch=4, tokens=8)
    force(form, monkeypatch)
    assert error(model, record_losses) <= 1e-5
    plant(monkeypatch)
    another = decoder(family)  # of which nothing is known yet
    assert error(another, losses(another, batch=4, tokens=8)) > 1e-3
