"""The clipped sum, against its definition, and the sensitivity that the noise is calibrated to."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import PreTrainedModel

from workbench.clipping.clipped_sum import ClippedSum, clip_factors
from workbench.clipping.gradient_sum import ENGINES, clipped_gradient_sum
from workbench.corpora.tokens import IGNORED
from workbench.errors import InputError
from workbench.training import models

from .decoders import decoder, error, losses

SOURCES = ("tiny-llama", "tiny-gpt2")
Build = Callable[..., PreTrainedModel]


def _records(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Token ids and labels, padded from a different place in every record."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(40, (count, 10), generator=generator)
    lengths = torch.randint(2, 11, (count, 1), generator=generator)
    return tokens, tokens.masked_fill(torch.arange(10) >= lengths, IGNORED)


def _sum(model: PreTrainedModel, tokens: Tensor, labels: Tensor, **options: object) -> ClippedSum:
    return clipped_gradient_sum(
        model,
        lambda: models.record_losses(model, tokens, labels),
        **{"max_grad_norm": 1.0, **options},  # type: ignore[arg-type]
    )


def _flat(clipped: ClippedSum) -> Tensor:
    return torch.cat([g.flatten() for g in clipped.gradients.values()])


@pytest.fixture
def untied(tiny: Build) -> Build:
    """As `tiny`, with a head of its own: what every engine can treat."""

    def build(source: str = "tiny-llama") -> PreTrainedModel:
        model = tiny(source)
        head = model.get_output_embeddings()
        assert isinstance(head, nn.Linear)
        head.weight = nn.Parameter(head.weight.detach().flip(0))
        return model

    return build


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("max_grad_norm", [0.1, 3.0, 1e6])
def test_hooks_equal_one_record_at_a_time(tiny: Build, source: str, max_grad_norm: float) -> None:
    """Relative error 1e-5: float32 sums of some thousand terms in two orders."""
    model = tiny(source)
    fast = _sum(model, *_records(6), max_grad_norm=max_grad_norm, engine="hooks")
    slow = _sum(model, *_records(6), max_grad_norm=max_grad_norm, engine="reference")
    torch.testing.assert_close(fast.norms, slow.norms, rtol=1e-5, atol=0)
    assert fast.gradients.keys() == slow.gradients.keys() == dict(model.named_parameters()).keys()
    for name, gradient in slow.gradients.items():
        assert (fast.gradients[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


def test_the_reference_is_the_definition(tiny: Build) -> None:
    """Against ``backward`` on one record alone, with the scaling spelled out."""
    model = tiny()
    tokens, labels = _records(4)
    total = torch.zeros(sum(p.numel() for p in model.parameters()))
    for index in range(4):
        model.zero_grad()
        models.record_losses(model, tokens[[index]], labels[[index]]).sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        total += gradient / max(1.0, float(gradient.norm()) / 0.5)
    model.zero_grad()
    clipped = _sum(model, tokens, labels, max_grad_norm=0.5, engine="reference")
    torch.testing.assert_close(_flat(clipped), total, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("source", SOURCES)
def test_tied_weights_count_both_of_their_uses(tiny: Build, source: str) -> None:
    model = tiny(source)
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    assert isinstance(head, nn.Linear)
    assert isinstance(embedding, nn.Embedding)
    assert head.weight is embedding.weight
    tokens, labels = _records(1)
    model.zero_grad()
    models.record_losses(model, tokens, labels).sum().backward()
    expected = embedding.weight.grad
    model.zero_grad()
    name = next(name for name, p in model.named_parameters() if p is embedding.weight)
    found = _sum(model, tokens, labels, max_grad_norm=1e6).gradients[name]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@settings(
    derandomize=True,
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # `tiny` holds no state
)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 5),
    max_grad_norm=st.floats(1e-3, 1e3),
    source=st.sampled_from(SOURCES),
)
def test_removing_a_record_moves_the_sum_by_at_most_c(
    tiny: Build, seed: int, count: int, max_grad_norm: float, source: str
) -> None:
    """The slack of 1e-5 is float32 rounding of norms and sums; see `test_slack_is_rounding`."""
    model = tiny(source, seed=seed)
    tokens, labels = _records(count, seed)
    whole = _sum(model, tokens, labels, max_grad_norm=max_grad_norm)
    if count == 1:
        moved = _flat(whole).norm()
    else:
        without = _sum(model, tokens[1:], labels[1:], max_grad_norm=max_grad_norm)
        moved = (_flat(whole).double() - _flat(without).double()).norm()
    assert moved <= max_grad_norm * (1 + 1e-5)


def test_slack_is_rounding() -> None:
    """In float64 the scaled norms exceed C by less than 1e-12, so nothing but rounding is left."""
    norms = torch.logspace(-300, 300, 601, dtype=torch.float64)
    assert (norms * clip_factors(norms, 0.7) <= 0.7 * (1 + 1e-12)).all()
    assert (clip_factors(norms[norms < 0.7], 0.7) == 1).all()


def test_normalised_norms_stay_below_c() -> None:
    """C·‖g‖/(‖g‖ + γ) < C: rounding, 1e-12 in float64, is all that may be above."""
    norms = torch.cat([torch.zeros(1), torch.logspace(-300, 300, 601, dtype=torch.float64)])
    scaled = norms * clip_factors(norms, 0.7, normalised=True)
    assert (scaled <= 0.7 * (1 + 1e-12)).all()
    assert float(scaled[norms == 1]) == pytest.approx(0.7 / 1.01)


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_normalises_alike(untied: Build, engine: str) -> None:
    """Against the definition on each record alone, with C far above every norm: none is left."""
    model, (tokens, labels) = untied(), _records(4)
    alone = [
        _flat(_sum(model, tokens[[i]], labels[[i]], max_grad_norm=1e6, engine="reference"))
        for i in range(4)
    ]
    expected = torch.stack([20 * g / (g.norm() + 0.01) for g in alone]).sum(0)
    found = _sum(model, tokens, labels, max_grad_norm=20.0, engine=engine, normalised=True)
    assert (_flat(found) - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("engine", ENGINES)
def test_removing_a_record_moves_the_normalised_sum_by_at_most_c(
    untied: Build, engine: str
) -> None:
    model, (tokens, labels) = untied(), _records(5)
    options: dict[str, object] = {"max_grad_norm": 0.3, "engine": engine, "normalised": True}
    whole = _sum(model, tokens, labels, **options)
    for left_out in range(5):
        kept = torch.arange(5) != left_out
        without = _sum(model, tokens[kept], labels[kept], **options)
        moved = (_flat(whole).double() - _flat(without).double()).norm()
        assert 0.2 <= moved <= 0.3 * (1 + 1e-5)


def test_a_record_without_gradient_is_not_divided_by_zero() -> None:
    assert clip_factors(torch.zeros(2), 1.0).tolist() == [1.0, 1.0]
    assert clip_factors(torch.zeros(2), 1.0, normalised=True).isfinite().all()


@pytest.mark.parametrize("engine", ["hooks", "reference"])
def test_gradients_already_there_are_kept(tiny: Build, engine: str) -> None:
    model = tiny()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    _sum(model, *_records(3), engine=engine)
    assert all(p.grad is not None and (p.grad == 7).all() for p in model.parameters())


@pytest.mark.parametrize("engine", ["hooks", "reference"])
def test_norms_and_sums_stay_in_float32_under_autocast(tiny: Build, engine: str) -> None:
    model = tiny(width=32)
    tokens, labels = _records(5)

    def losses() -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return models.record_losses(model, tokens, labels)

    clipped = clipped_gradient_sum(model, losses, max_grad_norm=0.5, engine=engine)
    exact = _sum(model, tokens, labels, max_grad_norm=0.5, engine="reference")
    assert clipped.norms.dtype == torch.float32
    assert {g.dtype for g in clipped.gradients.values()} == {torch.float32}
    assert _flat(clipped).norm() <= 5 * 0.5 * (1 + 1e-5)
    # bf16 has 8 bits of mantissa: some per cent of error after the layers of a forward pass.
    torch.testing.assert_close(clipped.norms, exact.norms, rtol=0.1, atol=0)
    assert not torch.equal(clipped.norms, exact.norms)


def test_frozen_parameters_are_left_out_of_the_norm(tiny: Build) -> None:
    model = tiny()
    model.get_input_embeddings().requires_grad_(False)
    fast = _sum(model, *_records(3), engine="hooks")
    slow = _sum(model, *_records(3), engine="reference")
    assert not any("embed" in name for name in fast.gradients)
    torch.testing.assert_close(_flat(fast), _flat(slow), rtol=1e-5, atol=1e-7)


def test_the_model_is_left_as_it_was_found(tiny: Build) -> None:
    """Also after a failure: an activation left behind would be taken for the next batch's."""
    model = tiny()
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    first = _sum(model, *_records(3))

    def failing() -> Tensor:
        models.record_losses(model, *_records(5))
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        clipped_gradient_sum(model, failing, max_grad_norm=1.0)
    assert {name: set(vars(module)) for name, module in model.named_modules()} == before
    assert not any(module._forward_hooks for module in model.modules())
    assert all(p.grad is None and not hasattr(p, "grad_sample") for p in model.parameters())
    assert torch.equal(_flat(_sum(model, *_records(3))), _flat(first))


class _Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(2, 1), nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x).squeeze(1)


def test_what_cannot_be_clipped_is_refused_by_name(tiny: Build) -> None:
    model = _Unused()
    data = torch.ones(3, 2)
    with pytest.raises(InputError, match=r"'unused.weight'"):
        clipped_gradient_sum(model, lambda: model(data), max_grad_norm=1.0, engine="hooks")
    with pytest.raises(InputError, match="evaluation mode"):
        clipped_gradient_sum(model.eval(), lambda: model(data), max_grad_norm=1.0)
    with pytest.raises(InputError, match="'fast' but must be one of"):
        _sum(tiny(), *_records(2), engine="fast")
    with pytest.raises(InputError, match="max_grad_norm is 0"):
        _sum(tiny(), *_records(2), max_grad_norm=0.0)
    norm = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).train()
    with pytest.raises(InputError, match="BatchNorm"):
        clipped_gradient_sum(norm, lambda: norm(data).sum(1), max_grad_norm=1.0)


@pytest.mark.parametrize("engine", ["bookkeeping", "hooks", "reference"])
def test_a_gradient_that_is_not_finite_is_not_released(tiny: Build, engine: str) -> None:
    model = tiny()
    with torch.no_grad():
        model.get_input_embeddings().weight[0, 0] = torch.inf  # type: ignore[index,operator]
    with pytest.raises(FloatingPointError, match="not finite"):
        _sum(model, *_records(3), engine=engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_evaluation_mode_is_refused(untied: Build, engine: str) -> None:
    with pytest.raises(InputError, match="evaluation mode"):
        _sum(untied().eval(), *_records(2), engine=engine)


HOOKS: dict[str, Callable[[nn.Parameter], object]] = {
    "louder": lambda p: p.register_hook(lambda gradient: 30 * gradient),
    "afterwards": lambda p: p.register_post_accumulate_grad_hook(lambda p: p.grad.zero_()),  # type: ignore[union-attr]
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("hook", HOOKS)
def test_hooks_on_gradients_are_refused_by_name(untied: Build, hook: str, engine: str) -> None:
    """The first would have one record's clipped sum be thirty times as long as C."""
    model = untied()
    name, parameter = list(model.named_parameters())[-1]
    HOOKS[hook](parameter)
    with pytest.raises(InputError, match=f"'{name}' has a hook on its gradient"):
        _sum(model, *_records(2), engine=engine)
    parameter.requires_grad_(False)
    assert name not in _sum(model, *_records(2), engine=engine).gradients


@pytest.mark.parametrize("engine", ["bookkeeping", "hooks", "reference"])
def test_a_model_in_bf16_is_summed_in_float32(engine: str) -> None:
    """Factors and sums rounded to bf16 would let a record exceed C by 2⁻⁹, and small ones vanish.

    Rounding of the gradients themselves, which are bf16, happens before they are measured.
    """
    model = nn.Sequential(nn.Linear(40, 30), nn.Tanh(), nn.Linear(30, 1)).bfloat16()
    x = torch.randn(1, 40, dtype=torch.bfloat16, generator=torch.Generator().manual_seed(0))
    clipped = clipped_gradient_sum(
        model, lambda: model(x).squeeze(1), max_grad_norm=0.3, engine=engine
    )
    assert {g.dtype for g in (*clipped.gradients.values(), clipped.norms)} == {torch.float32}
    assert float(_flat(clipped).double().norm()) == pytest.approx(0.3, rel=1e-6)


def test_a_model_in_bf16_is_refused_by_ghost_clipping() -> None:
    model = nn.Linear(4, 1).bfloat16()
    x = torch.ones(2, 4, dtype=torch.bfloat16)
    with pytest.raises(InputError, match="too coarse"):
        clipped_gradient_sum(model, lambda: model(x)[:, 0], max_grad_norm=1.0, engine="ghost")


@pytest.mark.parametrize("engine", ENGINES)
def test_no_record_gives_a_sum_of_zeros(untied: Build, engine: str) -> None:
    model = untied()
    clipped = clipped_gradient_sum(model, lambda: torch.zeros(0), max_grad_norm=1.0, engine=engine)
    assert clipped.norms.shape == (0,)
    assert {n: g.shape for n, g in clipped.gradients.items()} == {
        n: p.shape for n, p in model.named_parameters()
    }
    assert not _flat(clipped).any()


@pytest.mark.parametrize("engine", ENGINES)
def test_losses_that_are_not_one_a_record_are_refused(untied: Build, engine: str) -> None:
    model, (tokens, labels) = untied(), _records(3)
    with pytest.raises(InputError, match=r"record_losses gave shape \(\) but must give one loss"):
        clipped_gradient_sum(
            model,
            lambda: models.record_losses(model, tokens, labels).mean(),
            max_grad_norm=1.0,
            engine=engine,
        )


@pytest.mark.parametrize("engine", ["hooks", "ghost"])
def test_views_that_opacus_cannot_hook_are_refused(engine: str) -> None:
    """Falcon adds to a layer's output in place."""
    model = decoder("falcon", tied=False)
    with pytest.raises(InputError, match=r"in place.*choose engine='bookkeeping'"):
        clipped_gradient_sum(model, losses(model), max_grad_norm=1.0, engine=engine)
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert error(model, losses(model)) <= 1e-5


class _Scale(nn.Module):
    """A layer that Opacus does not know, of two arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return self.weight * x * scale


@pytest.mark.parametrize("engine", ["hooks", "ghost"])
def test_arguments_that_opacus_drops_are_refused(engine: str) -> None:
    """It would take gradients at a scale of 1: at 10 a record's sum was 10 C."""
    model, x = nn.ModuleList([_Scale()]), torch.ones(2, 3)
    for call in (
        lambda: model[0](x, 10.0).sum(1),
        lambda: model[0](x, scale=10.0).sum(1),
        lambda: model[0](x=x).sum(1),
    ):
        with pytest.raises(InputError, match="'0': of its call Opacus sees the first argument"):
            clipped_gradient_sum(model, call, max_grad_norm=1.0, engine=engine)
    assert error(model, lambda: model[0](x).square().sum(1), engine=engine) <= 1e-5


@pytest.mark.parametrize("engine", ["bookkeeping", "reference"])
def test_a_parameter_without_use_is_named(engine: str) -> None:
    model = nn.ModuleDict({"used": nn.Linear(3, 1), "spare": nn.Linear(3, 1)})
    x = torch.ones(4, 3)
    with pytest.warns(RuntimeWarning, match=r"No loss depends on spare\.weight, spare\.bias"):
        clipped = clipped_gradient_sum(
            model, lambda: model["used"](x).squeeze(1), max_grad_norm=1.0, engine=engine
        )
    assert clipped.gradients["spare.weight"].count_nonzero() == 0


class _PositionsForAll(nn.Module):
    """Positions are looked up once for all records, of which there are as many."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        positions = self.embedding(torch.arange(x.shape[1]))
        return self.head(x[:, :, None] * positions).sum((1, 2))


class _SharedAndOwn(_PositionsForAll):
    def forward(self, x: Tensor) -> Tensor:
        shared = self.head(self.embedding.weight.detach()[None])
        return self.head(x[:, :, None] * self.embedding(x.long())).sum((1, 2)) + shared.sum()


class _PastItsLayer(_PositionsForAll):
    def forward(self, x: Tensor) -> Tensor:
        return (self.embedding(x.long()) @ self.head.weight.T).sum((1, 2)) + self.head(x[:, :3])[
            :, 0
        ]


class _PaddingRow(_PositionsForAll):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3, padding_idx=0)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embedding(x.long())).sum((1, 2))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (_PositionsForAll, r"'embedding': it was called on \(5,\), not on 5 records"),
        (_SharedAndOwn, r"'head': it was called on \(1, 5, 3\), not on 5 records"),
        (_PastItsLayer, r"'head\.weight': it is used outside"),
        (_PaddingRow, r"'embedding\.weight': .* padding row"),
    ],
)
def test_what_opacus_would_sum_wrongly_is_refused(
    build: Callable[[], nn.Module], message: str
) -> None:
    model, x = build(), torch.arange(25.0).reshape(5, 5) % 5
    with pytest.raises(InputError, match=message):
        clipped_gradient_sum(model, lambda: model(x), max_grad_norm=1.0, engine="hooks")
