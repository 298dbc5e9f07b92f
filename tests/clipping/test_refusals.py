"""What an engine cannot treat is told in one sentence, whose remedy works; and the edge cases."""

from collections.abc import Callable

import pytest
import torch
from opacus import GradSampleModule
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from workbench.clipping.clipped_sum import ClippedSum
from workbench.clipping.gradient_sum import ENGINES, clipped_gradient_sum
from workbench.clipping.isolation_probe import MixedRecordsError
from workbench.errors import InputError

from .decoders import error

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning"),
]

_FILES = torch.Generator().manual_seed(0)
ROWS = torch.randn(5, 8, generator=_FILES)
SERIES = torch.randn(5, 4, 8, generator=_FILES)
IDS = torch.randint(0, 11, (5, 6), generator=_FILES)


class Last(nn.Module):
    """The last state of an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent, self.out = nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.recurrent(x)[0][:, -1])


class Scaled(nn.Module):
    """A number of its own beside a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.scale = nn.Linear(8, 3), nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * self.scale


MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "LSTM": (Last, SERIES),
    "a scalar parameter": (Scaled, ROWS),
    "EmbeddingBag": (lambda: nn.Sequential(nn.EmbeddingBag(11, 8), nn.Linear(8, 2)), IDS),
    "sparse EmbeddingBag": (
        lambda: nn.Sequential(nn.EmbeddingBag(11, 8, sparse=True), nn.Linear(8, 2)),
        IDS,
    ),
    "sparse Embedding": (
        lambda: nn.Sequential(nn.Embedding(11, 8, sparse=True), nn.Flatten(), nn.Linear(48, 2)),
        IDS,
    ),
    "convolution": (lambda: nn.Sequential(nn.Conv1d(4, 3, 2), nn.Flatten()), SERIES),
}


def _sum(model: nn.Module, losses: Callable[[], Tensor], engine: str) -> ClippedSum:
    return clipped_gradient_sum(model, losses, max_grad_norm=1.0, engine=engine)


@pytest.mark.parametrize("engine", ["ghost", "hooks"])
@pytest.mark.parametrize("kind", MODELS)
def test_opacus_equals_the_reference_or_refuses_with_a_remedy(kind: str, engine: str) -> None:
    build, data = MODELS[kind]
    model = build().train()

    def losses() -> Tensor:
        return model(data).square().sum(1)

    try:
        _sum(model, losses, engine)
    except InputError as refused:
        message = str(refused)
        remedy = message.split("choose engine='")[1].split("'")[0]
        assert message.count(". ") == 0  # one sentence
        _sum(model, losses, remedy)
    else:
        assert error(model, losses, engine=engine) <= 2e-5


@pytest.mark.parametrize("kind", MODELS)
def test_the_reference_takes_them_all(kind: str) -> None:
    build, data = MODELS[kind]
    model = build().train()
    parameters = list(model.parameters())
    clipped = _sum(model, lambda: model(data).square().sum(1), "reference")
    total = torch.zeros(())
    for loss in model(data).square().sum(1):
        own = torch.autograd.grad(loss, parameters, retain_graph=True)
        norm = torch.cat([g.to_dense().flatten() for g in own]).norm()
        total = total + own[-1].to_dense() * (1 / norm).clamp(max=1)
    torch.testing.assert_close(list(clipped.gradients.values())[-1], total, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("inner", [False, True])
def test_what_opacus_wraps_is_refused_and_the_remedy_works(inner: bool, engine: str) -> None:
    """Its hooks stay on the inner model, which is no remedy by itself."""
    wrapped = GradSampleModule(nn.Sequential(nn.Linear(8, 3)), loss_reduction="sum")
    model = wrapped._module if inner else wrapped
    with pytest.raises(InputError, match=r"hooks of Opacus.*to_standard_module\(\)"):
        _sum(model, lambda: model(ROWS).square().sum(1), engine)
    plain = wrapped.to_standard_module()
    _sum(plain, lambda: plain(ROWS).square().sum(1), engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_embedding_scaled_by_frequency_is_refused(engine: str) -> None:
    model = nn.Sequential(nn.Embedding(11, 8, scale_grad_by_freq=True)).train()
    losses = lambda: model(IDS).square().sum((1, 2))  # noqa: E731
    with pytest.raises(InputError, match=r"scale_grad_by_freq mixes.*set it to False"):
        _sum(model, losses, engine)
    model[0].scale_grad_by_freq = False  # type: ignore[union-attr]
    _sum(model, losses, engine)
    model[0].scale_grad_by_freq = True  # type: ignore[union-attr]
    model[0].requires_grad_(False)
    model.append(nn.Linear(8, 2))
    _sum(model, losses, engine)  # frozen it has no gradient to scale


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_changes_nothing_for_the_reference(reentrant: bool) -> None:
    body = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    model = nn.ModuleList([nn.Linear(8, 8), body]).train()

    def losses(again: bool) -> Tensor:
        hidden = model[0](ROWS)
        out = checkpoint(body, hidden, use_reentrant=reentrant) if again else body(hidden)
        assert isinstance(out, Tensor)
        return out.square().sum(1)

    one, other = (_sum(model, lambda a=again: losses(a), "reference") for again in (True, False))
    torch.testing.assert_close(one.norms, other.norms)
    torch.testing.assert_close(one.gradients, other.gradients)


@pytest.mark.parametrize("engine", ["ghost", "hooks", "reference"])
def test_adapters_of_parameters(engine: str) -> None:
    """peft swaps the parameter within the forward pass and puts it back; numbers stay."""
    config = AutoConfig.for_model(
        "mixtral",
        vocab_size=11,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    base = AutoModelForCausalLM.from_config(config)
    assert isinstance(base, PreTrainedModel)
    adapters = LoraConfig(
        r=2, target_modules=["q_proj"], target_parameters=["mlp.experts.gate_up_proj"]
    )
    model = get_peft_model(base, adapters).train()

    def losses() -> Tensor:
        return model(input_ids=IDS, use_cache=False).logits.log_softmax(2)[:, :, 5].sum(1)

    for _ in range(3):
        if engine in ("ghost", "hooks"):
            with pytest.raises(InputError, match="choose engine='reference'"):
                _sum(model, losses, engine)
        else:
            assert _sum(model, losses, engine).norms.shape == (5,)


def _flat(clipped: ClippedSum) -> Tensor:
    return torch.cat([g.flatten() for g in clipped.gradients.values()])


@pytest.mark.parametrize("engine", ENGINES)
class TestEdgeCases:
    """The table of `clipped_gradient_sum`, row by row."""

    def test_an_empty_batch(self, engine: str) -> None:
        clipped = _sum(nn.Linear(8, 3), lambda: torch.zeros(0), engine)
        assert clipped.norms.shape == (0,)
        assert not _flat(clipped).any()

    def test_a_gradient_of_zero(self, engine: str) -> None:
        model, weights = nn.Linear(8, 3), torch.tensor([1.0, 0, 1, 1, 1])
        clipped = _sum(model, lambda: model(ROWS).square().sum(1) * weights, engine)
        assert float(clipped.norms[1]) <= 1e-12
        assert _flat(clipped).isfinite().all()
        assert float(_flat(clipped).norm()) <= 4

    @pytest.mark.parametrize("value", [torch.nan, torch.inf])
    def test_numbers_that_are_not_finite(self, engine: str, value: float) -> None:
        model, data = nn.Linear(8, 3), ROWS.clone()
        data[2, 3] = value
        with pytest.raises(FloatingPointError, match="not finite"):
            _sum(model, lambda: model(data).square().sum(1), engine)

    def test_a_parameter_without_use(self, engine: str) -> None:
        model = nn.ModuleDict({"used": nn.Linear(8, 3), "spare": nn.Linear(8, 3)})

        def losses() -> Tensor:
            return model["used"](ROWS).square().sum(1)

        if engine in ("bookkeeping", "reference"):
            with pytest.warns(RuntimeWarning, match=r"No loss depends on spare\.weight"):
                clipped = _sum(model, losses, engine)
            assert not clipped.gradients["spare.weight"].any()
        else:
            with pytest.raises(InputError, match=r"'spare\.weight'"):
                _sum(model, losses, engine)

    def test_a_tied_parameter(self, engine: str) -> None:
        model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
        model[2].weight = model[0].weight

        def losses() -> Tensor:
            return model(ROWS).square().sum(1)

        if engine == "ghost":
            with pytest.raises(InputError, match="it is tied"):
                _sum(model, losses, engine)
        else:
            assert list(_sum(model, losses, engine).gradients) == ["0.weight", "0.bias", "2.bias"]
            assert error(model, losses, engine=engine) <= 1e-5

    def test_a_frozen_model(self, engine: str) -> None:
        model = nn.Linear(8, 3).requires_grad_(False)
        with pytest.raises(InputError, match="no trainable parameter"):
            _sum(model, lambda: model(ROWS).square().sum(1), engine)

    def test_losses_that_depend_on_nothing_trainable(self, engine: str) -> None:
        model = nn.Linear(8, 3)
        losses = lambda: model(ROWS).square().sum(1).detach()  # noqa: E731
        if engine in ("bookkeeping", "reference"):
            with pytest.warns(RuntimeWarning, match="No loss depends on weight, bias"):
                assert not _flat(_sum(model, losses, engine)).any()
        else:
            with pytest.raises(InputError, match="'weight': no loss depends on it"):
                _sum(model, losses, engine)

    def test_a_frozen_parameter(self, engine: str) -> None:
        model = nn.Linear(8, 3)
        model.bias.requires_grad_(False)
        clipped = _sum(model, lambda: model(ROWS).square().sum(1), engine)
        assert list(clipped.gradients) == ["weight"]
        gradients = 2 * model(ROWS)[:, :, None] * ROWS[:, None, :]
        torch.testing.assert_close(clipped.norms, gradients.flatten(1).norm(dim=1).detach())

    def test_losses_that_mix_records(self, engine: str) -> None:
        model = nn.Linear(8, 3)
        with pytest.raises(InputError):
            _sum(model, lambda: model(ROWS).square().mean().expand(5), engine)

    def test_statistics_mixed_without_gradient(self, engine: str) -> None:
        """Also the engine that looks at gradients by itself sees them."""
        model = nn.Linear(8, 3)
        with pytest.raises(MixedRecordsError):
            _sum(model, lambda: (model(ROWS - ROWS.mean(0))).square().sum(1), engine)

    def test_losses_that_are_not_one_a_record(self, engine: str) -> None:
        model = nn.Linear(8, 3)
        for shape in ((), (5, 3)):
            with pytest.raises(InputError, match="one loss a record"):
                _sum(model, lambda s=shape: model(ROWS).sum() + torch.zeros(s), engine)

    def test_a_single_record(self, engine: str) -> None:
        model = nn.Linear(8, 3)
        clipped = _sum(model, lambda: 1e3 * model(ROWS[:1]).square().sum(1), engine)
        assert float(_flat(clipped).double().norm()) == pytest.approx(1, rel=1e-5)

    def test_a_bound_that_is_not_positive(self, engine: str) -> None:
        for bound in (0.0, -1.0, torch.inf, torch.nan):
            with pytest.raises(InputError, match="max_grad_norm is"):
                clipped_gradient_sum(
                    nn.Linear(8, 3), lambda: torch.zeros(0), max_grad_norm=bound, engine=engine
                )
