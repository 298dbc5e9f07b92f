"""Pictures: pure functions from results to plotly figures, and how a live one is redrawn.

Names load when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.figures.budget import budget_figure
    from workbench.figures.planes import planes_figure
    from workbench.figures.policies import policies_figure
    from workbench.figures.roc import roc_figure
    from workbench.figures.schedule import schedule_figure
    from workbench.figures.sweep import sweep_figure

_HOMES = {
    "budget_figure": "budget",
    "planes_figure": "planes",
    "policies_figure": "policies",
    "roc_figure": "roc",
    "schedule_figure": "schedule",
    "sweep_figure": "sweep",
}

__all__ = [
    "budget_figure",
    "planes_figure",
    "policies_figure",
    "roc_figure",
    "schedule_figure",
    "sweep_figure",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
