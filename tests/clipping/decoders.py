"""Tiny decoders of many `transformers` families, with weights far from where they start."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from workbench.clipping.bookkeeping import contributions as uses
from workbench.clipping.bookkeeping import products
from workbench.clipping.clipped_sum import ClippedSum
from workbench.clipping.gradient_sum import clipped_gradient_sum
from workbench.corpora.tokens import IGNORED
from workbench.training.models import without_dropout

VOCABULARY = 60
_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
_GPT = {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 32}
_FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": _GPT,
    "gptj": {**_GPT, "rotary_dim": 4},
    "opt": {
        **_COMMON,
        "ffn_dim": 32,
        "word_embed_proj_dim": 8,  # a projection in and out, and a padding row
        "pad_token_id": 1,
    },
    "gpt_neox": _COMMON,
    "bloom": {"vocab_size": VOCABULARY, "hidden_size": 16, "n_layer": 2, "n_head": 4},
    "falcon": _COMMON,
    "llama": _COMMON,
    "mistral": _COMMON,
    "qwen2": _COMMON,
    "qwen3": {**_COMMON, "head_dim": 4},
    "gemma": {**_COMMON, "head_dim": 4},
    "gemma2": {**_COMMON, "head_dim": 4},
    "gemma3_text": {**_COMMON, "head_dim": 4},
    "phi": _COMMON,
    "smollm3": _COMMON,
    "olmo2": _COMMON,
    "cohere": _COMMON,
    "nemotron": _COMMON,
}
FAMILIES = tuple(_FAMILIES)
# These compute their normalisations in float32 whatever the model's precision.
SINGLE_INSIDE = ("gemma", "gemma2", "gemma3_text", "cohere")

Losses = Callable[[], Tensor]

# What decides how a matrix's gradients are held: the products formed together or one by one and
# kept, or left as factors. Tiny shapes would always choose the first.
FORMS: dict[str, dict[str, float]] = {
    "kept": {"KEEP_UP_TO": float("inf"), "LEAST_WORTH_A_CALL": float("inf")},
    "kept one by one": {"KEEP_UP_TO": float("inf"), "LEAST_WORTH_A_CALL": 0},
    "Gram": {"KEEP_UP_TO": 0.0, "LEAST_WORTH_A_CALL": float("inf")},
    "Gram one by one": {"KEEP_UP_TO": 0.0, "LEAST_WORTH_A_CALL": 0},
}


def force(form: str, patch: pytest.MonkeyPatch) -> None:
    """Have every outer product take this form, whatever its shape."""
    patch.setattr(uses, "KEEP_UP_TO", FORMS[form]["KEEP_UP_TO"])
    patch.setattr(products, "LEAST_WORTH_A_CALL", FORMS[form]["LEAST_WORTH_A_CALL"])


def decoder(
    family: str, *, tied: bool = True, seed: int = 0, dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """A model of two layers, width 16, in training mode, without dropout."""
    config = AutoConfig.for_model(family, **_FAMILIES[family], tie_word_embeddings=tied)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(without_dropout(config))
        # Fresh weights are tiny, and near zero a wrong term of the gradient would be small.
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.to(dtype).train()


def losses(
    model: torch.nn.Module,
    *,
    batch: int = 4,
    tokens: int = 9,
    seed: int = 0,
    bf16: bool = False,
    positions: bool = False,
    only: slice = slice(None),
) -> Losses:
    """Losses of random records, or ``only`` of some, with padding and with labels left out.

    Unless ``positions`` are given, the model makes them, perhaps one row for all records.
    """
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(VOCABULARY, (batch, tokens + 1), generator=generator)
    ids[:, 3:5] = ids[:, :1]  # tokens that come several times in a record
    lengths = torch.randint(4, tokens + 2, (batch, 1), generator=generator)
    padded = torch.arange(tokens + 1) >= lengths
    targets = ids.masked_fill(padded, IGNORED)
    targets[::2, 1:3] = IGNORED
    ids, targets = ids[only], targets[only]
    places = {"position_ids": torch.arange(tokens).expand(len(ids), -1)} if positions else {}

    def record_losses() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = model(input_ids=ids[:, :-1], use_cache=False, **places).logits
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32)).transpose(1, 2)
        by_token = cross_entropy(wide, targets[:, 1:], ignore_index=IGNORED, reduction="none")
        return by_token.sum(1) / (targets[:, 1:] != IGNORED).sum(1).clamp(min=1)

    return record_losses


def flat(clipped: ClippedSum) -> Tensor:
    """All gradients as one vector."""
    return torch.cat([clipped.gradients[name].flatten() for name in sorted(clipped.gradients)])


def error(
    model: torch.nn.Module,
    record_losses: Losses,
    *,
    max_grad_norm: float = 0.7,
    engine: str = "bookkeeping",
) -> float:
    """The largest relative error of an engine in norms and in any gradient.

    Against one record at a time; a parameter's error is relative to its own gradient, or to a
    thousandth of the whole gradient where its own is smaller.
    """
    fast, slow = (
        clipped_gradient_sum(model, record_losses, max_grad_norm=max_grad_norm, engine=name)
        for name in (engine, "reference")
    )
    assert fast.gradients.keys() == slow.gradients.keys()
    least = 1e-3 * flat(slow).norm()
    errors = [((fast.norms - slow.norms).abs() / slow.norms.clamp(min=1e-6)).max()]
    for name, gradient in slow.gradients.items():
        assert fast.gradients[name].shape == gradient.shape
        difference = (fast.gradients[name] - gradient).norm()
        errors.append(difference / torch.maximum(gradient.norm(), least))
    return float(torch.stack(errors).max())
