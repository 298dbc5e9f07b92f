"""Adapters from `peft`: a frozen decoder and small layers beside its own, clipped exactly."""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from peft import (
    IA3Config,
    LoraConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptLearningConfig,
    PromptTuningConfig,
    VeraConfig,
    get_peft_model,
)
from torch import Tensor
from transformers import AutoModelForCausalLM, MixtralConfig, PreTrainedModel

from workbench.clipping import gradient_sum
from workbench.clipping.gradient_sum import clipped_gradient_sum

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


def _shaken(model: torch.nn.Module) -> torch.nn.Module:
    """The model in float64, its trainable weights far from where they start."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter) * parameter.requires_grad)
    return model.double().train()


PAST_THE_LAYERS: dict[str, PeftConfig] = {
    "embeddings": LoraConfig(r=2, target_modules=["embed_tokens"]),
    "embeddings and layers": LoraConfig(r=2, target_modules=["embed_tokens", "q_proj", "lm_head"]),
    "DoRA": LoraConfig(r=2, target_modules=["q_proj", "v_proj"], use_dora=True),
    "parameters": LoraConfig(r=2, target_modules=[], target_parameters=["q_proj.weight"]),
    "IA3": IA3Config(
        target_modules=["k_proj", "v_proj", "down_proj"],
        feedforward_modules=["down_proj"],
        task_type="CAUSAL_LM",
    ),
    "prompt tuning": PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
    "p-tuning": PromptEncoderConfig(
        num_virtual_tokens=3, encoder_hidden_size=8, task_type="CAUSAL_LM"
    ),
    "prefix tuning": PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
    "VeRA": VeraConfig(r=2, target_modules=["q_proj"], init_weights=False),
}


@pytest.fixture
def unguarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """peft writes a parameter that it adapts again, with the numbers it had."""
    monkeypatch.setattr(gradient_sum, "refusing_changes", lambda *_, **__: nullcontext())


@pytest.mark.parametrize("kind", PAST_THE_LAYERS)
def test_adapters_that_go_past_their_layers(kind: str, unguarded: None) -> None:
    """Their gradients are taken record by record: in float64, in the first call and later."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        base = decoder("llama", tied=False)
        model = _shaken(get_peft_model(base, PAST_THE_LAYERS[kind]))
    prompt = isinstance(PAST_THE_LAYERS[kind], PromptLearningConfig)
    record_losses = _prompted(model) if prompt else losses(model)
    for _ in range(2):
        assert error(model, record_losses) <= 1e-10


def _prompted(model: torch.nn.Module) -> Callable[[], Tensor]:
    ids = torch.randint(60, (4, 7), generator=torch.Generator().manual_seed(0))

    def record_losses() -> Tensor:
        mask = torch.ones_like(ids)
        logits = model(input_ids=ids, attention_mask=mask).logits[:, -7:-1].transpose(1, 2)
        return torch.nn.functional.cross_entropy(logits, ids[:, 1:], reduction="none").sum(1)

    return record_losses


def test_adapters_of_fused_experts(unguarded: None) -> None:
    config = MixtralConfig(
        vocab_size=60,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
    )
    config._experts_implementation = "eager"  # the others have no float64
    base = AutoModelForCausalLM.from_config(config)
    names = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    adapters = LoraConfig(r=2, target_modules=["q_proj"], target_parameters=names)
    model = _shaken(get_peft_model(base, adapters))
    for _ in range(2):
        assert error(model, losses(model)) <= 1e-10
