"""A run from its first evaluation to its end, private beside its twin: `benchmarks.engines`.

All that a person waits for once the run is prepared counts: clipped sums, noise, ledger,
accounting, evaluations, checkpoints, samples, and what the panel keeps of each step. Runs
alternate, and a ratio is the median over pairs; the twin's time is the mean of the runs before and
after. On one thread time is the process's, on two the clock's.

    python -m benchmarks.whole_run whole run 1
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from workbench.config import RunConfig
from workbench.panels.run.job import start
from workbench.training.session import Session

SHAPE = {
    "model.width": 128,
    "model.layers": 4,
    "model.heads": 4,
    "model.vocabulary": 2048,
    "corpus.record_tokens": 128,
    "training.expected_batch_size": 64,
    "runtime.device": "cpu",
}
LENGTHS = {"short": 14, "long": 100}  # steps
PAIRS = {"short": 3, "long": 1}


def ratios(threads: int, changes: dict[str, object] | None = None) -> dict[str, float]:
    """Private ÷ twin of a run, by its length; ``changes`` are of the configuration."""
    clock = time.process_time if threads == 1 else time.perf_counter
    base = RunConfig().with_changes({**SHAPE, "runtime.threads": threads, **(changes or {})})
    found: dict[str, float] = {}
    for length, steps in LENGTHS.items():
        private = base.with_changes({"training.steps": steps})
        twin = private.with_changes({"privacy.private": False})
        taken(private.with_changes({"training.steps": 1}), clock)
        before, each = taken(twin, clock), []
        for _ in range(PAIRS[length]):
            between, after = taken(private, clock), taken(twin, clock)
            each.append(2 * between / (before + after))
            before = after
        found[f"{length} run"] = statistics.median(each)
    return found


def taken(config: RunConfig, clock: Callable[[], float]) -> float:
    """Seconds of a run as the panel follows it, without what is prepared before."""
    with tempfile.TemporaryDirectory() as folder, _timed(clock) as seconds:
        state = start(config, run_dir=Path(folder) / "run").wait()
        if state.error:
            raise RuntimeError(state.error)
    return seconds[0]


@contextmanager
def _timed(clock: Callable[[], float]) -> Iterator[list[float]]:
    """The seconds that each session takes from when it is made to its end."""
    seconds: list[float] = []
    to_the_end = Session.to_the_end

    def timed(self: Session, *args: object) -> object:
        began = clock()
        try:
            return to_the_end(self, *args)  # type: ignore[arg-type]
        finally:
            seconds.append(clock() - began)

    Session.to_the_end = timed  # type: ignore[method-assign,assignment]
    try:
        yield seconds
    finally:
        Session.to_the_end = to_the_end


if __name__ == "__main__":
    print(json.dumps(ratios(int(sys.argv[-1]))))
