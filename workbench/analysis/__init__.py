"""What one configuration costs and carries: the pure functions behind the panels.

It knows nothing of widgets or figures. Tables, and what was measured, load when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from workbench.analysis.planes import (
    BudgetCurve,
    Lines,
    Plane,
    PlaneAxes,
    article_lines,
    budget_curve,
    held_line,
    noise_plane,
    privacy_plane,
    steps_within,
)
from workbench.analysis.point_metrics import Ceilings, Readings, ceilings, certify, preview
from workbench.analysis.settings import Hold, Point

if TYPE_CHECKING:
    from workbench.analysis.default_run import arms
    from workbench.analysis.measured import measured_runs
    from workbench.analysis.policies import (
        article_gain,
        measured_policies,
        policy_gains,
        policy_phases,
    )
    from workbench.analysis.shuffle import shuffle_lower_bound
    from workbench.analysis.tables import accountants, stated_and_computed, tuning_costs

_HOMES = {
    "accountants": "tables",
    "arms": "default_run",
    "article_gain": "policies",
    "measured_policies": "policies",
    "measured_runs": "measured",
    "policy_gains": "policies",
    "policy_phases": "policies",
    "shuffle_lower_bound": "shuffle",
    "stated_and_computed": "tables",
    "tuning_costs": "tables",
}

__all__ = [
    "BudgetCurve",
    "Ceilings",
    "Hold",
    "Lines",
    "Plane",
    "PlaneAxes",
    "Point",
    "Readings",
    "accountants",
    "arms",
    "article_gain",
    "article_lines",
    "budget_curve",
    "ceilings",
    "certify",
    "held_line",
    "measured_policies",
    "measured_runs",
    "noise_plane",
    "policy_gains",
    "policy_phases",
    "preview",
    "privacy_plane",
    "shuffle_lower_bound",
    "stated_and_computed",
    "steps_within",
    "tuning_costs",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
