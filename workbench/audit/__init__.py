"""Membership inference and audits: how well a test tells members, and what that says of ε.

What needs torch loads when it is first used.
"""

from typing import TYPE_CHECKING, Any

from workbench.audit.bounds import (
    clopper_pearson_epsilon,
    gdp_audit_epsilon,
    one_run_epsilon,
    one_run_fdp_epsilon,
    one_run_order_epsilon,
)
from workbench.audit.curves import Roc, roc
from workbench.audit.gaussian import gaussian_epsilon
from workbench.audit.last_iterate import last_iterate_epsilon
from workbench.audit.signals import (
    exposure,
    ez_score,
    lira_log_density,
    lira_offline,
    lira_online,
    min_k,
    min_k_plus_plus,
    recall_score,
    rmia,
    window_score,
    zlib_score,
)

if TYPE_CHECKING:
    from workbench.audit.scoring import scores

__all__ = [
    "Roc",
    "clopper_pearson_epsilon",
    "exposure",
    "ez_score",
    "gaussian_epsilon",
    "gdp_audit_epsilon",
    "last_iterate_epsilon",
    "lira_log_density",
    "lira_offline",
    "lira_online",
    "min_k",
    "min_k_plus_plus",
    "one_run_epsilon",
    "one_run_fdp_epsilon",
    "one_run_order_epsilon",
    "recall_score",
    "rmia",
    "roc",
    "scores",
    "window_score",
    "zlib_score",
]


def __getattr__(name: str) -> Any:
    if name == "scores":
        from workbench.audit.scoring import scores

        return scores
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
