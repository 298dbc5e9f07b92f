"""The fast previews, asked exactly what the certified accountant answers.

That one sets aside what rounding may have cost it and reads ε at the δ that is left. At δ = 1e-5
nobody sees it; for VaultGemma's 100 000 steps at δ = 1.1e-10 it adds 1.6 % to ε, more than a
preview may be off.

>>> float(previewed_epsilon(0.8, 0.01, 1000, 1e-5).round(2))
3.14
"""

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from workbench.privacy.pld import rounding
from workbench.privacy.surface import (
    DOMAIN,
    Preview,
    epsilon_surface,
    explain_noise_multiplier_surface,
)

_LEAST_PART = 0.7  # of δ left; with less, the certified value may come from the Rényi bound
_TOO_SMALL = "δ is so small that rounding decides the certified value"


def previewed_epsilon(
    noise_multiplier: ArrayLike, sample_rate: ArrayLike, steps: ArrayLike, delta: float
) -> np.ndarray:
    """ε of Poisson-subsampled DP-SGD; shapes and errors as in `privacy.epsilon_surface`.

    NaN also where rounding takes more than 0.3 of ``delta``.
    """
    left, enough = _left(steps, delta)
    return np.where(enough, epsilon_surface(noise_multiplier, sample_rate, steps, left), np.nan)


def previewed_sigma(target_epsilon: float, sample_rate: float, steps: int, delta: float) -> Preview:
    """The σ that spends ``target_epsilon``, or NaN with the reason."""
    left, enough = _left(steps, delta)
    solved = explain_noise_multiplier_surface(target_epsilon, sample_rate, steps, left)
    if enough.all():
        return solved
    nothing = np.full(solved.values.shape, np.nan)
    return replace(solved, values=nothing, reasons=np.full(nothing.shape, _TOO_SMALL, object))


def _left(steps: ArrayLike, delta: float) -> tuple[np.ndarray, np.ndarray]:
    """The δ that rounding leaves, and where that is enough; elsewhere all of δ."""
    left = delta - np.asarray(steps, dtype=float) * rounding([(1.0, 1.0, 1)])
    enough = left >= _LEAST_PART * delta
    within = np.maximum(left, min(delta, DOMAIN["delta"][0]))
    return np.where(enough, within, delta), enough
