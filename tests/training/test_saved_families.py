"""Every family of models that `transformers` has is read back from a checkpoint as it was saved.

Some rename or split their weights on saving, for the sake of files that were published before.
"""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from workbench import training
from workbench.config import RunConfig, TrainingConfig
from workbench.corpora import train_tokenizer
from workbench.errors import InputError
from workbench.runs.ledger import Ledger, Terms, read
from workbench.runs.verify import refuse_foreign
from workbench.training import checkpoint
from workbench.training.checkpoint import Position
from workbench.training.models import no_progress_bars
from workbench.training.optimizer import optimizer
from workbench.training.randomness import randomness

TOKENIZER = train_tokenizer(["some public text"] * 9, 300)
TERMS = Terms(1e-5, "pld", "poisson", "add_or_remove_one", "record", 100, 10, "0" * 64)
# Families that rename (NeoX), fuse experts, share layers, or keep buffers; and plain ones.
FAMILIES = [
    "bloom",
    "deepseek_v3",
    "ernie4_5_moe",
    "falcon",
    "gemma2",
    "gpt2",
    "gpt_neox",
    "granitemoe",
    "jamba",
    "minimax",
    "mixtral",
    "olmoe",
    "opt",
    "phimoe",
    "qwen2_moe",
    "qwen3_moe",
]
OTHERS = sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - set(FAMILIES))
WIDTHS = {
    **dict.fromkeys(["hidden_size", "n_embd", "d_model", "word_embed_proj_dim"], 32),
    **dict.fromkeys(["intermediate_size", "ffn_dim", "decoder_ffn_dim", "ffn_hidden_size"], 48),
    **dict.fromkeys(["moe_intermediate_size", "shared_expert_intermediate_size"], 16),
    **dict.fromkeys(["head_dim", "v_head_dim", "q_lora_rank", "kv_lora_rank"], 8),
    **dict.fromkeys(["qk_rope_head_dim", "qk_nope_head_dim", "rotary_dim"], 4),
    **dict.fromkeys(["num_hidden_layers", "n_layer", "n_layers", "num_layers"], 2),
    **dict.fromkeys(["decoder_layers", "num_key_value_heads", "num_experts_per_tok", "top_k"], 2),
    **dict.fromkeys(["num_attention_heads", "n_head", "n_heads", "decoder_attention_heads"], 4),
    **dict.fromkeys(["num_local_experts", "num_experts", "n_routed_experts", "num_heads"], 4),
    **dict.fromkeys(["n_group", "topk_group", "first_k_dense_replace", "n_shared_experts"], 1),
    **dict.fromkeys(["max_position_embeddings", "n_positions"], 64),
    "vocab_size": 300,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LARGEST = 2_000_000
# transformers' own loader draws its tied embedding anew, in whichever format it was saved.
NOT_BY_THE_LOADER = {"youtu"}


def _shape(family: str) -> PretrainedConfig:
    known = AutoConfig.for_model(family).to_dict()
    return AutoConfig.for_model(family, **{k: v for k, v in WIDTHS.items() if k in known})


def _model(shape: PretrainedConfig, seed: int) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(shape)
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) / 10)
    return model


def _save(folder: Path, model: PreTrainedModel, ledger: Ledger) -> Path:
    return checkpoint.save(
        folder,
        model,
        TOKENIZER,
        optimizer(model, TrainingConfig()),
        randomness(RunConfig(), torch.device("cpu")),
        Position(ledger_head=ledger.head),
        config=RunConfig(),
        saving=lambda state: ledger.saving(state, step=0),
    )


def _comes_back(model: PreTrainedModel, other: PreTrainedModel, home: Path) -> None:
    """Into a model of other weights, and into `transformers`' own loader."""
    saved = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with Ledger(home / "ledger.jsonl", TERMS) as ledger:
        path = _save(home, model, ledger)
    state = refuse_foreign(path, read(home / "ledger.jsonl"))
    chosen = optimizer(other, TrainingConfig())
    checkpoint.restore(path, state, other, chosen, randomness(RunConfig(), torch.device("cpu")))
    with no_progress_bars():
        loaded = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    by_loader = [] if model.config.model_type in NOT_BY_THE_LOADER else [loaded.state_dict()]
    for again in (other.state_dict(), *by_loader):
        assert again.keys() == saved.keys()
        assert all(torch.equal(again[name], saved[name]) for name in saved)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_comes_back_as_it_was(tmp_path: Path, family: str) -> None:
    shape = _shape(family)
    _comes_back(_model(shape, 1), _model(_shape(family), 2), tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of transformers, about shapes this small
@pytest.mark.parametrize("family", OTHERS)
def test_so_does_every_other_that_can_be_built_this_small(tmp_path: Path, family: str) -> None:
    try:
        with torch.device("meta"):
            size = AutoModelForCausalLM.from_config(_shape(family)).num_parameters()
        if size > LARGEST:
            pytest.skip(f"{size} parameters")
        model, other = _model(_shape(family), 1), _model(_shape(family), 2)
    except Exception as error:  # whatever its configuration asks for
        pytest.skip(f"not built: {type(error).__name__}")
    _comes_back(model, other, tmp_path)


@pytest.mark.parametrize(
    ("family", "engine"), [("gpt_neox", "bookkeeping"), ("mixtral", "reference")]
)
def test_a_run_of_it_goes_on(tmp_path: Path, config: RunConfig, family: str, engine: str) -> None:
    _model(_shape(family), 1).save_pretrained(tmp_path / "model")
    TOKENIZER.save_pretrained(tmp_path / "model")
    config = config.with_changes(
        {
            "model.source": str(tmp_path / "model"),
            "runtime.engine": engine,
            "training.expected_batch_size": 4,
            "training.steps": 3,
        }
    )
    training.train(config, run_dir=tmp_path / "whole")
    stop = threading.Event()
    training.train(
        config,
        run_dir=tmp_path / "run",
        stop=stop,
        on_step=lambda report: stop.set() if report.step == 2 else None,
    )
    assert training.resume(tmp_path / "run").steps == 3
    ends = [training.read_run(tmp_path / name).checkpoint for name in ("whole", "run")]
    one, other = (load_file(end / "model.safetensors") for end in ends if end)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("fault", ["another name", "left out", "another value"])
def test_what_cannot_be_read_back_is_refused_before_the_first_step(
    tmp_path: Path, config: RunConfig, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    real = PreTrainedModel.save_pretrained

    def faulty(self: PreTrainedModel, folder: Path, **options: Any) -> None:
        real(self, folder, **options)
        weights = load_file(folder / "model.safetensors")
        name = next(iter(weights))
        match fault:
            case "another name":
                weights["renamed"] = weights.pop(name)
            case "left out":
                del weights[name]
            case _:
                weights[name] += 1e-3
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", faulty)
    with pytest.raises(InputError, match=r"cannot be read back as it was saved \(.*\), so that"):
        training.train(config, run_dir=tmp_path / "run")
    record = training.read_run(tmp_path / "run")
    assert (record.ledger.steps, record.checkpoint) == (0, None)
    assert record.summary["state"] == "failed"
