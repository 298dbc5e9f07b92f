"""Adapters from `peft`: a frozen decoder and small layers beside its own, clipped exactly."""

from collections.abc import Callable

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel

from workbench.clipping.gradient_sum import clipped_gradient_sum
from workbench.errors import InputError

from .decoders import decoder, error, losses

# peft asks transformers by an old name whether activations are checkpointed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

ATTENTION = {
    "llama": ["q_proj", "v_proj"],
    "qwen3": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "gpt2": ["c_attn"],
    "gpt_neox": ["query_key_value"],
}


def _adapted(base: PreTrainedModel, **options: object) -> PeftModel:
    """``base`` with adapters of rank 2, whose weights are far from where they start, at 0."""
    config = LoraConfig(r=2, **{"lora_dropout": 0.0, **options})  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = get_peft_model(base, config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter) * parameter.requires_grad)
    assert isinstance(model, PeftModel)
    return model.train()


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", ATTENTION)
def test_adapters_equal_the_reference(family: str, tied: bool) -> None:
    """1e-5 in float32 and 1e-10 in float64, and only adapters come back."""
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        base = decoder(family, tied=tied, dtype=dtype)
        model = _adapted(
            base,
            target_modules=ATTENTION[family],
            fan_in_fan_out=family == "gpt2",
        ).to(dtype)
        assert error(model, losses(model)) <= tolerance
    clipped = _sum(model, losses(model))
    assert clipped
    assert all("lora_" in name for name in clipped)


def _sum(model: PeftModel, record_losses: Callable[[], Tensor]) -> dict[str, Tensor]:
    return clipped_gradient_sum(model, record_losses, max_grad_norm=1.0).gradients


KINDS: dict[str, dict[str, object]] = {
    "every linear layer": {"target_modules": "all-linear"},
    "with biases": {"target_modules": ["q_proj"], "lora_bias": True},
    "rank-stabilised": {"target_modules": ["q_proj"], "use_rslora": True},
    "head trained too": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "norms trained too": {"target_modules": ["q_proj"], "modules_to_save": ["norm"]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_ways_to_adapt(kind: str) -> None:
    """On Qwen 2, whose attention has biases."""
    model = _adapted(decoder("qwen2", tied=False), **KINDS[kind])
    assert error(model, losses(model)) <= 1e-5


def test_dropout_of_the_adapters() -> None:
    """Dropout is drawn alike for both engines; a record's gradient is that of its own draw."""
    model = _adapted(decoder("llama"), target_modules=["q_proj"], lora_dropout=0.5)
    record_losses = losses(model)

    def drawn(seed: int = 3) -> Tensor:
        torch.manual_seed(seed)
        return record_losses()

    with torch.random.fork_rng(devices=[]):
        assert error(model, drawn) <= 1e-5
        assert (drawn(3) - drawn(4)).abs().max() > 1e-2


def test_under_bf16_autocast() -> None:
    """One bf16 rounding (2⁻⁹) apart in each of two products, as for the decoders themselves."""
    model = _adapted(decoder("llama"), target_modules=["q_proj", "v_proj"])
    assert error(model, losses(model, bf16=True)) <= 1e-2


def test_adapters_of_embeddings_are_refused_by_name() -> None:
    """peft looks them up itself, past every layer's forward."""
    model = _adapted(decoder("llama", tied=False), target_modules=["embed_tokens"])
    with pytest.raises(InputError, match=r"'.*embed_tokens\.lora_embedding_A\.default'"):
        _sum(model, losses(model))


def test_magnitudes_of_dora_are_refused_by_name() -> None:
    model = _adapted(decoder("llama"), target_modules=["q_proj"], use_dora=True)
    with pytest.raises(InputError, match=r"'.*lora_magnitude_vector.*'"):
        _sum(model, losses(model))
