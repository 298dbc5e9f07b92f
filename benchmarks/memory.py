"""Peak memory of a run, measured and predicted; of large batches; and what 80 GB hold, predicted.

Measured is what a fresh process grows by at most from before it has a model: two steps of a logical
batch in two physical parts, and an evaluation, on one thread, kernels warm. It is told to give
freed memory back at once, because the GNU allocator keeps much of it: the second peer is the same
as it is by default. The first peer is the prediction.

A logical batch of 256 or 4096 records in physical parts of 16 has the batch of 16 as its peer, each
in the first two steps of a run of `workbench.training.train`.

Nothing here ran on a GPU: what fits into 80 GB is predicted, on a model of Llama 2's 7B shape.

    python -m benchmarks.memory CASE ENGINE PHYSICAL TOKENS PRECISION     one case, in MB
    python -m benchmarks.memory run LOGICAL                               one run, in MB
"""

import ctypes
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from torch import nn
from transformers import LlamaConfig, PretrainedConfig

from tests.training.two_steps import two_steps
from workbench import training
from workbench.config import ModelConfig, RunConfig
from workbench.runs.report import StepReport
from workbench.training import models
from workbench.training.memory.predict import predict_memory, what_fits

VOCABULARY = 4096
CASES = {
    "llama 1 M": ModelConfig(width=128, layers=3, heads=4),
    "llama 4 M": ModelConfig(width=256, layers=4, heads=8),
    "gpt2 4 M": ModelConfig(source="tiny-gpt2", width=256, layers=4, heads=8),
    "llama 11 M": ModelConfig(width=384, layers=5, heads=12),
}
ENGINES = ("not private", "bookkeeping", "hooks", "ghost")
MEASURED = [
    *((case, engine, 16, 128, "float32") for case in CASES for engine in ENGINES),
    ("llama 1 M", "reference", 16, 128, "float32"),
    *(("llama 4 M", "bookkeeping", physical, 128, "float32") for physical in (4, 32)),
    *(("llama 4 M", "bookkeeping", 16, tokens, "float32") for tokens in (32, 256)),
    *(("llama 4 M", engine, 16, 128, "bf16") for engine in ("bookkeeping", "hooks")),
]
GIVING_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed, with the GNU C library
LOGICAL = (16, 256, 4096)
SEVEN_BILLION = LlamaConfig(
    vocab_size=32_000,
    hidden_size=4096,
    intermediate_size=11_008,
    num_hidden_layers=32,
    num_attention_heads=32,
    max_position_embeddings=4096,
)


def main() -> dict[str, float]:
    """Megabytes, and records that fit."""
    figures: dict[str, float] = {}
    for case in MEASURED:
        found = in_a_process(*case, **GIVING_BACK)
        name = "{}, {}, {} × {} tokens, {} (MB)".format(*case)
        figures[name] = found["measured"]
        figures[f"{name} | predicted"] = found["predicted"]
        figures[f"{name} | default allocator"] = in_a_process(*case)["measured"]
    peaks = {n: in_a_process("run", n, **GIVING_BACK)["measured"] for n in LOGICAL}
    for logical in LOGICAL[1:]:
        name = f"logical batch {logical}, physical 16 (MB)"
        figures |= {name: peaks[logical], f"{name} | logical batch 16": peaks[16]}
    return figures | seven_billion()


def in_a_process(*arguments: object, **environment: str) -> dict[str, float]:
    """What this module prints last when it is run with these arguments."""
    output = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    return json.loads(output.splitlines()[-1])


def one_case(
    case: str, engine: str, physical: int, tokens: int, precision: str
) -> dict[str, float]:
    """Megabytes measured and predicted."""
    config = RunConfig().with_changes(
        {
            "privacy.private": engine != "not private",
            "corpus.record_tokens": tokens + 1,  # the last one is a target only
            "training.expected_batch_size": 2 * physical,
            "runtime.engine": "bookkeeping" if engine == "not private" else engine,
            "runtime.physical_batch_size": physical,
            "runtime.precision": precision,
            "runtime.device": "cpu",
        }
    )
    small = config.with_changes({"runtime.physical_batch_size": 2, "corpus.record_tokens": 5})
    warm = ModelConfig(source=CASES[case].source, width=8, heads=2, layers=1)
    two_steps(small, shape(warm, engine, tokens))
    whole = shape(CASES[case], engine, tokens)
    measured = added(lambda: two_steps(config, whole))
    return {"measured": measured, "predicted": predict_memory(config, whole).total / 1e6}


def shape(model: ModelConfig, engine: str, tokens: int) -> PretrainedConfig:
    """The model, with its output layer untied for ghost clipping, which refuses it otherwise."""
    of_preset = models.PRESETS[model.source](model, VOCABULARY, tokens + 1)
    of_preset.tie_word_embeddings = engine != "ghost"
    return of_preset


def one_run(logical: int) -> dict[str, float]:
    """Megabytes by which the first two steps of the workshop's run grow the process."""
    changes = {
        "training.expected_batch_size": logical,
        "runtime.physical_batch_size": 16,
        "runtime.device": "cpu",
    }
    held, grown, stop = [], [], threading.Event()

    def reported(report: StepReport) -> None:
        if report.step == 0:
            held.append(start())
        if report.step == 2:
            grown.append(resident("VmHWM") - held[0])
            stop.set()

    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig().with_changes(changes)
        training.train(config, on_step=reported, stop=stop, run_dir=Path(folder) / "run")
    return {"measured": grown[0]}


def seven_billion() -> dict[str, float]:
    """Predicted: records in one pass that 80 GB hold, or the gigabytes that one record takes."""
    config = RunConfig().with_changes({"training.expected_batch_size": 4096})
    one = config.with_changes({"corpus.record_tokens": 512, "runtime.precision": "bf16"})
    figures = {}
    for optimizer_name in ("adamw", "sgd"):
        changed = one.with_changes({"training.optimizer": optimizer_name, "training.momentum": 0})
        needed = predict_memory(changed, SEVEN_BILLION, physical_batch_size=1).total / 1e9
        figures[f"7B, all weights, {optimizer_name}, one record of 512 tokens (GB, predicted)"] = (
            needed
        )
    table = what_fits(config, SEVEN_BILLION, memory_gb=80, record_tokens=(512,), adapt=with_lora)
    for row in table.to_dict("records"):
        name = f"7B, LoRA, {row['engine']}, {row['precision']}, records of 512 tokens in 80 GB"
        figures[f"{name} (predicted)"] = row["physical_batch_size"]
    return figures


def with_lora(model: nn.Module) -> nn.Module:
    """Adapters of rank 16 on queries and values; all else is frozen."""
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(r=16, target_modules=["q_proj", "v_proj"]))  # type: ignore[arg-type]


def added(action: Callable[[], object]) -> float:
    """Megabytes by which this process grew at most (Linux)."""
    before = start()
    action()
    return resident("VmHWM") - before


def start() -> float:
    """Give back what is free, forget the peak so far, and return what is held now, in MB."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return resident("VmRSS")


def resident(field: str) -> float:
    """A field of this process's status, in MB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(field))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["run", logical]:
            answer = one_run(int(logical))
        case [case, engine, physical, tokens, precision]:
            answer = one_case(case, engine, int(physical), int(tokens), precision)
        case _:
            sys.exit(__doc__)
    print(json.dumps(answer))
