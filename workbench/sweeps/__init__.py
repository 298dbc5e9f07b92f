"""Many runs side by side, on this machine or a Dask cluster, and what they cost together.

Names load when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.sweeps.config import SweepConfig
    from workbench.sweeps.cost import SweepCost, sweep_cost
    from workbench.sweeps.folder import read_sweep
    from workbench.sweeps.sweep import run_sweep

_HOMES = {
    "SweepConfig": "config",
    "SweepCost": "cost",
    "read_sweep": "folder",
    "run_sweep": "sweep",
    "sweep_cost": "cost",
}

__all__ = [
    "SweepConfig",
    "SweepCost",
    "read_sweep",
    "run_sweep",
    "sweep_cost",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
