"""Whether a run that goes on can draw its lost steps again, or has to pay for others.

A seeded run whose weights were lost takes the same steps once more: the same batches, noise and
sums are one release, however often they are made. The same noise on two sums that differ at all is
not: it lets out their difference, which no ε covers. So unless every bit can be expected to come
out alike, a run goes on with new chance, and what was lost stays counted.
"""

import hashlib
import os
import platform
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from workbench.config import RunConfig
from workbench.runs.ledger import LedgerRecord
from workbench.training.checkpoint import Position
from workbench.training.memory.predict import physical_batch_size
from workbench.training.prepare import Prepared
from workbench.training.randomness import digest_of

# With all that decides how much noise there is.
_SOFTWARE = (
    "dp-sgd-workbench",
    "torch",
    "transformers",
    "numpy",
    "dp-accounting",
    "opacus",
    "scipy",
)
# Settings by which libraries choose how they add numbers up.
_ENVIRONMENT = ("ATEN_", "BLIS_", "DNNL_", "KMP_", "MKL_", "OMP_", "ONEDNN_", "OPENBLAS_", "TORCH_")
# What /proc/cpuinfo says of a processor that does not change from moment to moment.
_OF_A_PROCESSOR = (
    "vendor_id",
    "cpu family",
    "model",
    "stepping",
    "flags",
    "Features",
    "CPU implementer",
    "CPU variant",
    "CPU part",
)


def fingerprint(config: RunConfig, prepared: Prepared) -> str | None:
    """A hash of all that decides a step to the last bit; None where nothing does.

    Secure chance cannot be drawn again, and other devices than the CPU may add in any order. The
    hash is as confidential as the records.
    """
    if prepared.randomness.secure or prepared.device.type != "cpu":
        return None
    decides = [
        prepared.randomness.root,
        *_model(prepared),
        str(physical_batch_size(config, prepared.model)),  # "auto" asks how much memory there is
        *_machine(),
        *(version(name) for name in _SOFTWARE),
        own_source(),
    ]
    return hashlib.sha256("\0".join(decides).encode()).hexdigest()


def _model(prepared: Prepared) -> Iterator[str]:
    """What the root leaves out of a model: its configuration, its buffers, and what is trained."""
    model = prepared.model
    yield model.config.to_json_string(use_diff=False)
    for name, parameter in model.named_parameters():
        yield f"{name} {parameter.dtype} {tuple(parameter.shape)} {parameter.requires_grad}"
    for name, buffer in model.named_buffers():
        yield f"{name} {digest_of([buffer])}"


def _machine() -> Iterator[str]:
    """The processor, and how torch and its libraries are set to use it."""
    yield from (platform.node(), platform.machine(), platform.python_version(), _processor())
    yield torch.backends.cpu.get_cpu_capability()
    yield str(torch.get_num_threads())
    yield torch.__config__.show()
    yield torch.__config__.parallel_info()
    mkldnn: Any = torch.backends.mkldnn
    yield f"{mkldnn.enabled} {mkldnn.matmul.fp32_precision}"
    yield f"{torch.get_default_dtype()} {torch.are_deterministic_algorithms_enabled()}"
    yield from sorted(f"{k}={v}" for k, v in os.environ.items() if k.startswith(_ENVIRONMENT))


@cache
def _processor() -> str:
    try:
        first, _, _ = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")
    except OSError:  # only Linux has it
        return platform.processor()
    lines = first.splitlines()
    return "\n".join(line for line in lines if line.startswith(_OF_A_PROCESSOR))


@cache
def own_source() -> str:
    """A hash of this package as it stands on disk: a version says little of a working copy."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def can_replay(ledger: LedgerRecord, saved: Position, own: str | None) -> bool:
    """Whether a run that goes on from ``saved`` under the fingerprint ``own`` draws what it drew.

    Not if a session in between drew anew, whose steps this one would not repeat.
    """
    if own is None:
        return False
    if saved.fingerprint is None and ledger.steps == 0:
        return True  # killed before anything was drawn
    renewed = any(steps >= saved.recorded for steps in ledger.renewed_at)
    return own == saved.fingerprint and not renewed
