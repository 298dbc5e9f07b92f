"""What one configuration costs and carries: the pure functions behind the panels.

Floor 3: it reads `privacy`, `presets` and `config`, and knows nothing of widgets or figures.
"""

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

__all__ = [
    "BudgetCurve",
    "Ceilings",
    "Hold",
    "Lines",
    "Plane",
    "PlaneAxes",
    "Point",
    "Readings",
    "article_lines",
    "budget_curve",
    "ceilings",
    "certify",
    "held_line",
    "noise_plane",
    "preview",
    "privacy_plane",
    "steps_within",
]
