"""Dashboards of ipywidgets, a package each: state and wiring only.

Names load when first used, so that importing this package does not import ipywidgets.

>>> from workbench import panels
>>> panels.Explorer()  # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.panels.audit.panel import Auditor
    from workbench.panels.budget.panel import Budget
    from workbench.panels.common.controls import framed
    from workbench.panels.common.tables import table
    from workbench.panels.explorer.panel import Explorer
    from workbench.panels.run.panel import Trainer
    from workbench.panels.sweep.panel import Sweeper

_HOMES = {
    "Auditor": "audit.panel",
    "Budget": "budget.panel",
    "Explorer": "explorer.panel",
    "Sweeper": "sweep.panel",
    "Trainer": "run.panel",
    "framed": "common.controls",
    "table": "common.tables",
}

__all__ = ["Auditor", "Budget", "Explorer", "Sweeper", "Trainer", "framed", "table"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
