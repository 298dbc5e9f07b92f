"""What a private step costs beside a plain one: time and memory, by engine, one thread and two.

A private step is all of it: clipped sum, noise, optimizer. A plain step is backward of the mean
loss and the same optimizer. Model, batch (32 sequences of 128 tokens) and machine are the same, and
each side takes the physical batch it is quickest with. The two alternate, and a ratio is the median
over pairs; on one thread time is the processor's, which a busy machine disturbs least, on two it is
the clock's. Memory is by what three steps of a new model make a process grow at most that has taken
such a step before; all take the plain step's physical batch, and freed memory is given back at once
(see `benchmarks.memory`), but for the peer "default allocator".

How much slower both kinds of step get beside processes that never rest is measured by
`benchmarks.beside`, and a whole run beside its twin by `benchmarks.whole_run`.

Ghost clipping refuses tied weights, so that peer is measured on the same model untied, against the
plain step of that model. "without oneDNN" is the book-keeping engine with MKL's products alone.

    python -m benchmarks.engines time "llama 1 M" 1              one case
    python -m benchmarks.engines memory "llama 1 M" private 8    one peak, in MB
"""

import gc
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.memory import GIVING_BACK, added
from workbench.clipping.bookkeeping import products
from workbench.clipping.clipped_sum import ClippedSum
from workbench.clipping.gradient_sum import clipped_gradient_sum
from workbench.config import ModelConfig
from workbench.training import models, optimizer

BATCH, TOKENS = 32, 128
PHYSICAL_SIZES = (4, 8, 16)
CASES = {
    "llama 1 M": ModelConfig(width=128, layers=4, heads=4, vocabulary=2048),
    "llama 4 M": ModelConfig(width=256, layers=4, heads=8, vocabulary=4096),
    "gpt2 4 M": ModelConfig(source="tiny-gpt2", width=256, layers=4, heads=8, vocabulary=4096),
    "llama 11 M": ModelConfig(width=384, layers=5, heads=12, vocabulary=4096),
    "llama 4 M, LoRA": ModelConfig(width=256, layers=4, heads=8, vocabulary=4096),
}
# How many pairs a median is of; the slow engines need no more to be told apart.
PAIRS = {"bookkeeping": 11, "without oneDNN": 5, "hooks": 2, "ghost": 2}
QUICK_ENOUGH = 1.03  # of two physical batches as quick, the smaller one needs less memory

Step = Callable[[int], None]


def main() -> dict[str, float]:
    """Private ÷ plain; every measurement in a process of its own."""
    figures: dict[str, float] = {}
    for case in CASES:
        sizes: dict[int, int] = {}
        for threads in (1, 2):
            found = in_a_process("time", case, str(threads))
            print(f"{case}, {threads} threads: {found}", flush=True)
            name = f"step, {case}, {threads} threads, private ÷ plain"
            figures[name] = found.pop("bookkeeping")
            figures |= {f"{name} | {engine}": found[engine] for engine in PAIRS if engine in found}
            sizes[threads] = int(found["plain, physical batch"])
        for name, slower in in_a_process("beside", case, "2", module="beside").items():
            figures[f"step, {case}, 2 threads, {name}, ÷ idle"] = slower
        name = f"memory, {case}, private ÷ plain"
        figures[name] = memory_ratio(case, "private", sizes[1], **GIVING_BACK)
        for engine in ("hooks", "ghost"):
            figures[f"{name} | {engine}"] = memory_ratio(case, engine, sizes[1], **GIVING_BACK)
        figures[f"{name} | default allocator"] = memory_ratio(case, "private", sizes[1])
    for threads in (1, 2):
        for length, ratio in in_a_process("whole", "run", str(threads), module="whole_run").items():
            figures[f"whole run, {length}, {threads} threads, private ÷ twin"] = ratio
    return figures


def memory_ratio(case: str, side: str, size: int, **environment: str) -> float:
    """Peak memory of a side over that of the plain step, of the same model."""
    peer = "plain, untied" if side == "ghost" else "plain"
    needed, plain = (
        in_a_process("memory", case, one, str(size), **environment)["MB"] for one in (side, peer)
    )
    return needed / plain


def in_a_process(*arguments: str, module: str = "engines", **environment: str) -> dict[str, float]:
    """What a module prints last when it is run with these arguments."""
    threads = "1" if arguments[0] == "memory" else arguments[2]
    output = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *arguments],
        env=os.environ | {"OMP_NUM_THREADS": threads} | environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    return json.loads(output.splitlines()[-1])


def build(case: str, *, tied: bool) -> nn.Module:
    """The model of a case, in training mode."""
    config = CASES[case]
    model = models.tiny(
        config,
        vocabulary=config.vocabulary,
        context=TOKENS,
        generator=torch.Generator().manual_seed(0),
    )
    if not tied:
        head = model.get_output_embeddings()
        assert isinstance(head, nn.Linear)
        head.weight = nn.Parameter(head.weight.detach().clone())
    if case.endswith("LoRA"):
        from peft import LoraConfig, get_peft_model

        warnings.filterwarnings("ignore", category=FutureWarning)  # peft's own, of transformers
        model = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear"))
    return model.train()


class Steps:
    """One model, one optimizer, one batch, and both kinds of step on them."""

    def __init__(self, case: str, *, tied: bool = True) -> None:
        self.model = build(case, tied=tied)
        self.optimizer = torch.optim.AdamW(
            (p for p in self.model.parameters() if p.requires_grad), lr=1e-4
        )
        self.noise = torch.Generator().manual_seed(1)
        size = (BATCH, TOKENS + 1)
        generator = torch.Generator().manual_seed(2)
        self.tokens = torch.randint(CASES[case].vocabulary, size, generator=generator)

    def losses(self, tokens: Tensor) -> Tensor:
        """One loss a record."""
        return models.record_losses(self.model, tokens, tokens)  # type: ignore[arg-type]

    def plain(self, physical_batch: int) -> None:
        """A step without privacy."""
        for part in self.tokens.split(physical_batch):
            (self.losses(part).sum() / BATCH).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def private(self, physical_batch: int, engine: str = "bookkeeping") -> None:
        """A step of DP-SGD, with the functions that a run takes it with."""
        total: ClippedSum | None = None
        for part in self.tokens.split(physical_batch):
            clipped = clipped_gradient_sum(
                self.model, lambda part=part: self.losses(part), max_grad_norm=1.0, engine=engine
            )
            total = total.with_part(clipped) if total else clipped
            del clipped  # as a run does, else it is there beside the next part's
        assert total is not None
        noise = optimizer.gaussian_noise(total, noise_multiplier=0.8, generator=self.noise)
        mean = optimizer.noisy_mean(total.gradients, noise, expected_batch_size=BATCH)
        optimizer.take_step(
            self.model, self.optimizer, mean, learning_rate=1e-4, noise_deviation=0.8 / BATCH
        )

    def by(self, engine: str) -> Step:
        """The private step of an engine."""
        if engine != "without oneDNN":
            return lambda size: self.private(size, engine)

        def step(size: int) -> None:
            least, products.LEAST_WORTH_A_CALL = products.LEAST_WORTH_A_CALL, sys.maxsize
            try:
                self.private(size)
            finally:
                products.LEAST_WORTH_A_CALL = least

        return step


def times(case: str, threads: int) -> dict[str, float]:
    """Medians and quartiles of paired ratios, and the physical batches they are of."""
    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    tied = Steps(case)
    plain_size = quickest(tied.plain, clock)
    found: dict[str, float] = {}
    for engine, pairs in PAIRS.items():
        steps = Steps(case, tied=False) if engine == "ghost" else tied
        private = steps.by(engine)
        private_size = quickest(private, clock)
        ratios = []
        for _ in range(pairs):
            before = seconds(steps.plain, plain_size, clock)
            between = seconds(private, private_size, clock)
            after = seconds(steps.plain, plain_size, clock)
            ratios.append(2 * between / (before + after))
        found[engine] = statistics.median(ratios)
        if engine == "bookkeeping":
            low, _, high = statistics.quantiles(ratios, n=4)
            found |= {"lower quartile": low, "upper quartile": high}
            found |= {
                "plain, physical batch": plain_size,
                "private, physical batch": private_size,
            }
    return found


def quickest(step: Step, clock: Callable[[], float]) -> int:
    """The smallest physical batch that is about as quick as any, each taken twice in turn."""
    taken: dict[int, list[float]] = {size: [] for size in PHYSICAL_SIZES}
    for size in PHYSICAL_SIZES:
        step(size)
    for _ in range(2):
        for size in PHYSICAL_SIZES:
            taken[size].append(seconds(step, size, clock))
    least = {size: min(values) for size, values in taken.items()}
    return next(s for s in PHYSICAL_SIZES if least[s] <= QUICK_ENOUGH * min(least.values()))


def seconds(step: Step, size: int, clock: Callable[[], float]) -> float:
    """How long one step takes."""
    began = clock()
    step(size)
    return clock() - began


def memory(case: str, side: str, size: int) -> dict[str, float]:
    """Megabytes by which three steps of a new model grow this process at most (Linux)."""

    def take(count: int) -> None:
        steps = Steps(case, tied=side not in ("ghost", "plain, untied"))
        by_side = {"plain": steps.plain, "plain, untied": steps.plain, "private": steps.private}
        step = by_side.get(side) or steps.by(side)
        for _ in range(count):
            step(size)

    take(1)  # what libraries set up once and keep is no one step's
    gc.collect()
    return {"MB": added(lambda: take(3))}


if __name__ == "__main__":
    what, case, *rest = sys.argv[1:]
    if what == "time":
        print(json.dumps(times(case, int(rest[0]))))
    else:
        print(json.dumps(memory(case, rest[0], int(rest[1]))))
