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
_CACHED = 512  # features that are multiplied at once in float64; measured


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

    In float64 where there is any, whose rounding is nothing beside float32's.
    """
    half = (left.shape[1] + 1) // 2
    # The upper half of rows, and the lower one's right half, which the upper's mirrors.
    terms = [
        one.mul_(other) for one, other in zip(_grams(left, half), _grams(right, half), strict=True)
    ]
    terms[0][:, :, half:].mul_(2)
    signed, sizes = (
        torch.stack([part.sum((1, 2)) for part in kind]).sum(0)
        for kind in (terms, [part.abs() for part in terms])
    )
    return signed, sizes


def _grams(tensor: Tensor, half: int) -> tuple[Tensor, Tensor]:
    """xxᵀ of each record's x (batch, T, n): rows to ``half``, and from there the columns too."""
    batch, positions, features = tensor.shape
    dtype = widest(tensor.device)
    upper = tensor.new_zeros(batch, half, positions, dtype=dtype)
    lower = tensor.new_zeros(batch, positions - half, positions - half, dtype=dtype)
    # On a CPU a record at a time, and of it so much that its copy stays in the cache.
    records = 1 if tensor.device.type == "cpu" else batch
    width = _CACHED if tensor.device.type == "cpu" else features
    for start in range(0, batch, records or 1):
        some = slice(start, start + records)
        for begin in range(0, features, width):
            part = tensor[some, :, begin : begin + width].to(dtype)
            upper[some].baddbmm_(part[:, :half], part.mT)
            lower[some].baddbmm_(part[:, half:], part[:, half:].mT)
    return upper, lower


def _narrower_first(narrow: Tensor, broad: Tensor) -> Iterator[Tensor]:
    # All records are copied at once, which threads share better than one after the other.
    return map(_onednn, narrow.mT.contiguous().unbind(), broad.mT.unbind())


def _onednn(x: Tensor, weight: Tensor) -> Tensor:
    """The product with weightᵀ, by the operator through which torch.compile reaches oneDNN."""
    return torch.ops.mkldnn._linear_pointwise.default(x, weight, None, "none", [], "")
