"""Membership inference and audits: how well a test tells members, and what that says of ε.

What needs torch loads when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from workbench.audit.bounds import (
    clopper_pearson_epsilon,
    gdp_audit_epsilon,
    one_run_epsilon,
    one_run_fdp_epsilon,
    one_run_order_epsilon,
)
from workbench.audit.curves import Roc, roc
from workbench.audit.evidence import EmpiricalEpsilon, Rule
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
    from workbench.audit.attack import Audit, audit_model, audit_run
    from workbench.audit.attacks import Passes
    from workbench.audit.canaries import (
        CanaryAudit,
        canary_audit,
        canary_cap,
        canary_preflight,
        canary_scores,
        group_guarantee,
    )
    from workbench.audit.demo import DemoRuns, demo_config, train_demo
    from workbench.audit.embeddings import EmbeddingAttack, embedding_attack
    from workbench.audit.forward import CancelledError
    from workbench.audit.mechanism import MechanismReport, audit_loop, first_flag
    from workbench.audit.mechanism_checks import Claim
    from workbench.audit.mechanism_run import audit_trainer
    from workbench.audit.records import AuditRecords, file_records, run_records, text_records
    from workbench.audit.scoring import scores, token_scores

_HOMES = {
    "Audit": "attack",
    "AuditRecords": "records",
    "CanaryAudit": "canaries",
    "CancelledError": "forward",
    "Claim": "mechanism_checks",
    "DemoRuns": "demo",
    "EmbeddingAttack": "embeddings",
    "MechanismReport": "mechanism",
    "Passes": "attacks",
    "audit_loop": "mechanism",
    "audit_model": "attack",
    "audit_run": "attack",
    "audit_trainer": "mechanism_run",
    "canary_audit": "canaries",
    "canary_cap": "canaries",
    "canary_preflight": "canaries",
    "canary_scores": "canaries",
    "demo_config": "demo",
    "embedding_attack": "embeddings",
    "file_records": "records",
    "first_flag": "mechanism",
    "group_guarantee": "canaries",
    "run_records": "records",
    "scores": "scoring",
    "text_records": "records",
    "token_scores": "scoring",
    "train_demo": "demo",
}

__all__ = [
    "Audit",
    "AuditRecords",
    "CanaryAudit",
    "CancelledError",
    "Claim",
    "DemoRuns",
    "EmbeddingAttack",
    "EmpiricalEpsilon",
    "MechanismReport",
    "Passes",
    "Roc",
    "Rule",
    "audit_loop",
    "audit_model",
    "audit_run",
    "audit_trainer",
    "canary_audit",
    "canary_cap",
    "canary_preflight",
    "canary_scores",
    "clopper_pearson_epsilon",
    "demo_config",
    "embedding_attack",
    "exposure",
    "ez_score",
    "file_records",
    "first_flag",
    "gaussian_epsilon",
    "gdp_audit_epsilon",
    "group_guarantee",
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
    "run_records",
    "scores",
    "text_records",
    "token_scores",
    "train_demo",
    "window_score",
    "zlib_score",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"workbench.audit.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
