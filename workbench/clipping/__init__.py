"""Sums of clipped per-record gradients, for any training loop.

Names load when first used, so that importing this package does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.clipping.clipped_sum import ClippedSum
    from workbench.clipping.gradient_sum import ENGINES, clipped_gradient_sum

_HOMES = {
    "ENGINES": "gradient_sum",
    "ClippedSum": "clipped_sum",
    "clipped_gradient_sum": "gradient_sum",
}

__all__ = ["ENGINES", "ClippedSum", "clipped_gradient_sum"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
