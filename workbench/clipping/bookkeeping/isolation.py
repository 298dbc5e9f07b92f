"""Which rows a record's loss reaches: what is watched, and a backward pass that tries it out."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.linalg import vector_norm

from workbench.clipping.bookkeeping.contributions import Use
from workbench.clipping.bookkeeping.layer import Layer
from workbench.clipping.bookkeeping.rounding import widest

Uses = Iterable[tuple[nn.Parameter, Use]]
# A layer's name, its input's number of dimensions, and whether the input has a single row.
Signature = tuple[str, int, bool]
# The same with the number of rows a record.
Call = tuple[Signature, int]

NOT_RECORDS = (
    "its rows are not one record's each, or a record's loss depends on other records",
    "have the model keep records apart, in its first dimension",
)
_TINY = 1e-30  # what is smaller may vanish once it is weighted


def signature_of(layer: Layer, x: Tensor) -> Signature:
    """What tells calls of a layer on different kinds of input apart."""
    return layer.name, x.ndim, len(x) == 1


@dataclass(eq=False)
class Tap:
    """A watched tensor (rows, …); ``uses`` makes uses of its gradient (batch, rows/batch, …).

    Without ``uses`` it only shows whether records stay apart, in whatever dimension they lie.
    """

    layer: Layer
    signature: Signature
    shape: torch.Size
    uses: Callable[[Tensor], Uses] | None
    can_be_shared: bool = False
    only_looks: bool = False
    is_copy: bool = False  # of a parameter, one for each row
    node: Node | None = None  # of the watched tensor in autograd's graph
    source: Node | None = None  # of what it was made from

    @property
    def rows(self) -> int:
        """The length of its first dimension."""
        return self.shape[0]

    @property
    def positions(self) -> int:
        """The length of its second dimension, if it has one before the features."""
        return self.shape[1] if len(self.shape) > 2 else 1

    def call(self, batch: int) -> Call:
        """What tells calls of one kind from others; refused where rows and records do not fit."""
        if self.rows % batch and not self.only_looks:
            raise self.layer.refusal(*NOT_RECORDS)
        return self.signature, self.rows // batch

    def sums(self, gradient: Tensor, batch: int) -> list[Tensor]:
        """`two_sums` for each dimension in which the records may lie."""
        first = [] if self.rows % batch else [0]
        others = [d for d, size in enumerate(self.shape) if d and size == batch]
        dimensions = [*first, *others] if self.only_looks else [0]
        return [two_sums(gradient.movedim(d, 0), batch) for d in dimensions]


def has_upstream(tap: Tap, others: Iterable[Tap]) -> bool:
    """Whether this tap's tensor was made from what one of the others watches.

    There it shows if records mix, here or further on: a loss would reach rows of other records.
    """
    nodes = {other.node for other in others if other.node is not None}
    left, seen = [tap.source], set[Node]()
    while left:
        node = left.pop()
        if node in nodes:
            return True
        if node is not None and node not in seen:
            seen.add(node)
            left += [following for following, _ in node.next_functions]
    return False


@dataclass(frozen=True)
class Trial:
    """What arrived, in order, from a backward pass with each loss multiplied by its own weight.

    Where rows are records, a record's rows arrive multiplied by its weight, and else they do not.
    Weights are powers of two, so that rounding is the same with and without them. Of what arrives
    two sums a record are kept, which a stranger's share changes.
    """

    weights: Tensor
    arrivals: list[list[Tensor]]

    def agrees(self, plain: list[Tensor], weighted: list[Tensor]) -> bool:
        """Whether ``weighted`` sums are ``plain`` ones times the weights, in some dimension."""
        pairs = list(zip(plain, weighted, strict=True))
        return not pairs or any(self._agree(one, other) for one, other in pairs)

    def _agree(self, plain: Tensor, weighted: Tensor) -> bool:
        expected = self.weights * plain
        if not (weighted.isfinite().all() and expected.isfinite().all()):
            return True  # infinity reaches everywhere; the norms will tell
        sizes, off = expected[1], (weighted - expected).abs()
        return bool((off <= 1e-5 * sizes + _TINY).all())


def two_sums(gradient: Tensor, batch: int) -> Tensor:
    """The sum of a record's numbers and of their sizes, (2, batch), float64 where there is any."""
    dtype = widest(gradient.device)
    sums = gradient.new_empty(2, batch, dtype=dtype)
    # One by one, because in float64 all records together would take twice the gradient's memory.
    for place, record in enumerate(gradient.unflatten(0, (batch, -1))):
        sums[0, place] = record.sum(dtype=dtype)
        sums[1, place] = vector_norm(record, 1, dtype=dtype)
    return sums


def weighted_losses(losses: Tensor, *, seed: int) -> tuple[Tensor, Tensor]:
    """Powers of two (batch,), and the sum of the losses multiplied by them."""
    generator = torch.Generator().manual_seed(seed)
    powers = torch.randperm(len(losses), generator=generator) % 16 - 8
    weights = torch.exp2(powers.to(widest(losses.device))).to(losses.device)
    return weights, (losses * weights.to(losses.dtype)).sum()


def first_tensor(values: object) -> Iterator[Tensor]:
    """A tensor of floats, or the one that a tuple or list begins with."""
    first = values[0] if isinstance(values, tuple | list) and values else values
    if isinstance(first, Tensor) and first.is_floating_point() and first.ndim:
        yield first
