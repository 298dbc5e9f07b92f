"""What a whole sweep would cost before its first step: privacy, certified, and time, measured."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from workbench import corpora
from workbench.config import RunConfig
from workbench.corpora import Records
from workbench.sweeps.cluster import local_workers
from workbench.sweeps.cost import composed
from workbench.sweeps.sweep import Cell, SweepConfig, SweepCost, sweep_cost
from workbench.training.plan import Plan, plan

_TRIALS = 3


@dataclass(frozen=True)
class SweepProjection:
    """All cells together: their composed guarantee, and about how long they take on this machine.

    ``seconds`` is None until a batch of the first cell was timed; the others are taken to need more
    or less in proportion to their batch, record length and size of the model.
    """

    cost: SweepCost
    workers: int
    seconds: float | None = None


def project_sweep(config: SweepConfig) -> Iterator[SweepProjection]:
    """Yield what ``config`` would cost, first without the time; seconds, so for the background.

    Raises `InputError` for what training would refuse for the same reason.
    """
    cells = config.cells()
    plans = _plans(cells)
    histories = [planned.history() for planned in plans]
    configs = [cell.config for cell in cells]
    cost = composed(config.base.privacy, configs, histories)
    projection = SweepProjection(cost, local_workers(cells))
    yield projection
    setup, step = _trial(cells[0].config)
    work = [_work(cell.config) / _work(cells[0].config) for cell in cells]
    steps = [planned.steps for planned in plans]
    each = [setup + step * share * count for share, count in zip(work, steps, strict=True)]
    seconds = max(max(each), sum(each) / projection.workers)
    yield replace(projection, seconds=seconds)


def spent(folder: Path) -> Iterator[SweepCost]:
    """Yield what the runs in a sweep folder have cost so far."""
    yield sweep_cost(folder)


def _plans(cells: Sequence[Cell]) -> list[Plan]:
    """Each cell's plan; a corpus is split, and a budget turned into noise, only once."""
    sizes: dict[str, int] = {}
    plans: dict[str, Plan] = {}
    found = []
    for config in (cell.config for cell in cells):
        split = f"{config.corpus_seed} {config.corpus.model_dump_json()}"
        if config.corpus.record == "chunk":
            split = f"{split} {config.model.source} {config.model.vocabulary}"
        if split not in sizes:
            sizes[split] = len(_records(config).training)
        asked = config.model_dump(include={"privacy", "schedule", "training"})
        key = f"{sizes[split]} {json.dumps(asked)}"
        if key not in plans:
            plans[key] = plan(config, sizes[split])
        found.append(plans[key])
    return found


def _records(config: RunConfig) -> Records:
    if config.corpus.record != "chunk":
        return corpora.load(config.corpus, seed=config.corpus_seed)
    from workbench.training.prepare import load_records  # with torch and the tokenizer

    return load_records(config)


def _trial(config: RunConfig) -> tuple[float, float]:
    """Seconds before the first step, and of the clipped sum that a step mostly consists of.

    No step is taken: the sum is thrown away, and only how long it took is told.
    """
    import torch

    from workbench.training import models
    from workbench.training.memory.predict import physical_batch_size
    from workbench.training.prepare import prepare
    from workbench.training.step import batch_gradient_sum

    began = time.perf_counter()
    prepared = prepare(config)
    models.mean_loss(prepared.model, prepared.heldout.tokens, prepared.heldout.labels)
    times = [time.perf_counter()]
    batch = prepared.training[torch.arange(config.training.expected_batch_size)]
    size = physical_batch_size(config, prepared.model)
    for _ in range(_TRIALS):
        norm = config.privacy.max_grad_norm
        batch_gradient_sum(
            prepared.model, batch, config, max_grad_norm=norm, physical_batch_size=size
        )
        times.append(time.perf_counter())
    return times[0] - began, float(np.diff(times).min())


def _work(config: RunConfig) -> float:
    """What a step's time is roughly proportional to."""
    tokens = config.training.expected_batch_size * config.corpus.record_tokens
    return tokens * config.model.width * config.model.layers
