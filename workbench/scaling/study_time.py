"""About how long runs of the study take on this machine, from a few steps taken on made-up text."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from workbench.config import RunConfig
from workbench.scaling.study_blocks import RECORDS, StudyRun

_TRIED, _TIMES = 64, 3  # records in a batch, and how often
_OVERHEAD = 8.0  # seconds a run for preparing, checkpoints, ledger and accounting


@dataclass(frozen=True)
class TokenTime:
    """Processor seconds a token of one width: in training, and where it is only measured."""

    training: float
    heldout: float


def token_time(config: RunConfig) -> TokenTime:
    """Time a model of ``config`` on one thread; the least of a few trials, after one to warm up.

    Processor time counts, so that other work on the machine matters little.
    """
    import torch

    from workbench.training import models
    from workbench.training.memory.predict import physical_batch_size
    from workbench.training.prepare import Examples
    from workbench.training.randomness import initial_weights
    from workbench.training.step import batch_gradient_sum

    length, known = config.corpus.record_tokens, config.model.vocabulary
    generator = initial_weights(0)
    model = models.tiny(config.model, vocabulary=known, context=length, generator=generator)
    tokens = torch.randint(known, (_TRIED, length), generator=generator)
    batch = Examples(tokens, tokens)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        size = physical_batch_size(config, model)
        training = _least(
            lambda: batch_gradient_sum(
                model, batch, config, max_grad_norm=1.0, physical_batch_size=size
            )
        )
        heldout = _least(lambda: models.mean_loss(model, tokens, tokens))
    finally:
        torch.set_num_threads(before)
    counted = _TRIED * (length - 1)
    return TokenTime(training / counted, heldout / counted)


def estimated_seconds(runs: Iterable[StudyRun], base: RunConfig) -> float:
    """Processor seconds of all ``runs`` together, with each width and arm timed once."""
    known: dict[tuple[int, bool], TokenTime] = {}
    total = 0.0
    for run in runs:
        key = (run.width, run.arm == "twin")
        if key not in known:
            known[key] = token_time(base.with_changes(run.changes()))
        total += _run_seconds(run, base, known[key])
    return total


def _run_seconds(run: StudyRun, base: RunConfig, cost: TokenTime) -> float:
    length = base.corpus.record_tokens - 1
    trained = run.planned_steps * run.batch * length
    evaluations = 1 + 2 * run.planned_steps / run.evaluate_every  # the tail average each time, too
    heldout = RECORDS * base.corpus.heldout_fraction * length
    return _OVERHEAD + trained * cost.training + evaluations * heldout * cost.heldout


def _least(work: Callable[[], object]) -> float:
    work()
    times = []
    for _ in range(_TIMES):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times)
