"""How much slower steps get beside other processes that never rest: `benchmarks.engines`.

python -m benchmarks.beside beside "llama 1 M" 2
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from benchmarks.engines import Steps, quickest, seconds

ROUNDS = 7


def slower(case: str, threads: int) -> dict[str, float]:
    """How many times its idle time a step takes beside processes that never rest, a median each.

    A fair share of two cores would make it 1.5 beside one and 2 beside two.
    """
    torch.set_num_threads(threads)
    steps = Steps(case)
    sizes = {"plain": quickest(steps.plain, time.perf_counter)}
    sizes["private"] = quickest(steps.private, time.perf_counter)
    taken: dict[tuple[str, int], list[float]] = {}
    for _ in range(ROUNDS):
        for others in (0, 1, 2):
            with busy(others):
                for kind, step in (("plain", steps.plain), ("private", steps.private)):
                    found = seconds(step, sizes[kind], time.perf_counter)
                    taken.setdefault((kind, others), []).append(found)
    median = {key: statistics.median(values) for key, values in taken.items()}
    return {
        f"{kind} beside {others} busy": median[kind, others] / median[kind, 0]
        for kind in sizes
        for others in (1, 2)
    }


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that never rest."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


if __name__ == "__main__":
    _, case, threads = sys.argv[1:]
    print(json.dumps(slower(case, int(threads))))
