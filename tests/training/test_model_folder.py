"""A model folder that cannot be trained is one sentence; nothing of it is run or looked up."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from workbench.corpora import train_tokenizer
from workbench.errors import InputError
from workbench.training import models
from workbench.training.model_folder import model_settings

SHAPE = GPT2Config(
    vocab_size=300,
    n_embd=16,
    n_layer=1,
    n_head=2,
    n_positions=32,
    bos_token_id=None,
    eos_token_id=None,
)
CODE = "raise SystemExit('the code of a model folder was run')"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model and its tokenizer, as `save_pretrained` leaves them."""
    path = tmp_path / "model"
    with models.no_progress_bars():
        GPT2LMHeadModel(SHAPE).save_pretrained(path)
    train_tokenizer(["some public text"] * 9, 300).save_pretrained(path)
    return path


def edit(path: Path, **changes: Any) -> None:
    values = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**values, **changes}), "utf-8")


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as refused:
        models.from_directory(folder)
    message = str(refused.value)
    assert message.startswith("model.source ")
    assert "\n" not in message
    assert message.endswith(".")
    return message


def test_a_whole_folder_is_loaded_and_offline_mode_is_put_back(folder: Path) -> None:
    before = constants.HF_HUB_OFFLINE
    model, tokenizer = models.from_directory(folder)
    assert models.vocabulary(model) == 300
    assert tokenizer("some public text")["input_ids"]
    assert before == constants.HF_HUB_OFFLINE


@pytest.fixture
def nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the person at the terminal nor the network."""

    def asked(*_: object, **__: object) -> None:
        raise AssertionError("somebody was asked")

    monkeypatch.setattr("builtins.input", asked)
    monkeypatch.setattr(socket.socket, "connect", asked)
    monkeypatch.setattr(socket, "getaddrinfo", asked)


@pytest.mark.usefixtures("nobody_is_asked")
@pytest.mark.parametrize("source", ["configuration_my.My", "someone/else--configuration_my.My"])
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("config.json", {"model_type": "mymodel", "auto_map": {"AutoConfig": "SOURCE"}}),
        ("config.json", {"auto_map": {"AutoModelForCausalLM": "SOURCE"}}),
        ("config.json", {"text_config": {"auto_map": {"AutoConfig": "SOURCE"}}}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["SOURCE", None]}}),
        ("tokenizer_config.json", {"auto_map": ["SOURCE", None]}),
    ],
)
def test_code_of_its_own_is_neither_run_nor_looked_up(
    folder: Path, name: str, changes: dict[str, Any], source: str
) -> None:
    (folder / "configuration_my.py").write_text(CODE)
    edit(folder / name, **json.loads(json.dumps(changes).replace("SOURCE", source)))
    message = refusal(folder)
    assert f"code of its own (auto_map in {name})" in message
    with pytest.raises(InputError) as preview:  # as a prediction of memory reads it
        model_settings(folder)
    assert str(preview.value) == message


def test_without_its_code_map_a_known_architecture_is_loaded(folder: Path) -> None:
    """What the refusal advises."""
    edit(folder / "config.json", auto_map={"AutoConfig": "configuration_my.My"})
    assert "transformers has 'gpt2' of its own, so remove auto_map" in refusal(folder)
    values = json.loads((folder / "config.json").read_text("utf-8"))
    del values["auto_map"]
    (folder / "config.json").write_text(json.dumps(values))
    models.from_directory(folder)


@pytest.mark.usefixtures("nobody_is_asked")
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"attn_implementation": "flash_attention_2"}, "set it to 'sdpa' or 'eager'"),
        ({"_attn_implementation": "kernels-community/flash-attn"}, "kernels-community"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "bitsandbytes"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantized weights"),
        ({"quantization_config": {"bits": 4}}, "quantized weights"),
        ({"model_type": "nothing-known"}, "nothing-known"),
        ({"model_type": None}, "save_pretrained"),
        ({"n_head": 3}, "save_pretrained"),
        ({"vocab_size": "many"}, "save_pretrained"),
        ({"n_layer": 2}, "weights are missing, such as transformer.h.1."),
    ],
    ids=str,
)
def test_settings_that_cannot_be_trained_are_refused(
    folder: Path, changes: dict[str, Any], says: str
) -> None:
    edit(folder / "config.json", **changes)
    assert says in refusal(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["not JSON", "[]", "3", "", "[" * 100_000, '{"a":'])
def test_settings_that_are_no_json_object_are_refused(
    folder: Path, name: str, content: str
) -> None:
    (folder / name).write_text(content)
    assert f"its {name} cannot be read" in refusal(folder)


def _newer_tokenizer(folder: Path) -> None:
    edit(folder / "tokenizer.json", model={"type": "FutureBPE", "vocab": {}, "merges": []})


def _empty_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").touch()


def _pickle_of_code(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cbuiltins\nexit\n(I3\ntR.")


def _cut_weights(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def _no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _some_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop(next(name for name in weights if "h.0" in name))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _weights_of_another_shape(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "c_attn.weight" in name)
    weights[name] = torch.zeros(3, 3)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _missing_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    weights = load_file(folder / "model-00001-of-00002.safetensors")
    index = dict.fromkeys(weights, "model-00002-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": index})
    )


def _adapter_alone(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/else"}')


def _adapter_beside(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/else"}')


def _no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


DAMAGES = [
    _newer_tokenizer,
    _empty_pickle,
    _pickle_of_code,
    _cut_weights,
    _no_weights,
    _some_weights,
    _weights_of_another_shape,
    _missing_shard,
    _adapter_alone,
    _adapter_beside,
    _no_tokenizer,
]


@pytest.mark.usefixtures("nobody_is_asked")
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_folder_that_is_not_whole_is_refused(folder: Path, damage: Any) -> None:
    damage(folder)
    refusal(folder)
