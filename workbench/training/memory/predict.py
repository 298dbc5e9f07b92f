"""How much memory a run takes: measured as it goes, or predicted without running it.

A prediction is a dry run (`workbench.training.memory.estimate`) of what the run adds to a process
that has its libraries loaded, without the corpus (16 bytes a token). On a CPU it is what torch asks
the allocator for, to a hundredth; the allocator keeps more: see `benchmarks/memory.py`. Of a GPU it
knows nothing but the number of bytes: it was not measured on one.

>>> from workbench.config import RunConfig
>>> predict_memory(RunConfig()).weights
558400
"""

import copy
import math
import os
import sys
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import pandas as pd
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from workbench.config import RunConfig
from workbench.errors import InputError
from workbench.training import models
from workbench.training.model_folder import model_settings

if TYPE_CHECKING:
    from workbench.training.memory.estimate import MemoryEstimate

_ON_CPU = 16  # small parts stay in the processor's caches, and larger ones were not faster
_ON_GPU = 64
_SHARE = 0.8  # of a device's memory that "auto" fills at most, by prediction

Adapt = Callable[[nn.Module], nn.Module]


def predict_memory(
    config: RunConfig,
    model_config: PretrainedConfig | None = None,
    *,
    physical_batch_size: int | None = None,
    adapt: Adapt | None = None,
) -> "MemoryEstimate":
    """The peak memory of a run, predicted within seconds for a model of any size.

    Args:
        config: the run: engine, precision, optimizer, batch and record length count.
        model_config: another causal model than ``config.model``.
        physical_batch_size: another than the configured one.
        adapt: turns the model, which has no numbers, into what is trained, such as frozen or with
            adapters.

    Raises `InputError` if there is no such model or the engine refuses it.
    """
    from workbench.training.memory.estimate import (
        estimated,  # runs the step, which asks here for sizes
    )

    shape = models.without_dropout(copy.deepcopy(model_config or _shape(config)))

    def build() -> nn.Module:
        model = AutoModelForCausalLM.from_config(shape)
        return adapt(model) if adapt else model

    size = physical_batch_size or config.runtime.physical_batch_size
    if size == "auto":
        size = _usual_size(config.runtime.device)
    return estimated(config, build, size)


def what_fits(
    config: RunConfig,
    model_config: PretrainedConfig | None = None,
    *,
    memory_gb: float,
    engines: Iterable[str] = ("not private", "bookkeeping", "ghost", "hooks"),
    record_tokens: Iterable[int] = (512, 2048),
    precisions: Iterable[str] = ("float32", "bf16"),
    adapt: Adapt | None = None,
) -> pd.DataFrame:
    """The largest physical batch that is predicted to fit into ``memory_gb`` (of 10⁹ bytes).

    A row for each engine, record length and precision, with columns ``physical_batch_size``, 0
    where not even one record fits; ``gb``, what is predicted for it, or for one record; and
    ``moment``, the part made when it is that much, or "refused" where the engine cannot treat the
    model.
    """
    rows = []
    for engine, tokens, precision in product(engines, record_tokens, precisions):
        private = engine != "not private"
        changes = {
            "corpus.record_tokens": tokens,
            "runtime.precision": precision,
            "runtime.engine": engine if private else config.runtime.engine,
            "privacy.private": private,
        }
        asked = config.with_changes(changes)

        def of(size: int, asked: RunConfig = asked) -> "MemoryEstimate":
            return predict_memory(asked, model_config, physical_batch_size=size, adapt=adapt)

        try:
            size, estimate = _largest(of, memory_gb * 1e9)
            found = size, estimate.total / 1e9, estimate.moment
        except InputError:
            found = 0, math.nan, "refused"
        rows.append((engine, tokens, precision, *found))
    columns = ["engine", "record_tokens", "precision", "physical_batch_size", "gb", "moment"]
    return pd.DataFrame(rows, columns=columns)


def physical_batch_size(config: RunConfig, model: nn.Module) -> int:
    """Records in one forward and backward pass: as configured, or chosen for the device.

    Chosen, it is what is usually quick, or as much of it as is predicted to fit into the device's
    memory: all of it, not what is free just now, so that a run repeated repeats every bit.
    """
    if config.runtime.physical_batch_size != "auto":
        return config.runtime.physical_batch_size
    known = _CHOSEN.get(model)
    if known is None or known[0] != config:
        known = _CHOSEN[model] = config, _chosen(config, model)
    return known[1]


def peak_memory_mb(device: torch.device) -> float:
    """The most this process has held so far, in MB of 10⁶ bytes: on the GPU if there is one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        import resource
    except ImportError:  # Windows has no such record
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3


_CHOSEN: WeakKeyDictionary[nn.Module, tuple[RunConfig, int]] = WeakKeyDictionary()


def _chosen(config: RunConfig, model: nn.Module) -> int:
    device = next(model.parameters()).device
    size, room = _usual_size(device.type), _SHARE * _memory_of(device)
    # A token makes far fewer numbers than a decoder has parameters, so that small models, and
    # whatever is not a decoder, need no prediction.
    numbers = sum(p.numel() for p in model.parameters())
    loose = 4 * numbers * (20 + size * config.corpus.record_tokens)
    if loose <= room or not isinstance(model, PreTrainedModel):
        return size
    from workbench.training.memory.estimate import estimated

    while size > 1 and estimated(config, lambda: copy.deepcopy(model), size).total > room:
        size //= 2
    return size


def _usual_size(device: str) -> int:
    on_cpu = device == "cpu" or (device == "auto" and not torch.cuda.is_available())
    return _ON_CPU if on_cpu else _ON_GPU


def _memory_of(device: torch.device) -> float:
    """Bytes of a device, or of what this process may have of the machine; infinite if unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    try:
        whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has no such record
        return math.inf
    allowed = Path("/sys/fs/cgroup/memory.max")
    limit = allowed.read_text(encoding="ascii").strip() if allowed.exists() else ""
    return min(whole, int(limit)) if limit.isdecimal() else whole


def _largest(of: Callable[[int], "MemoryEstimate"], room: float) -> tuple[int, "MemoryEstimate"]:
    """The largest batch that fits, with its estimate; 0 with that of one record if none does."""
    fits, best = 1, of(1)
    if best.total > room:
        return 0, best
    # Memory is nearly a straight line of the batch, so that chords lead to the place.
    guess, too_many = 2, math.inf
    while fits + 1 < too_many:
        estimate = of(guess)
        if estimate.total == best.total:
            return fits, best  # the whole logical batch is in it already
        slope = (estimate.total - best.total) / (guess - fits)
        if estimate.total <= room:
            fits, best = guess, estimate
        else:
            too_many = guess
        guess = fits + max(1, int((room - best.total) / slope))
        guess = int(min(guess, too_many - 1))
    return fits, best


def _shape(config: RunConfig) -> PretrainedConfig:
    """The model that ``config`` names, with a vocabulary as large as it may become."""
    model, folder = config.model, config.model.directory()
    if folder is None:
        largest = model.vocabulary + config.canaries.new_tokens
        return models.PRESETS[model.source](model, largest, config.corpus.record_tokens)
    try:
        return model_settings(folder)
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"model.source {model.source!r} is not the directory of a model ({reason}); check the "
            "path."
        ) from None
