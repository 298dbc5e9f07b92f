"""DP-SGD as a loop you can read: sample, clip, add noise, account, step.

Names load when first used, so that importing this room does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.training.calibrate import NormCalibration, calibrated_norm
    from workbench.training.clipping import ClippedSum, clipped_gradient_sum
    from workbench.training.estimate import MemoryEstimate
    from workbench.training.folder import RunRecord, read_run, verify
    from workbench.training.memory import predict_memory, what_fits
    from workbench.training.report import RunResult, StepReport
    from workbench.training.run import resume, train

_HOMES = {
    "NormCalibration": "calibrate",
    "calibrated_norm": "calibrate",
    "ClippedSum": "clipping",
    "clipped_gradient_sum": "clipping",
    "MemoryEstimate": "estimate",
    "RunRecord": "folder",
    "read_run": "folder",
    "verify": "folder",
    "predict_memory": "memory",
    "what_fits": "memory",
    "RunResult": "report",
    "StepReport": "report",
    "resume": "run",
    "train": "run",
}

__all__ = [
    "ClippedSum",
    "MemoryEstimate",
    "NormCalibration",
    "RunRecord",
    "RunResult",
    "StepReport",
    "calibrated_norm",
    "clipped_gradient_sum",
    "predict_memory",
    "read_run",
    "resume",
    "train",
    "verify",
    "what_fits",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
