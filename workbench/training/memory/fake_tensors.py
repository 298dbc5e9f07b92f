"""Runs a program on tensors that have shapes and no numbers, and counts the memory it would take.

A step of training is the same operations whatever the numbers are, so its memory can be known
without having it: torch's fake tensors carry shape, type and device through every operation, also
through backward passes and the engines' own code, and here every storage they stand for is counted
from its making to its end. What an operation takes for itself while it works is not seen, but for
copies in another precision.

>>> with DryRun() as run:
...     product = torch.ones(100_000, 100_000) @ torch.ones(100_000, 1)
>>> run.most
40000800000
"""

from collections import Counter
from functools import reduce
from typing import Any, Self
from weakref import finalize

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_ATEN = torch.ops.aten
_SUMS = {_ATEN.sum.default, _ATEN.sum.dim_IntList, _ATEN.linalg_vector_norm.default}


class DryRun(TorchDispatchMode):
    """While entered, tensors have no numbers and take no memory, but their bytes are counted.

    What is made counts as ``part``, and within a backward pass as ``backward_part``, where one is
    named. ``most`` is the most bytes there were at once, ``parts`` how many of each part then, and
    ``moment`` the part that was being made.

    A program that asks for a number is given one with which it goes on as it mostly would: True
    for a truth, 1 for a number, and all different where it looks for equals.
    """

    def __init__(self) -> None:
        super().__init__()
        self.part, self.backward_part = "", ""
        self.most, self.parts, self.moment = 0, Counter[str](), ""
        self._live, self._total = Counter[str](), 0
        self._known: dict[int, tuple[str, int]] = {}
        self._fake = _Fake(allow_non_fake_inputs=True)
        self._modes = (self._fake, _Copies())

    def __enter__(self) -> Self:
        for mode in self._modes:
            mode.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        for mode in reversed(self._modes):
            mode.__exit__(*raised)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        output = _answer(func, args, kwargs or {})
        self._fake.forget()
        if self.backward_part and torch._C._current_graph_task_id() != -1:
            self.part = self.backward_part
        for value in tree_leaves(output):
            if isinstance(value, Tensor) and value.device.type != "meta":
                self._count(value.untyped_storage())
        needed = self._total + _converted(func, args, output)
        if needed > self.most:
            self.most, self.parts, self.moment = needed, self._live.copy(), self.part
            self.parts[self.part] += needed - self._total
        return output

    def _count(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        if address not in self._known:
            self._known[address] = self.part, size
            self._live[self.part] += size
            self._total += size
            finalize(storage, self._gone, address)

    def _gone(self, address: int) -> None:
        part, size = self._known.pop(address)
        self._live[part] -= size
        self._total -= size


def _answer(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What an operation gives, also where that depends on numbers."""
    match func:
        case _ATEN._local_scalar_dense.default:
            return True if args[0].dtype == torch.bool else 1
        case _ATEN.allclose.default:
            return True
        case _ATEN._unique2.default:
            values = args[0].flatten().clone()
            return values, torch.empty_like(args[0]), torch.empty_like(values)
        case _ATEN.unique_dim.default:
            places = args[0].new_empty(args[0].shape[args[1]], dtype=torch.int64)
            return args[0].clone(), places, places.clone()
    return func(*args, **kwargs)


def _converted(func: Any, args: tuple[Any, ...], output: Any) -> int:
    """Bytes of the copies that a CPU's kernel makes of what is not in the precision it works in."""
    tensors = [a for a in args if isinstance(a, Tensor) and a.is_floating_point()]
    if not tensors or tensors[0].device.type != "cpu":
        return 0
    if func in _SUMS:
        working = output.dtype
    elif torch.Tag.pointwise in func.tags:
        working = reduce(torch.promote_types, {tensor.dtype for tensor in tensors})
        if func._schema.is_mutable:
            tensors.append(tensors[0])  # converted once to be read, and once to be written
    else:
        return 0
    return sum(t.numel() * working.itemsize for t in tensors if t.dtype != working)


class _Fake(FakeTensorMode):
    """Fake tensors, whose copies belong to the same run."""

    def __deepcopy__(self, _: dict[int, Any]) -> "_Fake":
        return self

    def forget(self) -> None:
        """Drop torch's weak references to what tensors were made of.

        A module whose parameters have some is not moved, and Opacus and peft call ``to`` on theirs.
        """
        self.fake_tensor_converter.meta_converter.tensor_memo.clear()


class _Copies(TorchFunctionMode):
    """Copies of tensors are fake whatever they are copies of; torch would look for the numbers."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is not Tensor.__deepcopy__:
            return func(*args, **(kwargs or {}))
        tensor = args[0]
        copy = tensor.detach().clone()
        if isinstance(tensor, nn.Parameter):
            return nn.Parameter(copy, requires_grad=tensor.requires_grad)
        return copy
