"""Scaling laws: fitted to measured losses, with honest uncertainty, and turned into plans."""

from workbench.scaling.compare import compare, influence
from workbench.scaling.fitted import FittedLaw
from workbench.scaling.fitting import fit
from workbench.scaling.isoflop import isoflop_minima
from workbench.scaling.plan_hardware import hardware
from workbench.scaling.planner import frontier, plan, what_next
from workbench.scaling.plans import Plan, Planned
from workbench.scaling.published_plan import agreement
from workbench.scaling.sensitivity import sensitivity
from workbench.scaling.units import from_nats, to_nats, with_loss

__all__ = [
    "FittedLaw",
    "Plan",
    "Planned",
    "agreement",
    "compare",
    "fit",
    "from_nats",
    "frontier",
    "hardware",
    "influence",
    "isoflop_minima",
    "plan",
    "sensitivity",
    "to_nats",
    "what_next",
    "with_loss",
]
