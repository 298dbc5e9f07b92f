"""How loud the noise of one DP-SGD step is, by three conventions that must not be mixed up.

All take floats and give a float, or take arrays that broadcast and give an array.

>>> noise_batch_ratio(1.0, 1024)
0.0009765625
>>> actual, article = update_noise_to_signal(1, 1, 512, 140_000, 0.5), article_nsr(1, 1, 512, 0.5)
>>> f"{actual / article:.3f} = √(d/B) = {(140_000 / 512) ** 0.5:.3f}"
'16.536 = √(d/B) = 16.536'
"""

from typing import Any

import numpy as np

from workbench.errors import InputError

Number = float | np.ndarray


def noise_batch_ratio(noise_multiplier: Number, batch_size: Number) -> Any:
    """σ/B: the standard deviation of the noise on the mean clipped gradient when C = 1.

    McKenna et al. 2025 (arXiv 2501.18914), the variable of their scaling laws.
    """
    _require_positive(noise_multiplier=noise_multiplier, batch_size=batch_size)
    return noise_multiplier / batch_size


def update_noise_to_signal(
    noise_multiplier: Number,
    max_grad_norm: Number,
    batch_size: Number,
    n_params: Number,
    mean_gradient_norm: Number,
) -> Any:
    """σC√d/(B‖ḡ‖): length of the step's noise vector over length of the mean gradient.

    ``mean_gradient_norm`` is the norm of the *mean* clipped gradient, not the mean of the records'
    norms. Doubling the batch at fixed σ halves the ratio.
    """
    _require_positive(
        noise_multiplier=noise_multiplier,
        max_grad_norm=max_grad_norm,
        batch_size=batch_size,
        n_params=n_params,
        mean_gradient_norm=mean_gradient_norm,
    )
    noise = noise_multiplier * max_grad_norm * n_params**0.5
    return noise / (batch_size * mean_gradient_norm)


def article_nsr(
    noise_multiplier: Number,
    max_grad_norm: Number,
    batch_size: Number,
    mean_gradient_norm: Number,
) -> Any:
    """σC/(√B ḡ): the article's noise-to-signal ratio, a convention of its own.

    It has no dimension d and a square root of B where the update has B, so doubling the batch
    divides it by √2 while the update's noise is halved (`update_noise_to_signal`).
    """
    _require_positive(
        noise_multiplier=noise_multiplier,
        max_grad_norm=max_grad_norm,
        batch_size=batch_size,
        mean_gradient_norm=mean_gradient_norm,
    )
    return noise_multiplier * max_grad_norm / (batch_size**0.5 * mean_gradient_norm)


def _require_positive(**values: Number) -> None:
    for name, value in values.items():
        try:
            array = np.asarray(value, dtype=float)
        except (TypeError, ValueError, OverflowError):
            raise InputError(
                f"{name} is {value!r} but must hold numbers; give one or many."
            ) from None
        if not np.all(np.isfinite(array) & (array > 0)):
            raise InputError(
                f"{name} is {array.min():g} but must be a finite number above 0; enter one."
                if array.size == 1 or np.isfinite(array).all()
                else f"{name} has a value that is not finite; leave it out."
            )
