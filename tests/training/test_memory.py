"""What is predicted without numbers is what torch's allocator hands out when there are some."""

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from transformers import (
    AutoModelForCausalLM,
    FalconConfig,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
)

from workbench import training
from workbench.config import ModelConfig, RunConfig
from workbench.errors import InputError
from workbench.training.memory import predict as memory
from workbench.training.memory.fake_tensors import DryRun
from workbench.training.memory.predict import physical_batch_size, predict_memory, what_fits

from .two_steps import two_steps

# Enough for the tensors to outweigh what is allocated beside them.
_SIZES: dict[str, Any] = {
    "vocab_size": 300,
    "max_position_embeddings": 48,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
LLAMA = LlamaConfig(
    hidden_size=64,
    intermediate_size=160,
    num_hidden_layers=2,
    num_attention_heads=4,
    tie_word_embeddings=True,
    **_SIZES,
)
GPT2 = GPT2Config(n_embd=64, n_layer=2, n_head=4, tie_word_embeddings=True, **_SIZES)
UNTIED = GPT2Config(n_embd=64, n_layer=2, n_head=4, tie_word_embeddings=False, **_SIZES)
DEEP = LlamaConfig(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=5,
    num_attention_heads=2,
    num_key_value_heads=1,
    tie_word_embeddings=False,
    **_SIZES,
)
BASE = RunConfig().with_changes(
    {
        "corpus.record_tokens": 41,
        "training.expected_batch_size": 12,
        "runtime.physical_batch_size": 6,
        "runtime.device": "cpu",
    }
)


def with_(**changes: object) -> RunConfig:
    """The base with fields changed: ``with_(runtime__engine="hooks")``."""
    return BASE.with_changes({name.replace("__", "."): v for name, v in changes.items()})


def allocated(action: Callable[[], object]) -> int:
    """The most bytes that torch's CPU allocator had given out meanwhile, by its own record."""
    gc.collect()  # or what earlier tests left is given back meanwhile
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        action()
    assert record.profiler is not None
    assert record.profiler.kineto_results is not None
    events: list[Any] = record.profiler.kineto_results.events()
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


CASES = {
    "llama": (LLAMA, {}),
    "llama, not private": (LLAMA, {"privacy__private": False}),
    "llama, hooks": (LLAMA, {"runtime__engine": "hooks"}),
    "llama, reference": (LLAMA, {"runtime__engine": "reference"}),
    "llama, bf16": (LLAMA, {"runtime__precision": "bf16"}),
    "llama, hooks, bf16": (LLAMA, {"runtime__engine": "hooks", "runtime__precision": "bf16"}),
    "llama, one record at a time": (LLAMA, {"runtime__physical_batch_size": 1}),
    "llama, short": (LLAMA, {"corpus__record_tokens": 9}),
    "llama, sgd": (LLAMA, {"training__optimizer": "sgd", "training__momentum": 0.0}),
    "llama, bias corrected": (LLAMA, {"training__optimizer": "adamw_bc"}),
    "gpt2": (GPT2, {}),
    "gpt2, hooks": (GPT2, {"runtime__engine": "hooks"}),
    "gpt2 untied, ghost": (UNTIED, {"runtime__engine": "ghost"}),
    "deep": (DEEP, {}),
    "deep, ghost": (DEEP, {"runtime__engine": "ghost"}),
    "deep, hooks": (DEEP, {"runtime__engine": "hooks"}),
}


@pytest.mark.parametrize(("shape", "changes"), CASES.values(), ids=CASES)
def test_the_prediction_is_what_is_allocated(shape: PretrainedConfig, changes: dict):
    config = with_(**changes)
    measured = allocated(lambda: two_steps(config, shape))
    # What is left is what kernels take for themselves, and rows that happen to be equal; most, a
    # twenty-fifth, where attention shares keys among heads.
    assert predict_memory(config, shape).total == pytest.approx(measured, rel=0.05)


@pytest.mark.slow
def test_batches_contexts_and_widths_count():
    usual = predict_memory(BASE, LLAMA).total
    for more in ({"runtime__physical_batch_size": 12}, {"corpus__record_tokens": 48}):
        assert predict_memory(with_(**more), LLAMA).total > 1.1 * usual
    half = predict_memory(with_(runtime__precision="bf16"), LLAMA)
    assert half.activations < predict_memory(BASE, LLAMA).activations


@pytest.mark.parametrize("engine", ["bookkeeping", "hooks"])
def test_logical_batches_cost_their_tokens_alone(engine: str):
    small, large = (
        predict_memory(with_(runtime__engine=engine, training__expected_batch_size=records), LLAMA)
        for records in (16, 4096)
    )
    assert large.total - small.total == (4096 - 16) * 41 * 2 * 8
    assert large.total - large.records == small.total - small.records


def test_privacy_takes_hardly_more_memory_than_the_same_step_without():
    """A hundredth at a million parameters; a copy of the logits' gradient would be a tenth."""
    private, plain = (
        predict_memory(
            with_(
                privacy__private=private,
                model=ModelConfig(width=128, layers=4, vocabulary=2048).model_dump(),
                corpus__record_tokens=129,
                runtime__physical_batch_size=8,
            )
        ).total
        for private in (True, False)
    )
    assert private <= 1.05 * plain


def test_parts_of_a_batch_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch):
    # What is looked at now and then takes memory as well; here it is in every call.
    for module in ("calls", "isolation_probe"):
        monkeypatch.setattr(f"workbench.clipping.{module}.now_and_then", lambda _: True)
    one, many = (with_(training__expected_batch_size=n, runtime__engine="hooks") for n in (6, 60))
    more = allocated(lambda: two_steps(many, LLAMA)) - allocated(lambda: two_steps(one, LLAMA))
    # The tokens of 54 records, and the norms. Gradients kept from one part to the next would be 4
    # bytes for each of 100 000 parameters.
    assert more < 54 * 41 * 8 + 20_000


def test_seven_billion_parameters_take_no_memory_to_predict():
    shape = LlamaConfig(
        vocab_size=32_000, hidden_size=4096, intermediate_size=11_008, num_hidden_layers=32
    )
    before = memory.peak_memory_mb(torch.device("cpu"))
    config = with_(training__optimizer="sgd", training__momentum=0.0, privacy__private=False)
    estimate = predict_memory(config, shape, physical_batch_size=1)
    assert estimate.weights == pytest.approx(4 * 6_738_415_616, rel=1e-4)
    assert estimate.total > 3 * estimate.weights  # sums, noise and noisy mean besides
    assert memory.peak_memory_mb(torch.device("cpu")) - before < 500


def test_frozen_weights_have_neither_moments_nor_gradients():
    def frozen(model: nn.Module) -> nn.Module:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("norm" in name)
        return model

    estimate = predict_memory(BASE, LLAMA, adapt=frozen)
    assert estimate.optimizer < 0.02 * estimate.weights
    assert estimate.total < predict_memory(BASE, LLAMA).total


# peft asks transformers by an old name whether activations are checkpointed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_adapters_of_peft_are_counted():
    from peft import LoraConfig, get_peft_model

    def with_lora(model: nn.Module) -> nn.Module:
        return get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"]))  # type: ignore[arg-type]

    plain, adapted = predict_memory(BASE, LLAMA), predict_memory(BASE, LLAMA, adapt=with_lora)
    assert adapted.weights - plain.weights == 4 * 2 * 4 * (64 + 64)
    # Two moments and a count of steps for each of four matrices.
    assert adapted.optimizer == 2 * 4 * 2 * 4 * (64 + 64) + 4 * 4


@pytest.mark.slow
def test_what_fits_is_the_largest_that_does():
    room = 0.015
    table = what_fits(
        BASE,
        LLAMA,
        memory_gb=room,
        engines=("hooks", "ghost"),
        record_tokens=(41,),
        precisions=("float32",),
    )
    assert list(table["engine"]) == ["hooks", "ghost"]
    for row in table.to_dict("records"):
        if row["engine"] == "ghost":  # which refuses tied weights
            assert (row["physical_batch_size"], row["moment"]) == (0, "refused")
            continue
        config = with_(runtime__engine=row["engine"])
        size = row["physical_batch_size"]
        fits, not_any_more = (
            predict_memory(config, LLAMA, physical_batch_size=n).total for n in (size, size + 1)
        )
        assert fits == pytest.approx(row["gb"] * 1e9)
        assert fits <= room * 1e9 < not_any_more


def test_more_than_the_logical_batch_never_fits():
    """All larger physical batches take as much, which is no line to follow."""
    options: dict[str, Any] = {
        "engines": ["hooks"],
        "record_tokens": [9],
        "precisions": ["float32"],
    }
    table = what_fits(BASE, LLAMA, memory_gb=1.0, **options)
    assert table["physical_batch_size"].item() >= 12


def test_a_model_that_opacus_cannot_hook_is_refused_in_the_table():
    shape = FalconConfig(vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    table = what_fits(
        BASE,
        shape,
        memory_gb=0.02,
        engines=("bookkeeping", "hooks"),
        record_tokens=(9,),
        precisions=("float32",),
    )
    assert (table["moment"] == "refused").tolist() == [False, True]


def test_where_not_one_record_fits_the_table_says_what_it_takes():
    table = what_fits(
        BASE, LLAMA, memory_gb=1e-4, engines=["hooks"], record_tokens=[41], precisions=["float32"]
    )
    assert table["physical_batch_size"].item() == 0
    one = predict_memory(with_(runtime__engine="hooks"), LLAMA, physical_batch_size=1)
    assert table["gb"].item() == one.total / 1e9


def test_the_automatic_size_halves_until_it_fits(monkeypatch: pytest.MonkeyPatch):
    auto = with_(runtime__physical_batch_size="auto")
    model, other = (AutoModelForCausalLM.from_config(LLAMA).train() for _ in range(2))
    assert physical_batch_size(auto, model) == 16
    room = predict_memory(auto, LLAMA, physical_batch_size=8).total / memory._SHARE
    monkeypatch.setattr(memory, "_memory_of", lambda _: room + 1)
    assert physical_batch_size(auto, other) == 8
    assert physical_batch_size(auto, model) == 16  # as it was chosen before


def test_a_prediction_leaves_model_and_chance_alone():
    model = AutoModelForCausalLM.from_config(LLAMA).train()
    before, state = {n: p.clone() for n, p in model.named_parameters()}, torch.get_rng_state()
    predict_memory(BASE, LLAMA)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, before[n]) and p.grad is None for n, p in model.named_parameters())


def test_copies_in_another_precision_are_counted():
    def program() -> None:
        wide, narrow = torch.ones(1000), torch.ones(1000, dtype=torch.bfloat16)
        narrow.add_(wide)
        narrow.sum(dtype=torch.float64)

    with DryRun() as run:
        program()
    assert run.most == pytest.approx(allocated(program), abs=64)


def test_a_model_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="neither a preset"):
        predict_memory(with_(model__source="/nowhere"))


def test_predictions_are_public():
    assert training.predict_memory is predict_memory
    assert isinstance(training.predict_memory(RunConfig()), training.MemoryEstimate)
