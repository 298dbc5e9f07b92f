"""Shows the operations of a model other data than it was called with, for the isolation probe.

Torch hands each of its functions to a mode before it is called. Tensors that the model holds and
those that an operation gave are known; all others come from outside, and are the records' data.
"""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

Way = Literal["first", "last", "rows"]
# How far the same sums may lie apart, relative to the largest, where a kernel or the tokens of an
# expert are others; by the narrowest type that an operation gave.
_ROUNDING = {torch.float64: 1e-10, torch.float32: 1e-4}
_ROUNDING_OF_HALVES = 3e-2
# These take numbers in from outside.
_MAKERS = {torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor}


class Exchange(TorchFunctionMode):
    """Shows operations the data with rows taken from ``sources``, (batch,), None for their own.

    Rows lie along the dimension that is as long as the batch: the ``first`` of several, the
    ``last``, or, for ``rows``, only where it is the tensor's first.
    """

    def __init__(
        self, model: nn.Module, batch: int, sources: Tensor | None = None, way: Way = "first"
    ) -> None:
        super().__init__()
        self.batch, self.sources, self.way = batch, sources, way
        # What tensors there are: with records, with several dimensions where they may be, with
        # records not along the first, along the first, there with more than a number a record,
        # and without any.
        self.tensors = self.rows = 0
        self.ambiguous = self.elsewhere = self.rows_of_data = self.without_records = False
        self.rounding = _ROUNDING[torch.float64]
        self._made = WeakIdKeyDictionary()
        for tensor in _held_by(model):
            self._made[tensor] = None
        self._given: dict[int, tuple[Tensor, Tensor]] = {}  # the first is kept for its id

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        args, kwargs = tree_map_only(Tensor, self._known, (args, kwargs or {}))
        output = func(*args, **kwargs)
        if func in _MAKERS:
            return tree_map_only(Tensor, self._known, output)
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor):
                self._made[tensor] = None
                if tensor.is_floating_point():
                    rounding = _ROUNDING.get(tensor.dtype, _ROUNDING_OF_HALVES)
                    self.rounding = max(self.rounding, rounding)
        return output

    def _known(self, tensor: Tensor) -> Tensor:
        """The tensor itself if it was made here or is the model's, else what stands for it."""
        if tensor in self._made or not _is_plain(tensor):
            return tensor
        if id(tensor) not in self._given:
            self._given[id(tensor)] = tensor, self._exchanged(tensor)
        return self._given[id(tensor)][1]

    def _exchanged(self, tensor: Tensor) -> Tensor:
        dimensions = [d for d, length in enumerate(tensor.shape) if length == self.batch]
        self._note(tensor, dimensions)
        if self.way == "rows":
            dimensions = dimensions[:1] if dimensions[:1] == [0] else []
        given = tensor
        if dimensions and self.sources is not None:
            chosen = dimensions[-1 if self.way == "last" else 0]
            given = tensor.index_select(chosen, self.sources.to(tensor.device))
        self._made[given] = None
        return given

    def _note(self, tensor: Tensor, dimensions: list[int]) -> None:
        self.tensors += bool(dimensions)
        self.ambiguous |= len(dimensions) > 1
        if not dimensions:
            self.without_records |= tensor.numel() > 1
        elif dimensions[0] == 0:
            self.rows += 1
            self.rows_of_data |= tensor.ndim > 1 or tensor.is_floating_point()
        else:
            self.elsewhere = True


class Entries(TorchFunctionMode):
    """Collects as ``entries`` the first numbers, made of the data, that can have a gradient."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.entries: list[Tensor] = []
        self._without_data = WeakIdKeyDictionary()
        for tensor in _held_by(model):
            self._without_data[tensor] = None
        self._given: dict[int, tuple[Tensor, Tensor]] = {}
        self._made = WeakIdKeyDictionary()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        asked = args, kwargs or {}
        args, kwargs = tree_map_only(Tensor, self._entering, asked)
        used = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        data = func in _MAKERS or any(t not in self._without_data for t in used)
        cut = func in _MAKERS or any(
            t not in self._without_data and not t.requires_grad for t in used
        )
        try:
            output = func(*args, **kwargs)
        except RuntimeError:  # an argument that cannot have a gradient, such as class weights
            output, cut = func(*asked[0], **asked[1]), True
        name = getattr(func, "__name__", "")
        if name == "__setitem__" or (name.endswith("_") and not name.endswith("__")):
            if data and used:
                self._without_data.pop(used[0], None)
            return output
        return tree_map_only(Tensor, lambda t: self._noted(t, data=data, cut=cut), output)

    def _entering(self, tensor: Tensor) -> Tensor:
        known = tensor in self._without_data or tensor in self._made
        if known or not _is_plain(tensor) or not tensor.is_floating_point():
            return tensor
        if id(tensor) not in self._given:
            self._given[id(tensor)] = tensor, self._entry(tensor)
        return self._given[id(tensor)][1]

    def _noted(self, tensor: Tensor, *, data: bool, cut: bool) -> Tensor:
        if not data:
            self._without_data[tensor] = None
        elif cut and tensor.is_floating_point() and _is_plain(tensor):
            return self._entry(tensor)
        else:
            self._made[tensor] = None
        return tensor

    def _entry(self, tensor: Tensor) -> Tensor:
        if tensor.numel() == 1:  # a temperature, say; of a loss it is one number of many
            self._made[tensor] = None
            return tensor
        entry = tensor if tensor.requires_grad else tensor.detach().requires_grad_()
        self.entries.append(entry)
        given = entry.clone()  # which may be changed in place
        self._made[given] = None
        return given


def _held_by(model: nn.Module) -> Iterator[Tensor]:
    """Parameters, buffers and tables of the model; what hangs on the outermost may be the data."""
    for module in model.modules():
        tables = () if module is model else vars(module).values()
        held = (*module._parameters.values(), *module._buffers.values(), *tables)
        yield from (value for value in held if isinstance(value, Tensor))


def _is_plain(tensor: Tensor) -> bool:
    kinds = (Tensor, nn.Parameter, FakeTensor)  # the last in predictions of memory
    plain = type(tensor) in kinds and tensor.layout == torch.strided
    return plain and not is_functorch_wrapped_tensor(tensor) and not tensor.is_quantized
