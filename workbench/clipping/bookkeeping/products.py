"""The book-keeping engine's matrix products, by the library that is quickest at them.

On a CPU torch multiplies float32 matrices with MKL, which does not use the widest instructions of
every maker's processors. oneDNN, which torch brings along for convolutions, does: there these
products take about half the time, at the same precision (`benchmarks/engines.py` has both). The
choice depends on shapes alone, so that a repeated run repeats every bit.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

# Multiplications from which oneDNN is ahead although it takes one record a call; measured, and
# around the crossing it matters little.
LEAST_WORTH_A_CALL = 2**22


def has_onednn(tensor: Tensor) -> bool:
    """Whether oneDNN multiplies matrices like this one."""
    return (
        tensor.device.type == "cpu"
        and tensor.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def outer_products(left: Tensor, right: Tensor) -> Tensor | Iterator[Tensor]:
    """leftᵢᵀ rightᵢ of (batch, T, m) and (batch, T, n): (batch, m, n), or one (m, n) by one.

    One by one they may be transposed views: oneDNN copies its first factor, and is quickest by
    about a third if that is the narrower of the two.
    """
    if left[0].numel() * right.shape[2] < LEAST_WORTH_A_CALL or not has_onednn(left):
        return left.mT @ right
    if left.shape[2] > right.shape[2]:
        return (product.mT for product in _narrower_first(right, left))
    return _narrower_first(left, right)


def outer_product(left: Tensor, right: Tensor) -> Tensor:
    """leftᵀ right of (T, m) and (T, n)."""
    (product,) = outer_products(left[None], right[None])
    return product.contiguous()


def gram(tensor: Tensor) -> Tensor:
    """xᵢxᵢᵀ of each record's x, (batch, T, T)."""
    _, positions, features = tensor.shape
    if positions * positions * features >= LEAST_WORTH_A_CALL and has_onednn(tensor):
        return torch.stack([_onednn(one, one) for one in tensor])
    return tensor @ tensor.mT


def _narrower_first(narrow: Tensor, broad: Tensor) -> Iterator[Tensor]:
    # All records are copied at once, which threads share better than one after the other.
    return map(_onednn, narrow.mT.contiguous().unbind(), broad.mT.unbind())


def _onednn(x: Tensor, weight: Tensor) -> Tensor:
    """The product with weightᵀ, by the operator through which torch.compile reaches oneDNN."""
    return torch.ops.mkldnn._linear_pointwise.default(x, weight, None, "none", [], "")
