"""Gaussian numbers as far out as a Gaussian goes: drawn in float64, then rounded.

A generator makes a normal number from a uniform one, and the smallest uniform number says how far
out it can come. Torch's float32 normals on a CPU are made from 24 bits and end at
√(2·24·ln 2) = 5.77 deviations; a true Gaussian passes that once in 10⁸ draws, a step of a small
model every thousandth time. Whoever sees a coordinate further from one of two sums than that knows
that it came from the other. From 53 bits numbers end at 8.57 deviations, which a true Gaussian
passes once in 10¹⁷ draws.

What this does not do: released numbers still lie on the grid of floating point, and which of them
can occur depends on the sum in its last bits (Mironov 2012). See ``docs/pitfalls.md``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from workbench.errors import InputError

_PIECE = 2**20  # numbers in float64 at a time, so that a model is never held in it whole


def normal(
    shape: Sequence[int],
    *,
    deviation: float,
    dtype: torch.dtype,
    device: torch.device,
    generator: torch.Generator,
) -> Tensor:
    """Independent draws of 𝒩(0, deviation²) of ``shape``, on ``device``.

    They are made where the ``generator`` lives. Raises `InputError` if that has no float64.
    """
    if generator.device.type == "mps":
        raise InputError(
            f"The noise generator lives on {generator.device}, which has no float64; give a "
            "torch.Generator() of the CPU, whose noise is moved there."
        )
    drawn = torch.empty(tuple(shape), dtype=dtype, device=device)
    flat = drawn.view(-1)
    wide = torch.empty(min(_PIECE, len(flat)), dtype=torch.float64, device=generator.device)
    for piece in flat.split(_PIECE):
        numbers = wide[: len(piece)].normal_(std=deviation, generator=generator)
        piece.copy_(numbers.to(dtype))
    return drawn
