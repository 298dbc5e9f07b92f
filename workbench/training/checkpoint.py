"""A run's state on disk: a model that `transformers` loads, and what it takes to go on exactly.

``step-000123/`` is a model directory with its tokenizer, ``optimizer.safetensors`` (moments, and
where the noise generator stands) and ``state.json`` (position, counters, where sampling stands).
Whoever has the generators of a seeded run can draw its noise again: of such a run, publish the
model's files alone. Safetensors and JSON only, nothing pickled. A checkpoint appears whole or not
at all, and the newest replaces the one before.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from workbench.errors import InputError
from workbench.runs.folder import STATE, WEIGHTS, checkpoints, sha256
from workbench.runs.stopping import Watch
from workbench.training.models import no_progress_bars
from workbench.training.randomness import Randomness

_TENSORS = "optimizer.safetensors"
_NOISE = "noise generator"


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
) -> Path:
    """Write ``folder/step-000123`` and return it; earlier checkpoints are removed after."""
    final = folder / f"step-{position.step:06d}"
    if final.exists():
        return final
    partial = folder / f".{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    with no_progress_bars():
        model.save_pretrained(partial, max_shard_size="1000TB")  # in one file
    tokenizer.save_pretrained(partial)
    tensors, scalars = _parted(optimizer.state_dict()["state"])
    drawn = randomness.state()
    if drawn is not None:
        tensors[_NOISE] = drawn[1]
    save_file(tensors, partial / _TENSORS)
    state = {
        "position": asdict(position),
        "optimizer": scalars,
        "sampling": None if drawn is None else drawn[0],
        "weights_sha256": sha256(partial / WEIGHTS),
    }
    (partial / STATE).write_text(json.dumps(state, indent=2), encoding="utf-8")
    _synced(partial)
    older = checkpoints(folder)
    partial.rename(final)
    _sync_names(folder)  # before what it replaces is gone
    for path in older:
        shutil.rmtree(path)
    return final


def restore(
    path: Path,
    model: PreTrainedModel,
    optimizer: Optimizer,
    randomness: Randomness,
    *,
    fingerprint: str | None = None,
) -> Position:
    """Put model, optimizer and generators where the checkpoint at ``path`` has them.

    The generators are left as they are unless the checkpoint has this ``fingerprint``, which secure
    runs never have: their state was not written. Raises `InputError` if the checkpoint cannot be
    read or is not of this model.
    """
    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        tensors = load_file(path / _TENSORS)
        weights = load_file(path / WEIGHTS)
        missing, unknown = model.load_state_dict(weights, strict=False)
        if unknown or not _tied(model, set(missing), set(weights)):
            raise ValueError(f"its weights are not this model's: {[*unknown, *missing][:3]}")
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"The checkpoint {path} cannot be read ({reason}); remove that folder to go on from "
            "the start."
        ) from None
    noise = tensors.pop(_NOISE, None)
    position = state["position"]
    same = fingerprint is not None and position.get("fingerprint") == fingerprint
    if same and state["sampling"] is not None and noise is not None:
        randomness.restore(state["sampling"], noise)
    elif same:  # from their beginning generators would draw again what other weights have had
        position = {**position, "fingerprint": None}
    own = optimizer.state_dict()
    optimizer.load_state_dict({**own, "state": _joined(tensors, state["optimizer"])})
    return Position(**{**position, "watch": Watch(**position["watch"])})


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


def _tied(model: PreTrainedModel, missing: set[str], present: set[str]) -> bool:
    """Whether each missing weight is another name of one that is there."""
    everything = model.state_dict(keep_vars=True)
    there = {id(everything[name]) for name in present if name in everything}
    return all(id(everything[name]) in there for name in missing)


def _synced(folder: Path) -> None:
    """Have every file on the disk before the folder gets its name."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    _sync_names(folder)


def _sync_names(folder: Path) -> None:
    if os.name == "nt":  # Windows opens no directories
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
