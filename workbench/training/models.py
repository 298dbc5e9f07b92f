"""Causal language models: tiny presets built here, or any Hugging Face directory on disk.

Nothing is ever fetched: presets come from a `transformers` configuration with random weights, and a
directory is read with its own tokenizer.
"""

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from workbench.config import MODEL_PRESETS, ModelConfig
from workbench.corpora.tokens import IGNORED
from workbench.errors import InputError, shown
from workbench.training.model_folder import model_settings, nothing_from_outside

_GLOBAL_CHANCE = threading.Lock()
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tekken.json")
_TRIED_TOKENS = 6  # so few that a large model answers in less time than reading it took


def tiny(
    config: ModelConfig, *, vocabulary: int, context: int, generator: torch.Generator
) -> PreTrainedModel:
    """A preset with fresh weights drawn from ``generator`` (a CPU generator) and nothing else.

    Raises `InputError` for an unknown preset or a width that the heads do not divide evenly.
    """
    assert config.directory() is None, "a model on disk has a shape of its own"
    if config.width % (2 * config.heads):
        raise InputError(
            f"model.width is {config.width} but must be a multiple of twice model.heads "
            f"(2 × {config.heads}); change one of them."
        )
    # transformers draws initial weights from the global generator, which is put back afterwards;
    # a sweep's worker may have several threads.
    with _GLOBAL_CHANCE, torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        return AutoModelForCausalLM.from_config(PRESETS[config.source](config, vocabulary, context))


def from_directory(path: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model and its tokenizer from a directory, in float32, dropout off.

    Nothing is looked up elsewhere, and no code of the directory is run. Raises `InputError` if the
    directory does not hold both, all weights among them, or the model is not causal.
    """
    if not path.is_dir():
        raise InputError(f"model.source {shown(str(path))} is not a directory; check the path.")
    try:
        model, tokenizer, missing = _loaded(path)
        ahead = looks_ahead(model)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # whatever the libraries stumble over, this folder is the cause
        raise _no_model(path, " ".join(str(error).split())[:200] or type(error).__name__) from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # how libraries written in Rust give up
            raise
        raise _no_model(path, " ".join(str(error).split())[:200]) from None
    if missing:
        raise _no_model(path, f"{len(missing)} weights are missing, such as {missing[0]}")
    _refuse_forgotten_tokenizer(path, tokenizer)
    if ahead:
        raise InputError(
            f"model.source {str(path)!r} is not a causal language model: what it says of a token "
            "depends on those after it, so that a record's gradient would depend on how long the "
            "others are; give a decoder, such as GPT-2 or Llama."
        )
    return model, tokenizer


def _loaded(path: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, list[str]]:
    """Model, tokenizer, and the weights that the model has and the directory has not."""
    config = without_dropout(model_settings(path))
    with nothing_from_outside(), no_progress_bars():
        model, told = AutoModelForCausalLM.from_pretrained(  # type: ignore[misc]
            path,
            config=config,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
    return model, tokenizer, sorted(told["missing_keys"])


def _refuse_forgotten_tokenizer(path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """`transformers` makes an empty tokenizer where its files are missing."""
    own = type(tokenizer).vocab_files_names.values()  # none for a tokenizer that knows bytes
    names = sorted({*own, *_TOKENIZERS})
    if own and not any((path / name).exists() for name in names):
        raise InputError(
            f"model.source {shown(str(path))} holds no tokenizer (none of {', '.join(names)}); "
            "save the model's own there with save_pretrained."
        )


def _no_model(path: Path, reason: str) -> InputError:
    return InputError(
        f"model.source {shown(str(path))} is not a causal language model with its tokenizer "
        f"({reason}); save both there with save_pretrained."
    )


@torch.no_grad()
def looks_ahead(model: PreTrainedModel) -> bool:
    """Whether logits depend on later tokens, where ``model`` is in evaluation mode.

    Record i keeps its first i tokens and has the rest changed. Causal families come out alike to
    the last bit, others by a thousandth of the logits' spread with weights never trained.
    """
    generator = torch.Generator().manual_seed(0)
    length = int(min(context_length(model), _TRIED_TOKENS))
    one, other = torch.randint(vocabulary(model), (2, length, length), generator=generator)
    kept = torch.arange(length) <= torch.arange(length)[:, None]
    logits = [
        _logits(model, tokens.to(model.device)).float().cpu()
        for tokens in (one, torch.where(kept, one, other))
    ]
    moved = (logits[0] - logits[1]).abs()[kept].max()
    return bool(moved > 1e-5 * (logits[0].max() - logits[0].min()))


def vocabulary(model: PreTrainedModel) -> int:
    """How many tokens the model knows."""
    return model.get_input_embeddings().weight.shape[0]  # type: ignore[return-value]


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Keep `transformers` from drawing bars of its own across a run's progress."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def context_length(model: PreTrainedModel) -> float:
    """The most tokens the model takes in one record; infinite if it names no bound."""
    return getattr(model.config, "max_position_embeddings", None) or math.inf


def without_dropout(config: PretrainedConfig) -> PretrainedConfig:
    """The same configuration with every dropout probability at 0.

    Noise and clipping regularise already, and without dropout a record's gradient does not depend
    on how a batch was divided for memory.
    """
    for name in vars(config):
        if name.endswith(("dropout", "pdrop", "dropout_prob")):
            setattr(config, name, 0.0)
    return config


def record_losses(model: PreTrainedModel, tokens: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log-likelihood a token of each record, in nats: (batch, tokens) → (batch,)."""
    losses, counts = _token_losses(model, tokens, labels)
    return losses.sum(dim=1) / counts.clamp(min=1)


@torch.no_grad()
def mean_loss(
    model: PreTrainedModel, tokens: Tensor, labels: Tensor, *, batch_size: int = 64
) -> float:
    """Mean negative log-likelihood over all tokens of all records, in nats, from float32 logits."""
    total, count = 0.0, 0
    for some_tokens, some_labels in zip(
        tokens.split(batch_size), labels.split(batch_size), strict=True
    ):
        losses, counts = _token_losses(model, some_tokens, some_labels)
        total += float(losses.sum())
        count += int(counts.sum())
    return total / max(count, 1)


@torch.no_grad()
def log_likelihoods(
    model: PreTrainedModel, tokens: Tensor, labels: Tensor, *, batch_size: int = 64
) -> Tensor:
    """The log-likelihood of every record's labelled tokens together, (records,) in nats."""
    parts = zip(tokens.split(batch_size), labels.split(batch_size), strict=True)
    return torch.cat([-_token_losses(model, *part)[0].double().sum(dim=1).cpu() for part in parts])


def grow_vocabulary(model: PreTrainedModel, size: int, *, generator: torch.Generator) -> None:
    """Give ``model`` at least ``size`` tokens; new rows are drawn from ``generator`` alone."""
    if vocabulary(model) >= size:
        return
    with _GLOBAL_CHANCE, torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        model.resize_token_embeddings(size, mean_resizing=False)


@torch.no_grad()
def sample_text(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, tokens: int, seed: int = 0
) -> str:
    """What the model writes from an empty page: ``tokens`` drawn one by one from its own odds."""
    generator = torch.Generator().manual_seed(seed)
    start = tokenizer.bos_token_id if isinstance(tokenizer.bos_token_id, int) else 0
    written = torch.tensor([[start]], device=model.device)
    context = min(context_length(model), 1024)
    for _ in range(tokens):
        logits = model(input_ids=written[:, -int(context) :], use_cache=False).logits[0, -1]
        odds = logits.float().softmax(0).cpu()
        drawn = torch.multinomial(odds, 1, generator=generator).to(written.device)
        written = torch.cat([written, drawn[None]], dim=1)
    return str(tokenizer.decode(written[0, 1:].tolist(), skip_special_tokens=True))


def _token_losses(model: PreTrainedModel, tokens: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Losses (batch, tokens − 1), 0 where ignored, and how many count in each record (batch,)."""
    inputs, targets = tokens[:, :-1], labels[:, 1:]
    logits = _logits(model, inputs)
    # Tokens first: over (batch, classes, tokens) the same loss takes several times as long.
    losses = cross_entropy(
        logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return losses.view_as(targets), (targets != IGNORED).sum(dim=1)


def _logits(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    # GPT-2 makes positions of shape (1, tokens), which hides from Opacus which record used them.
    positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    return model(input_ids=tokens, position_ids=positions, use_cache=False).logits


def _tiny_llama(config: ModelConfig, vocabulary: int, context: int) -> PretrainedConfig:
    return LlamaConfig(
        hidden_size=config.width,
        intermediate_size=3 * config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        **_shared(vocabulary, context),
    )


def _tiny_gpt2(config: ModelConfig, vocabulary: int, context: int) -> PretrainedConfig:
    shape = GPT2Config(
        n_embd=config.width,
        n_layer=config.layers,
        n_head=config.heads,
        n_positions=context,
        **_shared(vocabulary, context),
    )
    return without_dropout(shape)


def _shared(vocabulary: int, context: int) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "max_position_embeddings": context,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }


PRESETS: dict[str, Callable[[ModelConfig, int, int], PretrainedConfig]] = dict(
    zip(MODEL_PRESETS, (_tiny_llama, _tiny_gpt2), strict=True)
)
