"""Scaling laws: fitted to measured losses, with honest uncertainty, and turned into plans."""

from workbench.scaling.compare import compare, influence
from workbench.scaling.fitted import FittedLaw
from workbench.scaling.fitting import fit
from workbench.scaling.isoflop import isoflop_minima
from workbench.scaling.sensitivity import sensitivity
from workbench.scaling.units import from_nats, to_nats, with_loss

__all__ = [
    "FittedLaw",
    "compare",
    "fit",
    "from_nats",
    "influence",
    "isoflop_minima",
    "sensitivity",
    "to_nats",
    "with_loss",
]
