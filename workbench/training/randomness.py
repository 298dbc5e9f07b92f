"""Where a run's chance comes from: initial weights, batches and noise, each from its own generator.

Seeded, the weights follow from ``config.seed``, batches and noise from all that a run starts from:
configuration, training records and weights. Runs that differ in anything draw independently, as
composition assumes of them; with the same noise under two learning rates, the difference of two
gradients would hold none of it. Whoever knows all of that can redraw the noise and subtract it: a
seeded run is for teaching and research, its seed as secret as its records. Secure, batches and
noise start from 256 bits of the operating system that are written nowhere, on a GPU from 63; the
generators themselves (PCG64, Mersenne Twister, Philox) are fast, not cryptographic.
"""

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workbench.config import RunConfig

# Of a torch generator on the CPU: where the Mersenne Twister's words begin, and how many they are.
_WORDS_AT, _WORDS = 24, 624


@dataclass(frozen=True)
class Randomness:
    """``sampling`` of numpy, ``noise`` on the device of the weights.

    ``root`` is a hash of all that the run starts from, as confidential as its records.
    """

    sampling: np.random.Generator
    noise: torch.Generator
    root: str
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


def initial_weights(seed: int) -> torch.Generator:
    """The generator of a new model's weights, which are nobody's secret."""
    words = np.random.SeedSequence(seed).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(words[0] >> np.uint64(1)))


def randomness(
    config: RunConfig, device: torch.device, starts_from: Iterable[Tensor] = ()
) -> Randomness:
    """The generators of a new run, or of a secure one that goes on.

    ``starts_from`` are training records and weights. In several processes, secure generators
    differ: what they draw has to be agreed on.
    """
    digest = hashlib.sha256(config.model_dump_json().encode())
    for tensor in starts_from:
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    root = digest.hexdigest()
    secure = config.randomness == "secure"
    if secure:
        seeds = [np.random.SeedSequence(secrets.randbits(256)) for _ in range(2)]
    else:
        seeds = _seeds(root, "run")
    return Randomness(np.random.default_rng(seeds[0]), _noise(device, seeds[1]), root, secure)


def apart(chance: Randomness, purpose: str) -> Randomness:
    """``chance`` with batches and noise from streams that nothing but ``purpose`` draws from.

    Releases compose only if the batches and noise of each are independent of the others'. A secure
    run's are already.
    """
    if chance.secure:
        return chance
    sampling, noise = _seeds(chance.root, purpose)
    return replace(
        chance,
        sampling=np.random.default_rng(sampling),
        noise=_noise(chance.noise.device, noise),
    )


def _seeds(root: str, purpose: str) -> list[np.random.SeedSequence]:
    """For batches and for noise: independent of those of any other root or purpose."""
    digest = hashlib.sha256(f"{purpose}\0{root}".encode()).digest()
    return np.random.SeedSequence(int.from_bytes(digest, "big")).spawn(2)


def _noise(device: torch.device, seed: np.random.SeedSequence) -> torch.Generator:
    """A generator on ``device`` that starts from all of the seed.

    On a CPU `manual_seed` would keep 32 bits of it, few enough to try them all.
    """
    generator = torch.Generator(device)
    generator.manual_seed(int(seed.generate_state(1, np.uint64)[0] >> np.uint64(1)))
    if device.type == "cpu":
        state = generator.get_state()
        words = state[_WORDS_AT : _WORDS_AT + 8 * _WORDS].view(torch.int64)
        words.copy_(torch.from_numpy(seed.generate_state(_WORDS).astype(np.int64)))
        generator.set_state(state)
    return generator
