"""What holds and what it costs on a CUDA card, in one command: ``data/measured/gpu.csv``.

    python -m benchmarks.gpu

Columns: ``card``, ``size``, ``precision``, ``figure``, ``value``. Figures, for models of three
sizes in float32, TF32 and bf16:

- ``error of the clipped sum, of C``: its distance from the sum of the same records on the CPU in
  float64, one record at a time; ``error of the norms`` likewise, the largest relative one;
- ``private ÷ plain``: steps of the book-keeping engine, and of Opacus's hooks and ghost clipping,
  over plain ones of the same model, medians of pairs (ghost's model has untied weights, and
  ghost refuses bf16);
- ``peak memory ÷ predicted``: of two steps, over what `training.predict_memory` says;
- of the default run: minutes, ε and held-out perplexity;
- on two cards or more: the same run by two processes over NCCL, whose ε has to be the same.
"""

import copy
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import product
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from benchmarks.trained import MEASURED
from workbench import training
from workbench.clipping.clipped_sum import ClippedSum
from workbench.clipping.gradient_sum import clipped_gradient_sum
from workbench.config import RunConfig
from workbench.errors import InputError
from workbench.training import models, optimizer
from workbench.training.prepare import Examples
from workbench.training.step import batch_gradient_sum

SIZES = {
    "11 M": {"model.width": 384, "model.layers": 5, "model.heads": 12},
    "100 M": {"model.width": 768, "model.layers": 12, "model.heads": 12},
    "350 M": {"model.width": 1024, "model.layers": 24, "model.heads": 16},
}
SHAPE = {
    "model.vocabulary": 8192,
    "corpus.record_tokens": 256,
    "training.expected_batch_size": 64,
    "runtime.physical_batch_size": 16,
}
PRECISIONS = ("float32", "tf32", "bf16")
ENGINES = ("bookkeeping", "hooks", "ghost")
PAIRS = 5
REFERENCE_RECORDS = 4  # float64 on a CPU, one by one
COLUMNS = ["card", "size", "precision", "figure", "value"]

Changes = Mapping[str, object]
Figures = Iterator[tuple[str, float]]


@dataclass(frozen=True)
class Case:
    """A model, an optimizer and a batch on a device, and both kinds of step on them."""

    config: RunConfig
    model: nn.Module
    optimizer: torch.optim.Optimizer
    batch: Examples

    @classmethod
    def of(cls, config: RunConfig, device: torch.device) -> "Case":
        """Random records, and random weights; untied where the engine is ghost clipping."""
        vocabulary, tokens = config.model.vocabulary, config.corpus.record_tokens
        model = models.tiny(
            config.model,
            vocabulary=vocabulary,
            context=tokens,
            generator=torch.Generator().manual_seed(0),
        )
        head = model.get_output_embeddings()
        if config.runtime.engine == "ghost" and isinstance(head, nn.Linear):
            head.weight = nn.Parameter(head.weight.detach().clone())
        model = model.train().to(device)  # type: ignore[arg-type]
        size = (config.training.expected_batch_size, tokens)
        drawn = torch.randint(vocabulary, size, generator=torch.Generator().manual_seed(1))
        moving = optimizer.optimizer(model, config.training)
        return cls(config, model, moving, Examples(drawn.to(device), drawn.to(device)))

    def sum(self, records: int | None = None, *, private: bool = True) -> ClippedSum:
        """The clipped sum of some records, or the plain one, as a run computes it."""
        size = self.config.runtime.physical_batch_size
        assert size != "auto"
        total, _ = batch_gradient_sum(
            self.model,
            self.batch[: records or len(self.batch)],
            self.config.with_changes({"privacy.private": private}),
            max_grad_norm=self.config.privacy.max_grad_norm,
            physical_batch_size=size,
        )
        return total

    def step(self, *, private: bool) -> None:
        """A whole step, with noise if it is private."""
        total, expected = self.sum(private=private), self.config.training.expected_batch_size
        noise = optimizer.gaussian_noise(
            total,
            noise_multiplier=0.8 if private else 0.0,
            generator=torch.Generator(self.batch.tokens.device).manual_seed(2),
        )
        mean = optimizer.noisy_mean(total.gradients, noise, expected_batch_size=expected)
        optimizer.take_step(
            self.model, self.optimizer, mean, learning_rate=1e-4, noise_deviation=0.8 / expected
        )


def main() -> None:
    """Measure on this machine's card; write the table and what made it."""
    if not torch.cuda.is_available():
        print("There is no CUDA card that torch can use; run this where one is.", file=sys.stderr)
        sys.exit(2)
    frame = measured(torch.device("cuda"), SIZES, SHAPE, RunConfig())
    frame.to_csv(MEASURED / "gpu.csv", index=False, lineterminator="\n")
    made_by = {
        "script": "python -m benchmarks.gpu",
        "card": torch.cuda.get_device_name(),
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        **{name: version(name) for name in ("torch", "transformers", "opacus")},
    }
    (MEASURED / "gpu.json").write_text(f"{json.dumps(made_by, indent=2)}\n", encoding="utf-8")
    print(frame.to_string(index=False))


def measured(
    device: torch.device, sizes: Mapping[str, Changes], shape: Changes, default: RunConfig
) -> pd.DataFrame:
    """Every figure there is on ``device``, a row each; memory and NCCL only on CUDA."""
    on_cuda = device.type == "cuda"
    card = torch.cuda.get_device_name(device) if on_cuda else "CPU"
    rows: list[tuple[str, str, str, str, float]] = []
    for (size, changes), precision in product(sizes.items(), PRECISIONS):
        asked = {**shape, **changes, "runtime.precision": precision, "runtime.device": device.type}
        config = RunConfig().with_changes(asked)
        for figures in (errors(config, device), ratios(config, device), memory(config, device)):
            for figure, value in figures:
                print(f"{size}, {precision}: {figure} {value:.4g}", flush=True)
                rows.append((card, size, precision, figure, value))
    default = default.with_changes({"runtime.device": device.type})
    for figure, value in (*default_run(default), *two_processes(default)):
        rows.append((card, "default run", default.runtime.precision, figure, value))
    return pd.DataFrame(rows, columns=COLUMNS)


def errors(config: RunConfig, device: torch.device) -> Figures:
    """How far the clipped sum and the norms are from the float64 reference on the CPU."""
    case, bound = Case.of(config, device), config.privacy.max_grad_norm
    found = case.sum(REFERENCE_RECORDS)
    exact = copy.deepcopy(case.model).cpu().double()
    tokens = case.batch.tokens[:REFERENCE_RECORDS].cpu()
    reference = clipped_gradient_sum(
        exact,
        lambda: models.record_losses(exact, tokens, tokens),  # type: ignore[arg-type]
        max_grad_norm=bound,
        engine="reference",
    )
    off = [(found.gradients[n].cpu().double() - g).norm() for n, g in reference.gradients.items()]
    yield "error of the clipped sum, of C", float(torch.stack(off).norm()) / bound
    relative = found.norms.cpu().double() / reference.norms - 1
    yield "error of the norms", float(relative.abs().max())


def ratios(config: RunConfig, device: torch.device) -> Figures:
    """Private ÷ plain by engine."""
    for engine in ENGINES:
        case = Case.of(config.with_changes({"runtime.engine": engine}), device)
        try:
            for _ in range(2):  # the first calls look for what mixes records
                case.step(private=True)
                case.step(private=False)
        except InputError:  # ghost clipping refuses bf16
            continue
        pairs = [
            (seconds(case, device, private=True), seconds(case, device, private=False))
            for _ in range(PAIRS)
        ]
        yield f"private ÷ plain, {engine}", statistics.median(one / other for one, other in pairs)


def seconds(case: Case, device: torch.device, *, private: bool) -> float:
    """How long a step takes until the card has done it."""
    wait: Callable[[], object] = torch.cuda.synchronize if device.type == "cuda" else int
    wait()
    began = time.perf_counter()
    case.step(private=private)
    wait()
    return time.perf_counter() - began


def memory(config: RunConfig, device: torch.device) -> Figures:
    """The peak of two private steps over what is predicted of them, where a card counts it."""
    if device.type != "cuda":
        return
    predicted = training.predict_memory(config).total
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    case = Case.of(config, device)
    for _ in range(2):
        case.step(private=True)
    yield "peak memory ÷ predicted", (torch.cuda.max_memory_allocated() - before) / predicted


def default_run(config: RunConfig) -> Figures:
    """A whole run."""
    with tempfile.TemporaryDirectory() as folder:
        result = training.train(config, run_dir=Path(folder) / "run")
    yield "minutes", result.minutes
    yield "epsilon", result.guarantee.epsilon
    yield "held-out perplexity", result.heldout_perplexity or float("nan")


def two_processes(config: RunConfig) -> Figures:
    """The same run by two processes on a card each, where there are two."""
    if config.runtime.device != "cuda" or torch.cuda.device_count() < 2:
        return
    with tempfile.TemporaryDirectory() as folder:
        file, run = Path(folder) / "run.yaml", Path(folder) / "run"
        file.write_text(config.to_yaml(), encoding="utf-8")
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        subprocess.run(
            [sys.executable, *launch, "-m", "workbench", "train", str(file), "--run-dir", str(run)],
            check=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        summary = training.read_run(run).summary
        yield "two processes: minutes", summary["minutes"]
        yield "two processes: epsilon", training.verify(run).epsilon


if __name__ == "__main__":
    main()
