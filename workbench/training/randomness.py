"""Where a run's chance comes from, and why no two releases share it.

Composition takes the noise of every release to be independent of the others'. The same noise on two
sums that differ at all lets out their difference, which no ε covers. So a stream may be drawn twice
only where every bit of the release comes out alike: that is one release, however often it is made.
What decides every bit is hashed (`workbench.training.replay.fingerprint`), and a seeded stream
follows from that hash. Where nothing decides every bit, as on a GPU, or where a run goes on under
another hash than the one it drew under, the operating system starts the stream: 256 bits of it, on
a GPU 63.

What enters each stream:

=================================== ============================================================
stream                              follows from
=================================== ============================================================
split of the corpus                 ``seed``, a record's own text; no secret
initial weights, order of a public  ``seed``; no secret
warm-up
which records become canaries       ``seed``, ``canaries.seed``; no secret
the coins of canaries               ``seed``, ``canaries.seed``; the operating system if secure;
                                    a run that goes on reads them from its folder
batches and noise of a run,         fingerprint, "run"; the operating system if secure or not on
seeded                              a CPU. The fingerprint holds configuration, training records,
                                    model, machine, threads, versions, in every process of a run
the count's noise under adaptive    the run's noise stream, after the gradient's noise
clipping
a run that goes on: same            the generators' saved state: lost steps are drawn again and
fingerprint, nobody drew since      are the same releases
a run that goes on otherwise        the operating system; lost steps stay counted
a run killed before its first step  as if new: nothing was drawn
a calibration by noisy counts       fingerprint, source, quantile; else the operating system
a sweep's cell                      that of its run: cells differ in their configuration
several processes                   the first one's draws, which the others take over; their
                                    number and every fingerprint enter a seeded stream
a copy of a run folder              as the folder: the same release again, or the operating system
the twin without privacy            its own fingerprint, for batches; it has no noise
a loop of one's own                 the operating system, or with a seed: seed, sizes, σ, C, weights
=================================== ============================================================

Whoever knows all that a seeded stream follows from can redraw the noise and subtract it: a seeded
run is for teaching and research, its seed as secret as its records. The same holds of seeded coins:
an audit is a certificate only if its scores were made without them, and so is one of a run whose
seed was chosen before any result was seen. Runs that differ in ε alone share coins, so that they
can be compared; certificates of several seeds are independent. The generators themselves
(PCG64, Mersenne Twister, Philox) are fast, not cryptographic.
"""

import hashlib
import random
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
    """``sampling`` of numpy, ``noise`` where the device of the weights can draw it.

    ``root`` is a hash of all that the run starts from, as confidential as its records.
    ``fingerprint`` is what a state of the generators may be restored under, None for never.
    """

    sampling: np.random.Generator
    noise: torch.Generator
    root: str
    secure: bool
    fingerprint: str | None = None

    def state(self) -> tuple[dict[str, Any], torch.Tensor] | None:
        """Where sampling (JSON) and noise (bytes) stand; None if that must not be written down."""
        if self.fingerprint is None:
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
    """New generators from the operating system, for a run that has not drawn anything.

    ``starts_from`` are training records and weights, which the root holds. In several processes
    the generators differ: what they draw has to be agreed on.
    """
    root = hashlib.sha256(f"{config.model_dump_json()}\0{digest_of(starts_from)}".encode())
    secure = config.randomness == "secure"
    return Randomness(*generators(device), root.hexdigest(), secure)


def coins(config: RunConfig) -> np.ndarray:
    """Which canaries are in, (count,) of bool: fair coins that nothing else depends on.

    Batches and noise do not share their stream: they follow from a hash of all that is trained on,
    or from the operating system.
    """
    follows_from = None if config.randomness == "secure" else _of_canaries("coins", config)
    return _one_stream(follows_from).integers(2, size=config.canaries.count).astype(bool)


def canary_choice(config: RunConfig) -> np.random.Generator:
    """What decides which records become canaries and their random tokens, which are no secret."""
    return _one_stream(_of_canaries("records", config))


def _of_canaries(purpose: str, config: RunConfig) -> str:
    return f"canaries, {purpose}\0{config.seed}\0{config.canaries.seed}"


def _one_stream(follows_from: str | None) -> np.random.Generator:
    if follows_from is None:
        return np.random.default_rng(np.random.SeedSequence(secrets.randbits(256)))
    return np.random.default_rng(_seeds(follows_from)[0])


def digest_of(tensors: Iterable[Tensor]) -> str:
    """A hash of every number, type and shape."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        plain = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(plain.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def generators(
    device: torch.device, follows_from: str | None = None
) -> tuple[np.random.Generator, torch.Generator]:
    """For batches, and for noise on ``device``: from the operating system, or a text and no more.

    Those of two texts are independent, and so are the two of one.
    """
    if follows_from is None:  # 256 bits each, which are written nowhere
        batches, noise = (np.random.SeedSequence(secrets.randbits(256)) for _ in range(2))
    else:
        batches, noise = _seeds(follows_from)
    return np.random.default_rng(batches), _noise(device, noise)


def seeded(chance: Randomness, fingerprint: str | None, purpose: str = "run") -> Randomness:
    """``chance`` with batches and noise that follow from ``fingerprint`` and ``purpose`` alone.

    Without a fingerprint the operating system starts them, as it did.
    """
    if fingerprint is None:
        return renewed(chance, None)
    batches, noise = generators(chance.noise.device, f"{purpose}\0{fingerprint}")
    return replace(chance, sampling=batches, noise=noise, fingerprint=fingerprint)


def renewed(chance: Randomness, fingerprint: str | None) -> Randomness:
    """``chance`` with batches and noise that nobody has drawn, from the operating system.

    ``fingerprint`` is what decides the steps from here on: a later session may repeat them from a
    saved state, nobody can from anything else.
    """
    batches, noise = generators(chance.noise.device)
    return replace(chance, sampling=batches, noise=noise, fingerprint=fingerprint)


def _seeds(follows_from: str) -> list[np.random.SeedSequence]:
    """For batches and for noise: independent of those of any other text."""
    digest = hashlib.sha256(follows_from.encode()).digest()
    return np.random.SeedSequence(int.from_bytes(digest, "big")).spawn(2)


def _noise(device: torch.device, seed: np.random.SeedSequence) -> torch.Generator:
    """A generator on ``device`` that starts from all of the seed; on the CPU for Apple's GPU.

    On a CPU `manual_seed` would keep 32 bits of it, few enough to try them all. Apple's GPU has no
    float64 to draw noise in.
    """
    generator = torch.Generator("cpu" if device.type == "mps" else device)
    generator.manual_seed(int(seed.generate_state(1, np.uint64)[0] >> np.uint64(1)))
    if generator.device.type == "cpu":
        state = generator.get_state()
        words = state[_WORDS_AT : _WORDS_AT + 8 * _WORDS].view(torch.int64)
        words.copy_(torch.from_numpy(seed.generate_state(_WORDS).astype(np.int64)))
        generator.set_state(state)
    return generator


def global_chance() -> str:
    """A hash of where the generators of torch, numpy and Python stand that everybody draws from.

    A forward pass that moves one of them depends on more than a fingerprint holds.
    """
    legacy = np.random.get_state()
    states = (torch.get_rng_state().numpy().tobytes(), repr(legacy), repr(random.getstate()))
    return hashlib.sha256(repr(states).encode()).hexdigest()
