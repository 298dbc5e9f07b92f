"""Scaling laws: fitted to measured losses, with honest uncertainty."""

from workbench.scaling.fitting import FittedLaw, fit

__all__ = ["FittedLaw", "fit"]
