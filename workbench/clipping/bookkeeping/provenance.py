"""Whether a tensor is made of records, or only of counts, sizes and what the model holds.

Rows that all records share, such as positions, must not be made of the records: else they are not
shared, but records that lie in one row, or that decide what the others get.
"""

from collections.abc import Iterator
from typing import Any, Self
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class Provenance(TorchFunctionMode):
    """While entered, notes the tensors that are made of nothing that came from outside the model.

    What a tensor is made of is followed through torch's functions, not through numbers that were
    taken out of one and put into another by Python.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._held = WeakValueDictionary[int, Tensor]()  # by identity, while they live
        for tensor in (*model.parameters(), *model.buffers()):
            self._note(tensor)
        for module in model.modules():
            for tensor in _tensors(vars(module)):
                if counts_up(tensor):  # such as the places of a prompt
                    self._note(tensor)

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def is_of_no_record(self, tensor: Tensor) -> bool:
        """Whether no record has a part in this tensor."""
        return id(tensor) in self._held

    def _note(self, tensor: Tensor) -> None:
        self._held[id(tensor)] = tensor

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        given = list(_tensors((args, kwargs)))
        apart = all(map(self.is_of_no_record, given))
        result = func(*args, **kwargs)
        changed = given[:1] if func is Tensor.__setitem__ else []
        for tensor in (*_tensors(result), *changed):
            # What is changed in place keeps no mark that it no longer deserves.
            if apart:
                self._note(tensor)
            else:
                self._held.pop(id(tensor), None)
        return result


def counts_up(tensor: Tensor) -> bool:
    """Whether a tensor holds integers that follow each other, as positions do."""
    if tensor.is_floating_point() or tensor.is_complex() or not tensor.numel():
        return False
    numbers = tensor.flatten()
    steps = torch.arange(len(numbers), device=numbers.device, dtype=numbers.dtype)
    return bool((numbers == numbers[0] + steps).all())


def _tensors(values: object) -> Iterator[Tensor]:
    match values:
        case Tensor():
            yield values
        case dict():
            for value in values.values():
                yield from _tensors(value)
        case tuple() | list():
            for value in values:
                yield from _tensors(value)
