"""One run in several processes, as ``torchrun`` starts them: NCCL between GPUs, gloo elsewhere.

The first process draws the batch, each clips its share of the records, and the shares are added up.
Only the first adds noise, keeps the ledger and writes the run folder; the others take its noisy
gradient, so that all move their weights alike. DistributedDataParallel is not used: it would
average the gradients that arrive in a backward pass, before they are clipped.

Started by hand there is one process, and nothing here does anything.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from workbench.errors import InputError

T = TypeVar("T")
_WRAPPERS = (
    "DistributedDataParallel",
    "FullyShardedDataParallel",
    "FSDPModule",
    "DataParallel",
)


@dataclass(frozen=True)
class World:
    """One process of ``size``; that of ``rank`` 0 is the first."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process adds the noise and writes."""
        return self.rank == 0

    def share(self, indices: np.ndarray) -> np.ndarray:
        """The part of a batch that falls to this process."""
        return indices[self.rank :: self.size]

    def add_up(self, gradients: Mapping[str, Tensor]) -> None:
        """Replace each tensor by its sum over processes, in place."""
        if self.size > 1:
            for gradient in gradients.values():
                dist.all_reduce(gradient)

    def take_from_first(self, gradients: Mapping[str, Tensor]) -> None:
        """Replace each tensor by the first process's, in place."""
        if self.size > 1:
            for gradient in gradients.values():
                dist.broadcast(gradient, src=0)

    def gathered(self, value: T) -> list[T]:
        """Every process's ``value``, in the order of ranks, in every process."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def joint(self, value: str | None) -> str | None:
        """Every process's ``value`` as one; None if one has none."""
        values = self.gathered(value)
        return None if None in values else " ".join(map(str, values))

    def agreed(self, value: T) -> T:
        """The first process's ``value``, in every process."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]


@contextmanager
def joined(device: str = "auto") -> Iterator[World]:
    """The processes of this run, connected while the block lasts if ``torchrun`` started several.

    A process group that is there already is used and left as it is. ``device`` is the run's
    ``runtime.device``. Raises `InputError` where GPUs are asked for and a process would have none.
    """
    if dist.is_available() and dist.is_initialized():
        yield World(dist.get_rank(), dist.get_world_size())
    elif int(os.environ.get("WORLD_SIZE", "1")) > 1:
        on_gpu = device in ("auto", "cuda") and torch.cuda.is_available()
        if on_gpu:
            _take_a_gpu(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("nccl" if on_gpu else "gloo")
        try:
            yield World(dist.get_rank(), dist.get_world_size())
        finally:
            dist.destroy_process_group()
    else:
        yield World()


def connected() -> World:
    """The processes that a loop of one's own has connected, or this one alone.

    Raises `InputError` if several were started together and are not connected.
    """
    if dist.is_available() and dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size())
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            f"{os.environ['WORLD_SIZE']} processes were started together but are not connected, so "
            "each would train a model of its own; call torch.distributed.init_process_group first."
        )
    return World()


def refuse_wrapped(model: nn.Module) -> None:
    """Raise `InputError` if the model, or a part of it, deals with its gradients by itself."""
    for module in model.modules():
        names = {base.__name__ for base in type(module).__mro__}
        if wrapper := next((name for name in _WRAPPERS if name in names), None):
            raise InputError(
                f"The model is inside {wrapper}, which deals with gradients before they are "
                "clipped and averages where sums are needed; give the plain model, whose sums "
                "are added up over processes without it."
            )


def _take_a_gpu(local_rank: int) -> None:
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise InputError(
            f"torchrun started more processes on this machine than it has GPUs ({count}); start "
            f"{count}, or set runtime.device to 'cpu'."
        )
    torch.cuda.set_device(local_rank)
