"""A checkpoint is a model that loads anywhere, and all that a run needs to go on exactly."""

import json
import socket
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer
from transformers import PreTrainedModel

from workbench.config import ModelConfig, RunConfig, TrainingConfig
from workbench.corpora import encode, train_tokenizer
from workbench.errors import InputError
from workbench.runs.folder import checkpoints
from workbench.runs.stopping import Watch
from workbench.training import checkpoint, models
from workbench.training.checkpoint import Position
from workbench.training.optimizer import optimizer, take_step
from workbench.training.randomness import Randomness, randomness, seeded

TOKENIZER = train_tokenizer(["some public text"] * 9, 300)
POSITION = Position(
    step=7,
    recorded=9,
    seconds=1.25,
    max_grad_norm=0.3,
    heldout_loss=4.5,
    watch=Watch(4.25, 1),
    samples={"before": "ök"},
    fingerprint="this machine",
)


def _parts(
    source: str = "tiny-llama", **changes: Any
) -> tuple[PreTrainedModel, Optimizer, Randomness]:
    shape = ModelConfig(source=source, width=8, layers=1, heads=2)
    generator = torch.Generator().manual_seed(0)
    model = models.tiny(shape, vocabulary=300, context=16, generator=generator)
    chosen = optimizer(model, TrainingConfig.model_validate(changes))
    chance = randomness(RunConfig(), torch.device("cpu"))
    return model, chosen, seeded(chance, POSITION.fingerprint)


def _saved(folder: Path, parts: Any, position: Position = POSITION) -> Path:
    model, chosen, chance = parts
    return checkpoint.save(
        folder,
        model,
        TOKENIZER,
        chosen,
        chance,
        position,
        config=RunConfig(),
        saving=lambda _: None,
    )


def _restored(path: Path, *parts: Any, **options: Any) -> Position:
    state = json.loads((path / "state.json").read_text("utf-8"))
    return checkpoint.restore(path, state, *parts, **options)


def _train(parts: tuple[PreTrainedModel, Optimizer, Randomness], steps: int) -> list[Tensor]:
    model, chosen, chance = parts
    for _ in range(steps):
        noisy = {
            n: torch.randn(p.shape, generator=chance.noise) for n, p in model.named_parameters()
        }
        take_step(model, chosen, noisy, learning_rate=0.01, noise_deviation=0.5)
        chance.sampling.random(3)
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("source", ["tiny-llama", "tiny-gpt2"])
@pytest.mark.parametrize("name", ["adamw", "adamw_bc", "sgd"])
def test_a_restored_run_goes_on_bit_for_bit(tmp_path: Path, source: str, name: str) -> None:
    parts = _parts(source, optimizer=name)
    _train(parts, 3)
    path = _saved(tmp_path, parts)
    expected, drawn = _train(parts, 3), parts[2].sampling.random()
    again = _parts(source, optimizer=name)
    assert _restored(path, *again, fingerprint="this machine") == POSITION
    assert all(torch.equal(a, b) for a, b in zip(_train(again, 3), expected, strict=True))
    assert again[2].sampling.random() == drawn


def test_a_secure_run_writes_nothing_of_its_chance(tmp_path: Path) -> None:
    model, chosen, _ = _parts()
    secure = randomness(RunConfig(randomness="secure"), torch.device("cpu"))
    state = secure.noise.get_state().numpy().tobytes()
    path = _saved(tmp_path, (model, chosen, secure))
    assert json.loads((path / "state.json").read_text("utf-8"))["sampling"] is None
    assert not any(state[:64] in file.read_bytes() for file in path.iterdir())
    before = secure.noise.get_state()
    _restored(path, model, chosen, secure)
    assert torch.equal(secure.noise.get_state(), before)


def test_generators_stay_where_they_are_under_another_fingerprint(tmp_path: Path) -> None:
    parts = _parts()
    _train(parts, 1)
    path = _saved(tmp_path, parts)
    for other in (None, "another machine"):
        again = _parts()
        _restored(path, *again, fingerprint=other)
        assert torch.equal(again[2].noise.get_state(), _parts()[2].noise.get_state())


def test_it_is_a_model_on_disk_read_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> NoReturn:
        raise AssertionError("something tried to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    parts = _parts()
    loaded, its_tokenizer = models.from_directory(_saved(tmp_path, parts))
    pairs = zip(parts[0].named_parameters(), loaded.named_parameters(), strict=True)
    assert all(torch.equal(a, b) for (_, a), (_, b) in pairs)
    texts = ["some other text"]
    one, other = (encode(t, texts, record_tokens=9).tokens for t in (TOKENIZER, its_tokenizer))
    assert (one == other).all()
    assert loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight  # type: ignore[union-attr]


def test_nothing_is_pickled_and_the_newest_replaces_the_last(tmp_path: Path) -> None:
    parts = _parts()
    first = _saved(tmp_path, parts, Position(step=999_999))
    second = _saved(tmp_path, parts, Position(step=1_000_000))
    assert _saved(tmp_path, parts, Position(step=1_000_000)) == second
    assert not first.exists()
    assert checkpoints(tmp_path) == [second]
    assert {file.suffix for file in second.iterdir()} == {".json", ".safetensors"}


def test_half_a_checkpoint_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = _parts()
    whole = _saved(tmp_path, parts, Position(step=1))

    def killed(folder: Path) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "_synced", killed)
    with pytest.raises(KeyboardInterrupt):
        _saved(tmp_path, parts, Position(step=2))
    assert checkpoints(tmp_path) == [whole]


def test_what_cannot_be_restored_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = _saved(tmp_path, _parts())
    other = models.tiny(
        ModelConfig(width=8, layers=2, heads=2),
        vocabulary=300,
        context=16,
        generator=torch.Generator(),
    )
    _, chosen, chance = _parts()
    with pytest.raises(InputError, match=r"num_hidden_layers 2 but the run was begun with 1; put"):
        _restored(path, other, chosen, chance)
    (path / "optimizer.safetensors").write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"is damaged .* put back a copy") as refusal:
        _restored(path, *_parts())
    assert "\n" not in str(refusal.value)


def test_weights_of_another_name_or_shape_are_not_called_damaged(tmp_path: Path) -> None:
    """As another version of transformers may name them."""
    path = _saved(tmp_path, _parts())
    weights = load_file(path / "model.safetensors")
    name = "model.norm.weight"
    for changed, says in (
        ({**weights, "norm.weight": weights[name].clone()}, "norm.weight is not in the model"),
        ({**weights, name: torch.ones(3)}, r"is \[3\] and not \[8\]"),
        ({n: w for n, w in weights.items() if n != name}, "was not saved"),
    ):
        save_file(changed, path / "model.safetensors")
        with pytest.raises(InputError, match=f"not those of this model .*{says}.*put") as refusal:
            _restored(path, *_parts())
        assert "damaged" not in str(refusal.value)
        assert "remove" not in str(refusal.value)
