"""Whether a run that goes on can draw its lost steps again, or has to pay for others.

A seeded run whose weights were lost takes the same steps once more: the same batches, noise and
sums are one release, however often they are made. The same noise on two sums that differ at all is
not: it lets out their difference, which no ε covers. So unless every bit can be expected to come
out alike, a run goes on with new chance, and what was lost stays counted.
"""

import hashlib
import platform
from importlib.metadata import version

import torch

from workbench.config import RunConfig
from workbench.runs.ledger import LedgerRecord
from workbench.training.checkpoint import Position
from workbench.training.memory.predict import physical_batch_size
from workbench.training.prepare import Prepared

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


def fingerprint(config: RunConfig, prepared: Prepared) -> str | None:
    """A hash of all that decides a step to the last bit; None where nothing does.

    Secure chance cannot be drawn again, and other devices than the CPU may add in any order. The
    hash is as confidential as the records.
    """
    if prepared.randomness.secure or prepared.device.type != "cpu":
        return None
    surroundings = [
        prepared.randomness.root,
        *(version(name) for name in _SOFTWARE),
        platform.node(),
        platform.machine(),
        torch.backends.cpu.get_cpu_capability(),
        str(torch.get_num_threads()),
        str(physical_batch_size(config, prepared.model)),  # "auto" asks how much memory there is
    ]
    return hashlib.sha256("\0".join(surroundings).encode()).hexdigest()


def repeats(ledger: LedgerRecord, saved: Position, own: str | None) -> bool:
    """Whether a run that goes on from ``saved`` under the fingerprint ``own`` draws what it drew.

    Not if a session in between drew anew, whose steps this one would not repeat.
    """
    if own is None:
        return False
    if saved.fingerprint is None and ledger.steps == 0:
        return True  # killed before anything was drawn
    renewed = any(steps >= saved.recorded for steps in ledger.renewed_at)
    return own == saved.fingerprint and not renewed
