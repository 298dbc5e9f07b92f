"""How often statements on ε are wrong, and how much they find: simulations for `data/measured/`.

    python -m benchmarks.audit_honesty

A thousand audits each (two hundred for power) of scores whose truth is known: of nothing, of a
Gaussian mechanism, and of a mechanism whose records share one coin (with probability ½ every bit is
told rightly with probability .79, else nothing is; that is 1-GDP). Seeded; takes about ten minutes
of one core.
"""

import json
import math
import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.trained import MEASURED
from workbench import audit, privacy
from workbench.audit import evidence
from workbench.audit.evidence import Rule

AUDITS, FOR_POWER = 1000, 200
TERMS: dict[str, Any] = {"delta": 1e-5, "significance": 0.05}
RULES = {
    "fixed": lambda m: Rule("fixed", m // 4),
    "paid": lambda _: Rule("paid"),
    "split": lambda _: Rule("split"),
}
BY_RULE = {
    "certificate, one run": evidence.certificate,
    "rejects a curve, Gaussian": evidence.rejected_gaussian,
    "estimate, order statistics": evidence.order_estimate,
}
TRUTHS, CANARIES = (1.0, 2.0, 4.0, 8.0), (250, 500, 2000)
RIGHT = 0.79  # of the shared-coin mechanism


def main() -> None:
    """Run every simulation; write the table and what made it."""
    rows = [*null_rates(), *false_alarms(), *above_the_truth(), *power()]
    pd.DataFrame(rows).to_csv(
        MEASURED / "audit_honesty.csv", index=False, lineterminator="\n", float_format="%.6g"
    )
    made_by = {
        "script": "python -m benchmarks.audit_honesty",
        "audits": AUDITS,
        "audits for power": FOR_POWER,
        **TERMS,
        "seed": "the number of the audit",
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {platform.system()}",
        **{name: version(name) for name in ("numpy", "scipy")},
    }
    text = json.dumps(made_by, indent=2, ensure_ascii=False)
    (MEASURED / "audit_honesty.json").write_text(f"{text}\n", encoding="utf-8")


def null_rates() -> Iterator[dict]:
    """Mean TPR at FPR 0.1 of scores that know nothing: the exact one and the article's."""
    for n in (100, 500, 1000):
        drawn = [np.random.default_rng(seed).normal(size=(2, n)) for seed in range(AUDITS)]
        exact = [audit.roc(*pair).tpr_at(0.1) for pair in drawn]
        theirs = [evidence_of_article(*pair) for pair in drawn]
        for method, values in (("exact", exact), ("the article's estimator", theirs)):
            yield _row("mean TPR@0.1 of null scores", method, "", n, 0.0, values)


def evidence_of_article(inside: np.ndarray, outside: np.ndarray) -> float:
    """The article's TPR, which takes losses."""
    from workbench.audit.article import article_numbers

    return article_numbers(-inside, -outside).tpr


def false_alarms() -> Iterator[dict]:
    """The share of audits of null scores that claim an ε above 0, by rule and method."""
    for name, of in BY_RULE.items():
        for rule, made in RULES.items():
            found = [
                of(*gaussian(seed, 0.0, 500), rule=made(500), **TERMS).value > 0
                for seed in range(AUDITS)
            ]
            yield _row("false alarms on null scores", name, rule, 500, 0.0, found)
    pairs = [evidence.rate_estimates(*gaussian(s, 0.0, 500), **TERMS) for s in range(AUDITS)]
    for told in zip(*pairs, strict=True):
        found = [each.value > 0 for each in told]
        yield _row("false alarms on null scores", told[0].method, "fixed", 500, 0.0, found)


def above_the_truth() -> Iterator[dict]:
    """The share of audits whose ε exceeds the true one, on both mechanisms."""
    truth = audit.gaussian_epsilon(1.0, delta=TERMS["delta"])
    for where, draw in (("Gaussian", gaussian_of_one), ("shared coin", shared_coin)):
        what = f"above the truth, {where} mechanism of mu = 1"
        for name, of in BY_RULE.items():
            for rule, made in RULES.items():
                found = [
                    of(*draw(seed, 1000), rule=made(1000), **TERMS).value > truth
                    for seed in range(AUDITS)
                ]
                yield _row(what, name, rule, 1000, truth, found)
        for told in zip(*(rates(*draw(s, 1000)) for s in range(AUDITS)), strict=True):
            found = [each.value > truth for each in told]
            yield _row(what, told[0].method, "fixed", 1000, truth, found)


def power() -> Iterator[dict]:
    """The median ε told of a Gaussian mechanism, by its true ε, canaries and method."""
    for truth in TRUTHS:
        mu = privacy.gaussian_mu(truth, TERMS["delta"])
        for canaries in CANARIES:
            for name, of in BY_RULE.items():
                for rule, made in RULES.items():
                    told = [
                        of(*gaussian(s, mu, canaries), rule=made(canaries), **TERMS).value
                        for s in range(FOR_POWER)
                    ]
                    yield _row("median epsilon told", name, rule, canaries, truth, told)
            for told in zip(
                *(rates(*gaussian(s, mu, canaries)) for s in range(FOR_POWER)), strict=True
            ):
                values = [each.value for each in told]
                yield _row("median epsilon told", told[0].method, "fixed", canaries, truth, values)


def gaussian(seed: int, mu: float, records: int) -> tuple[np.ndarray, np.ndarray]:
    """Independent records of a Gaussian mechanism: scores and membership."""
    rng = np.random.default_rng(seed)
    member = rng.random(records) < 0.5
    return rng.normal(mu * member), member


def gaussian_of_one(seed: int, records: int) -> tuple[np.ndarray, np.ndarray]:
    """The same of μ = 1."""
    return gaussian(seed, 1.0, records)


def shared_coin(seed: int, records: int) -> tuple[np.ndarray, np.ndarray]:
    """Records that share one coin; ties are broken at random."""
    rng = np.random.default_rng(seed)
    member = rng.random(records) < 0.5
    told = np.where(rng.random(records) < RIGHT, member, ~member)
    return np.where(rng.random() < 0.5, told, False) + 1e-6 * rng.random(records), member


def rates(scores: np.ndarray, member: np.ndarray) -> tuple[evidence.EmpiricalEpsilon, ...]:
    """Clopper–Pearson and GDP on one run."""
    return evidence.rate_estimates(scores, member, **TERMS)


def _row(
    measure: str, method: str, rule: str, records: int, truth: float, values: list
) -> dict[str, object]:
    found = np.asarray(values, dtype=float)
    median = measure.startswith("median")
    return {
        "measure": measure,
        "method": method,
        "rule": rule,
        "records": records,
        "true_epsilon": truth,
        "value": float(np.median(found) if median else found.mean()),
        "standard_error": math.nan if median else float(found.std() / math.sqrt(len(found))),
        "p10": float(np.quantile(found, 0.1)),
        "p90": float(np.quantile(found, 0.9)),
        "above_truth": float((found > truth).mean()) if median else math.nan,
        "audits": len(found),
    }


if __name__ == "__main__":
    main()
