"""A run's state on disk: a model that `transformers` loads, and what it takes to go on exactly.

``step-000123/`` is a model directory with its tokenizer, ``optimizer.safetensors`` (moments, and
where the noise generator stands) and ``state.json`` (position, counters, where sampling stands).
Whoever has the generators of a seeded run can draw its noise again: of such a run, publish the
model's files alone. Safetensors and JSON only, nothing pickled. A checkpoint appears whole or not
at all, and the newest replaces the one before.

Weights keep the names that they have in the model. `transformers` can also save those of older
files (one tensor an expert, say), but then only its own loader finds them again.
"""

import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from workbench.config import RunConfig
from workbench.errors import InputError
from workbench.runs.files import sha256, sync_names
from workbench.runs.folder import STATE, WEIGHTS, checkpoints
from workbench.runs.stopping import Watch
from workbench.runs.verify import FORMAT, TENSORS, damaged
from workbench.training.models import no_progress_bars
from workbench.training.randomness import Randomness
from workbench.training.tail import TailAverage

_NOISE, _TAIL = "noise generator", "tail average "
# What saving writes into a model's configuration, or where it came from: no part of its shape.
_NOT_SHAPE = ("architectures", "dtype", "torch_dtype", "transformers_version")


@dataclass(frozen=True)
class Position:
    """Where a run stands between two steps.

    ``recorded`` counts the ledger's steps, and ``ledger_head`` is the hash of its last line;
    ``seconds`` is the time trained in all sessions together, ``max_grad_norm`` what adaptive
    clipping has arrived at, and ``fingerprint`` what `workbench.training.replay.fingerprint` gave.
    """

    step: int = 0
    recorded: int = 0
    seconds: float = 0.0
    max_grad_norm: float | None = None
    heldout_loss: float | None = None
    heldout_loss_tail: float | None = None
    watch: Watch = field(default_factory=Watch)
    samples: Mapping[str, str] | None = None
    ledger_head: str | None = None
    fingerprint: str | None = None


def save(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    optimizer: Optimizer,
    randomness: Randomness,
    position: Position,
    *,
    config: RunConfig,
    saving: Callable[[str], None],
    tail: TailAverage | None = None,
) -> Path:
    """Write ``folder/step-000123`` and return it; earlier checkpoints are removed after.

    ``saving`` is given the hash of ``state.json`` before the checkpoint gets its name, for the
    ledger. Raises `InputError`, and leaves the earlier checkpoint, if it cannot be written or not
    every weight was found again in it.
    """
    final = folder / f"step-{position.step:06d}"
    if final.exists():
        return final
    partial = folder / f".{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _write(partial, model, tokenizer, optimizer, randomness, position, config, tail)
        saving(sha256(partial / STATE))
        older = checkpoints(folder)
        partial.rename(final)
        sync_names(folder)  # before what it replaces is gone
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)  # on a full disk its room is needed
        if not isinstance(error, OSError | SafetensorError):
            raise
        raise InputError(
            f"The checkpoint {final} cannot be written ({' '.join(str(error).split())}); the one "
            "before it is kept: make room for it, and resume."
        ) from None
    for path in older:
        shutil.rmtree(path, ignore_errors=True)
    return final


def _write(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    optimizer: Optimizer,
    randomness: Randomness,
    position: Position,
    config: RunConfig,
    tail: TailAverage | None,
) -> None:
    """All files of a checkpoint, on the disk when this returns."""
    with no_progress_bars():
        model.save_pretrained(
            folder,
            max_shard_size="1000TB",  # in one file
            save_original_format=False,
        )
    _refuse_unlike(folder / WEIGHTS, model, values=position.step == 0)
    tokenizer.save_pretrained(folder)
    tensors, scalars = _parted(optimizer.state_dict()["state"])
    drawn = randomness.state()
    if drawn is not None:
        tensors[_NOISE] = drawn[1]
    if tail is not None:
        tensors |= {f"{_TAIL}{name}": tensor for name, tensor in tail.state().items()}
    save_file(tensors, folder / TENSORS)
    state = {
        "format": FORMAT,
        "position": asdict(position),
        "optimizer": scalars,
        "sampling": None if drawn is None else drawn[0],
        "config": config.model_dump(mode="json"),
        "model": _shape(model),
        "weights_sha256": sha256(folder / WEIGHTS),
        "optimizer_sha256": sha256(folder / TENSORS),
        # The ledger has this file's hash, and tells nobody what is in it.
        "salt": secrets.token_hex(32),
    }
    (folder / STATE).write_text(json.dumps(state, indent=2), encoding="utf-8")
    _synced(folder)


def restore(
    path: Path,
    state: Mapping[str, Any],
    model: PreTrainedModel,
    optimizer: Optimizer,
    randomness: Randomness,
    *,
    fingerprint: str | None = None,
    tail: TailAverage | None = None,
) -> Position:
    """Put model, optimizer and generators where the checkpoint at ``path`` has them.

    ``state`` is what `workbench.runs.verify.refuse_foreign` has read there. The generators are left
    as they are unless the checkpoint has this ``fingerprint``, which secure runs never have: their
    state was not written. Raises `InputError` if the checkpoint cannot be read or is not of this
    model.
    """
    _refuse_other_model(state["config"]["model"]["source"], state["model"], _shape(model))
    try:
        tensors = load_file(path / TENSORS)
        weights = load_file(path / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise damaged(path, error) from None
    if unlike := _unlike(model, {name: tuple(w.shape) for name, w in weights.items()}):
        raise InputError(
            f"The weights in {path} are not those of this model ({unlike}); put model.source and "
            "the version of transformers back as they were, or start a new run."
        )
    model.load_state_dict(weights, strict=False)  # a tied weight is there under one of its names
    noise = tensors.pop(_NOISE, None)
    position = state["position"]
    averaged = {name: tensors.pop(name) for name in list(tensors) if name.startswith(_TAIL)}
    if tail is not None:
        own_names = {name.removeprefix(_TAIL): tensor for name, tensor in averaged.items()}
        tail.restore(own_names, taken=position["step"])
    same = fingerprint is not None and position["fingerprint"] == fingerprint
    if same and state["sampling"] is not None and noise is not None:
        randomness.restore(state["sampling"], noise)
    elif same:  # from their beginning generators would draw again what other weights have had
        position = {**position, "fingerprint": None}
    own = optimizer.state_dict()
    optimizer.load_state_dict({**own, "state": _joined(tensors, state["optimizer"])})
    return Position(**{**position, "watch": Watch(**position["watch"])})


def _refuse_unlike(path: Path, model: PreTrainedModel, *, values: bool) -> None:
    """Raise `InputError` unless the weights in ``path`` can be put back into ``model``.

    Names and shapes are compared, and with ``values`` every number.
    """
    own = model.state_dict()
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        found = _unlike(model, {name: tuple(file.get_slice(name).get_shape()) for name in names})
        if not found and values:
            changed = (n for n in names if not _equal(file.get_tensor(n), own[n]))
            found = next((f"{name} has other values" for name in changed), "")
    if found:
        raise InputError(
            f"A {type(model).__name__} cannot be read back as it was saved ({found}), so that its "
            "run could not be resumed; train another model."
        )


def _unlike(model: PreTrainedModel, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """How saved weights of these ``shapes`` differ from the model's; empty if they do not."""
    everything = model.state_dict(keep_vars=True)
    for name, shape in shapes.items():
        if name not in everything:
            return f"{name} is not in the model"
        if tuple(everything[name].shape) != shape:
            return f"{name} is {list(shape)} and not {list(everything[name].shape)}"
    # A tied weight is saved under one of its names.
    there = {id(everything[name]) for name in shapes}
    missing = (name for name, tensor in everything.items() if id(tensor) not in there)
    return next((f"{name} was not saved" for name in missing), "")


def _equal(saved: Tensor, own: Tensor) -> bool:
    """To the last bit, also where weights are NaN."""
    one, other = (t.detach().cpu().reshape(-1) for t in (saved, own))
    return one.dtype == other.dtype and torch.equal(one.view(torch.uint8), other.view(torch.uint8))


def _shape(model: PreTrainedModel) -> dict[str, Any]:
    """The model's configuration, as JSON has it."""
    return json.loads(model.config.to_json_string(use_diff=False))


def _refuse_other_model(source: str, saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Other versions of transformers may have more or fewer fields; what both have is compared."""
    for name in (name for name in saved if name in now):
        then, own = saved[name], now[name]
        if name in _NOT_SHAPE or name.startswith("_") or then == own:
            continue
        if isinstance(then, Mapping) and isinstance(own, Mapping):
            _refuse_other_model(source, then, own)
            continue
        raise InputError(
            f"The model of model.source has {name} {own!r} but the run was begun with {then!r}; "
            f"put model.source back to {source!r}, with its files as they were, or start a new run."
        )


def _parted(states: Mapping[int, Mapping[str, Any]]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as tensors and as plain numbers, by "parameter name"."""
    flat = {f"{index} {key}": value for index, own in states.items() for key, value in own.items()}
    tensors = {key: v.contiguous() for key, v in flat.items() if isinstance(v, Tensor)}
    return tensors, {key: v for key, v in flat.items() if not isinstance(v, Tensor)}


def _joined(tensors: Mapping[str, Tensor], scalars: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    states: dict[int, dict[str, Any]] = {}
    for name, value in {**tensors, **scalars}.items():
        index, _, key = name.partition(" ")
        states.setdefault(int(index), {})[key] = value
    return states


def _synced(folder: Path) -> None:
    """Have every file on the disk before the folder gets its name."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sync_names(folder)
