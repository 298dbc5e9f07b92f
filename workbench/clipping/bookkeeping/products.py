"""The book-keeping engine's matrix products, by the library that is quickest at them.

On a CPU torch multiplies float32 matrices with MKL, which does not use the widest instructions of
every maker's processors. oneDNN, which torch brings along for convolutions, does: there these
products take about half the time, at the same precision (`benchmarks/engines.py` has both). The
choice depends on shapes alone, so that a repeated run repeats every bit.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from workbench.clipping.bookkeeping.rounding import widest

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


def signed_and_sizes(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """⟨left leftᵀ, right rightᵀ⟩ of each record, and the same of the terms' sizes, (batch,).

    In float64 where there is any, whose rounding is nothing beside float32's. It takes twice the
    time, of which half is spared: both factors are symmetric.
    """
    dtype = widest(left.device)
    left, right = left.to(dtype), right.to(dtype)
    positions = left.shape[1]
    signed = sizes = left.new_zeros(len(left))
    step = max(positions // 4, 16)
    for start in range(0, positions, step):
        # These positions with each other, and with all later ones, which count twice.
        terms = _gram_strip(left, start, step).mul_(_gram_strip(right, start, step))
        terms[:, :, step:].mul_(2)
        signed = signed + terms.sum((1, 2))
        sizes = sizes + terms.abs_().sum((1, 2))
    return signed, sizes


def _gram_strip(tensor: Tensor, start: int, step: int) -> Tensor:
    return tensor[:, start : start + step] @ tensor[:, start:].mT


def _narrower_first(narrow: Tensor, broad: Tensor) -> Iterator[Tensor]:
    # All records are copied at once, which threads share better than one after the other.
    return map(_onednn, narrow.mT.contiguous().unbind(), broad.mT.unbind())


def _onednn(x: Tensor, weight: Tensor) -> Tensor:
    """The product with weightᵀ, by the operator through which torch.compile reaches oneDNN."""
    return torch.ops.mkldnn._linear_pointwise.default(x, weight, None, "none", [], "")
