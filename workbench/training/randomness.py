"""Where a run's chance comes from: initial weights, batches and noise, each from its own generator.

Seeded, the weights follow from ``config.seed`` alone, batches and noise from all of the
configuration but ``runtime``: runs that differ in anything else draw independently, as composition
assumes of them. With the same noise under two learning rates, the difference of two gradients would
hold none of it. Whoever knows the configuration can redraw the noise and subtract it: a seeded run
is for teaching and research, its seed as secret as its records. Secure, batches and noise start
from 256 and 63 bits of the operating system that are written nowhere; the generators themselves
(PCG64 and torch's) are fast, not cryptographic.
"""

import hashlib
import secrets
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from workbench.config import RunConfig


@dataclass(frozen=True)
class Randomness:
    """``initial`` on the CPU, ``sampling`` of numpy, ``noise`` on the device of the weights."""

    initial: torch.Generator
    sampling: np.random.Generator
    noise: torch.Generator
    secure: bool

    def state(self) -> tuple[dict[str, Any], torch.Tensor] | None:
        """Where sampling (JSON) and noise (bytes) stand; None if that must not be written down."""
        if self.secure:
            return None
        return dict(self.sampling.bit_generator.state), self.noise.get_state()

    def restore(self, sampling: dict[str, Any], noise: torch.Tensor) -> None:
        """Go on from a state that `state` gave."""
        self.sampling.bit_generator.state = sampling
        self.noise.set_state(noise)


def randomness(config: RunConfig, device: torch.device) -> Randomness:
    """The generators of a new run, or of a secure one that goes on.

    In several processes, secure generators differ: what they draw has to be agreed on.
    """
    secure = config.randomness == "secure"
    sampling, noise = _streams(config, "run")
    if secure:
        sampling, noise = (np.random.SeedSequence(secrets.randbits(256)) for _ in range(2))
    return Randomness(
        initial=torch.Generator().manual_seed(_number(np.random.SeedSequence(config.seed))),
        sampling=np.random.default_rng(sampling),
        noise=torch.Generator(device).manual_seed(_number(noise)),
        secure=secure,
    )


def apart(chance: Randomness, config: RunConfig, purpose: str) -> Randomness:
    """``chance`` with batches and noise from streams that nothing but ``purpose`` draws from.

    Releases compose only if the batches and noise of each are independent of the others'. A secure
    run's are already.
    """
    if chance.secure:
        return chance
    sampling, noise = _streams(config, purpose)
    return replace(
        chance,
        sampling=np.random.default_rng(sampling),
        noise=torch.Generator(chance.noise.device).manual_seed(_number(noise)),
    )


def _streams(config: RunConfig, purpose: str) -> list[np.random.SeedSequence]:
    """For batches and for noise: independent of those of any other configuration or purpose."""
    asked = config.model_dump_json(exclude={"runtime"})
    digest = hashlib.sha256(f"{purpose}\0{asked}".encode()).digest()
    return np.random.SeedSequence(int.from_bytes(digest, "big")).spawn(2)


def _number(sequence: np.random.SeedSequence) -> int:
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))
