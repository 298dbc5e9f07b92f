"""How much memory a run takes."""

import math
import sys

import torch
from torch import nn

from workbench.config import RunConfig

_ON_CPU = 16  # small parts stay in the processor's caches, and larger ones were not faster
_ON_GPU = 64


def peak_memory_mb(device: torch.device) -> float:
    """The most this process has held so far, in MB of 10⁶ bytes: on the GPU if there is one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        import resource
    except ImportError:  # Windows has no such record
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3


def physical_batch_size(config: RunConfig, model: nn.Module) -> int:
    """Records in one forward and backward pass: as configured, or chosen for the device."""
    if config.runtime.physical_batch_size != "auto":
        return config.runtime.physical_batch_size
    device = next(model.parameters()).device
    return _ON_CPU if device.type == "cpu" else _ON_GPU
