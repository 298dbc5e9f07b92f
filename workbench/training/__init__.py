"""DP-SGD as a loop you can read: sample, clip, add noise, account, step.

Names load when first used, so that importing this room does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.clipping.clipped_sum import ClippedSum
    from workbench.clipping.gradient_sum import clipped_gradient_sum
    from workbench.runs.folder import RunRecord, read_run
    from workbench.runs.report import RunResult, StepReport
    from workbench.runs.verify import verify
    from workbench.training.calibrate import NormCalibration, calibrated_norm
    from workbench.training.memory.estimate import MemoryEstimate
    from workbench.training.memory.predict import predict_memory, what_fits
    from workbench.training.own_loop import PrivateSteps
    from workbench.training.policies import POLICIES, with_policy
    from workbench.training.run import resume, train

_HOMES = {
    "NormCalibration": "training.calibrate",
    "calibrated_norm": "training.calibrate",
    "ClippedSum": "clipping.clipped_sum",
    "clipped_gradient_sum": "clipping.gradient_sum",
    "MemoryEstimate": "training.memory.estimate",
    "RunRecord": "runs.folder",
    "read_run": "runs.folder",
    "verify": "runs.verify",
    "predict_memory": "training.memory.predict",
    "what_fits": "training.memory.predict",
    "PrivateSteps": "training.own_loop",
    "POLICIES": "training.policies",
    "with_policy": "training.policies",
    "RunResult": "runs.report",
    "StepReport": "runs.report",
    "resume": "training.run",
    "train": "training.run",
}

__all__ = [
    "POLICIES",
    "ClippedSum",
    "MemoryEstimate",
    "NormCalibration",
    "PrivateSteps",
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
    "with_policy",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"workbench.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
