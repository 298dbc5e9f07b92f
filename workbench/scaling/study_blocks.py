"""The runs of our scaling study, as data: each block a question, each run settled beforehand.

The learning rate is part of a run. Block D tries rates, and the later blocks take theirs from what
D has measured, by the rule of `workbench.scaling.study_rates`; nothing else is chosen on the way.
Zero noise means that gradients are clipped and σ is 0 (arm "clipped"). The twin without clipping is
another algorithm, with rates of its own from block F. Neither is private.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from itertools import count, product
from typing import Any, Literal

from workbench.config import RunConfig
from workbench.scaling.study_rates import Rates

Arm = Literal["private", "clipped", "twin"]

BASE = RunConfig().with_changes(
    {
        "corpus.record": "chunk",
        "corpus.seed": 0,  # one split for all runs, whatever their seed
        "corpus.heldout_fraction": 0.01,
        "privacy.unit": "chunk",
        "model.layers": 2,
        "model.heads": 4,
        "model.vocabulary": 512,
        "training.learning_rate_schedule": "constant",
        "training.warmup_steps": 5,
        "training.tail_fraction": 0.25,
        "runtime.device": "cpu",
        "runtime.threads": 1,
    }
)
RECORDS = 76_300  # training chunks of that corpus, rounded: only rates and times are chosen by it
WIDTHS = {24: 27_384, 48: 84_720, 96: 289_056, 192: 1_057_344}  # to parameters
SMALL = (24, 48, 96)
RATES = (0.0025, 0.005, 0.01, 0.02, 0.04)
TWIN_RATES = (0.00125, 0.0025, 0.005, 0.01)
SUBSETS = tuple(2.0**-halvings for halvings in range(5, -1, -1))
BATCH = 128


@dataclass(frozen=True)
class StudyRun:
    """One run of the study; ``noise_batch_ratio`` is σ/B, where σ is not made for a target ε.

    ``steps`` is empty for one pass over the records, of which there are ``subset`` of all.
    """

    block: str
    arm: Arm
    width: int
    batch: int
    learning_rate: float
    seed: int
    steps: int | None
    evaluate_every: int
    noise_batch_ratio: float | None = None
    target_epsilon: float | None = None
    subset: float = 1.0
    schedule: Literal["constant", "cosine"] = "constant"

    @property
    def id(self) -> str:
        """The block and a hash of the definition, which does not change with the workbench."""
        text = json.dumps(asdict(self), sort_keys=True)
        return f"{self.block}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"

    def changes(self) -> dict[str, Any]:
        """What the run changes of `BASE`, by dotted field."""
        noise: dict[str, Any] = {"privacy.private": self.arm == "private"}
        if self.arm == "clipped":
            noise["privacy.twin"] = "clipped"
        elif self.arm == "private" and self.target_epsilon is not None:
            noise |= {
                "privacy.target_epsilon": self.target_epsilon,
                "privacy.noise_multiplier": None,
            }
        elif self.arm == "private" and self.noise_batch_ratio is not None:
            noise["privacy.noise_multiplier"] = self.noise_batch_ratio * self.batch
        return {
            **noise,
            "corpus.training_subset": self.subset,
            "model.width": self.width,
            "training.expected_batch_size": self.batch,
            "training.steps": self.steps,
            "training.epochs": 1.0 if self.steps is None else None,
            "training.learning_rate": self.learning_rate,
            "training.learning_rate_schedule": self.schedule,
            "training.evaluate_every": self.evaluate_every,
            "seed": self.seed,
        }

    @property
    def planned_steps(self) -> int:
        """The steps, about so many where they are a pass over the records."""
        return self.steps or max(1, round(self.subset * RECORDS / self.batch))


def pilot(_: Rates) -> Iterator[StudyRun]:
    """D: which learning rate suits which size and ratio. All runs have one seed."""
    for width, ratio, rate in product((24, 96), (0.0, 2.0**-8, 2.0**-5), RATES):
        yield _at_ratio("D", width, ratio, learning_rate=rate, seed=0, steps=150)


def surface(rates: Rates) -> Iterator[StudyRun]:
    """A: loss over size, ratio and steps. Each run has a seed of its own."""
    seeds = count(100)
    ratios = (0.0, *(2.0**power for power in range(-11, -4)))
    for width, ratio, factor in product(SMALL, ratios, (0.5, 1.0, 2.0)):
        rate = rates.clipped(WIDTHS[width], ratio, factor)
        yield _at_ratio("A", width, ratio, learning_rate=rate, seed=next(seeds), steps=600)


def twin(_: Rates) -> Iterator[StudyRun]:
    """F: the same without clipping, at rates of its own."""
    seeds = count(200)
    sizes = [*product(SMALL, TWIN_RATES, (600,)), *product((192,), TWIN_RATES[:2], (300,))]
    for width, rate, steps in sizes:
        yield StudyRun("F", "twin", width, BATCH, rate, next(seeds), steps, 50)


def one_epoch(rates: Rates) -> Iterator[StudyRun]:
    """C1: one pass over nested sets of records, at fixed ε, clipped without noise, and the twin."""
    for subset in SUBSETS:  # grouped by their records, which a worker then encodes once
        run = _with_records("C1", subset, BATCH, None)
        for seed in range(3):
            yield from _arms(replace(run, seed=seed), rates, clipped=True)


def same_steps(rates: Rates) -> Iterator[StudyRun]:
    """C2: as many steps for every set of records, where C1 has few for a small one."""
    for subset in SUBSETS:
        run = _with_records("C2", subset, 256, 300)
        for seed in range(2):
            yield from _arms(replace(run, seed=seed), rates, clipped=False)


def batches(rates: Rates) -> Iterator[StudyRun]:
    """B: the batch at a fixed ε and number of steps."""
    for batch, seed, epsilon in product((32, 64, 128, 256, 512, 1024), range(3), (2.0, 8.0)):
        run = replace(_with_records("B", 0.25, batch, 150), seed=seed)
        yield _at_epsilon(run, epsilon, rates)


def same_ratio(rates: Rates) -> Iterator[StudyRun]:
    """B2: does the ratio alone decide, whatever the batch?"""
    for batch, ratio, seed in product((64, 256, 1024), (2.0**-9, 2.0**-7), range(3)):
        rate = rates.clipped(WIDTHS[48], ratio)
        run = _at_ratio("B2", 48, ratio, learning_rate=rate, seed=seed, steps=150)
        yield replace(run, batch=batch)


def tail_or_cosine(rates: Rates) -> Iterator[StudyRun]:
    """E: is the tail average of one long run worth a run of each length with a falling rate?"""
    for ratio in (0.0, 2.0**-9, 2.0**-7):
        rate = rates.clipped(WIDTHS[48], ratio)
        run = partial(_at_ratio, "E", 48, ratio, learning_rate=rate, seed=0)
        yield run(steps=600)
        for steps in (150, 300, 600):
            yield replace(run(steps=steps), schedule="cosine")


def large(rates: Rates) -> Iterator[StudyRun]:
    """A2: the surface at a size beyond those that it was fitted to."""
    seeds = count(300)
    for ratio, factor in product((0.0, 2.0**-9, 2.0**-7, 2.0**-5), (0.5**0.5, 2**0.5)):
        rate = rates.clipped(WIDTHS[192], ratio, factor)
        yield _at_ratio("A2", 192, ratio, learning_rate=rate, seed=next(seeds), steps=300)


BLOCKS: dict[str, Callable[[Rates], Iterator[StudyRun]]] = {
    "D": pilot,
    "A": surface,
    "F": twin,
    "C1": one_epoch,
    "C2": same_steps,
    "B": batches,
    "B2": same_ratio,
    "E": tail_or_cosine,
    "A2": large,
}


def _at_ratio(
    block: str, width: int, ratio: float, *, learning_rate: float, seed: int, steps: int
) -> StudyRun:
    return StudyRun(
        block=block,
        arm="private" if ratio else "clipped",
        width=width,
        batch=BATCH,
        learning_rate=learning_rate,
        seed=seed,
        steps=steps,
        evaluate_every=50,
        noise_batch_ratio=ratio,
    )


def _with_records(block: str, subset: float, batch: int, steps: int | None) -> StudyRun:
    run = StudyRun(block, "twin", 48, batch, 1.0, 0, steps, 50, subset=subset)
    return replace(run, evaluate_every=max(1, run.planned_steps // 8)) if steps is None else run


def _arms(run: StudyRun, rates: Rates, *, clipped: bool) -> Iterator[StudyRun]:
    """The same records, seed and steps in every arm."""
    for epsilon in (2.0, 8.0):
        yield _at_epsilon(run, epsilon, rates)
    if clipped:
        rate = rates.clipped(WIDTHS[run.width], 0.0)
        yield replace(run, arm="clipped", noise_batch_ratio=0.0, learning_rate=rate)
    yield replace(run, learning_rate=rates.twin(run.width))


def _at_epsilon(run: StudyRun, epsilon: float, rates: Rates) -> StudyRun:
    ratio = _ratio(epsilon, run.batch, run.subset, run.planned_steps)
    rate = rates.clipped(WIDTHS[run.width], ratio)
    return replace(run, arm="private", target_epsilon=epsilon, learning_rate=rate)


@cache
def _ratio(epsilon: float, batch: int, subset: float, steps: int) -> float:
    """About the σ/B that keeps within ``epsilon``, from which the rate is chosen."""
    from workbench import privacy

    sample_rate = batch / (subset * RECORDS)
    return privacy.noise_multiplier(epsilon, sample_rate, steps, BASE.privacy.delta) / batch
