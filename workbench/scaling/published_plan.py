"""Saturating configurations of McKenna et al. 2025 (arXiv 2501.18914), between their rows.

Size, steps and batch follow N and σ_GM(ε, δ), the noise of one Gaussian release, as powers, fitted
to the rows; compute is 6·M·B·512·T. The logarithm of the loss is a parabola of ln(N/σ_GM), on which
all else depends nearly alone. The losses are of masked language models, so that no perplexity is
planned from them. Sizes at the edge of the grid that was tried are censored.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from scipy.stats import t as student

from workbench import privacy
from workbench.errors import InputError
from workbench.scaling.plan_noise import gaussian_sigma
from workbench.scaling.plan_sources import published_rows

RECORDS, EPSILON = (1e5, 1e9), (1.0, 16.0)
RECORD_TOKENS = 512
WORDS = (
    "the published table of McKenna et al. 2025 (masked language models, saturating "
    "configurations, δ = 1e-8)"
)
SIZE_WITHIN, COMPUTE_WITHIN = 2.0, 2.5  # times; the optimum is flat


@dataclass(frozen=True)
class Saturating:
    """What the rows say of one (N, ε, δ)."""

    n_params: float
    expected_batch_size: float
    steps: float
    loss: float
    loss_interval: tuple[float, float]

    @property
    def compute(self) -> float:
        """FLOPs of training."""
        return 6 * self.n_params * self.expected_batch_size * RECORD_TOKENS * self.steps


def saturating(records: float, target_epsilon: float, delta: float) -> Saturating:
    """The configuration at ``records`` and ε; raise `InputError` outside of what was tried."""
    for name, value, (low, high) in (
        ("records", records, RECORDS),
        ("target_epsilon", target_epsilon, EPSILON),
    ):
        if not low <= value <= high:
            raise InputError(
                f"{name} is {value:g} but the published table covers {low:g} to {high:g}; give a "
                "fit of your own, or stay within."
            )
    return _at(_powers(), records, gaussian_sigma(target_epsilon, delta))


def agreement(
    *,
    leave_one_out: bool = False,
    certified: bool = False,
    rows: Sequence[int] = tuple(range(11)),
) -> pd.DataFrame:
    """The planner beside every published row.

    Columns: ``records``, ``target_epsilon``; ``n_params`` and ``compute`` as published, the same
    planned, their ratios planned over published; ``loss`` likewise; ``noise_multiplier`` and
    ``rho`` of the published row; ``censored``; ``size_agrees`` (within 2×, one-sided where
    censored) and ``compute_agrees`` (within 2.5×, likewise).

    Args:
        leave_one_out: plan each row from the others.
        certified: σ by the PLD accountant, some seconds a row, and not previewed.
        rows: which rows.
    """
    table, told = published_rows(), []
    sigma_of = privacy.noise_multiplier if certified else privacy.noise_multiplier_surface
    for index in rows:
        row = table.iloc[index]
        kept = np.arange(len(table)) != index if leave_one_out else np.ones(len(table), bool)
        gaussian = gaussian_sigma(row["target_epsilon"], row["delta"])
        planned = _at(_powers(tuple(np.flatnonzero(kept))), row["records"], gaussian)
        rate = row["expected_batch_size"] / row["records"]
        sigma = float(sigma_of(row["target_epsilon"], rate, round(row["steps"]), row["delta"]))
        size = planned.n_params / row["n_params"]
        compute = planned.compute / row["compute"]
        told.append(
            {
                "records": row["records"],
                "target_epsilon": row["target_epsilon"],
                "n_params": row["n_params"],
                "planned_n_params": planned.n_params,
                "size_ratio": size,
                "compute": row["compute"],
                "planned_compute": planned.compute,
                "compute_ratio": compute,
                "loss": row["loss"],
                "planned_loss": planned.loss,
                "noise_multiplier": sigma,
                "rho": sigma / (rate * np.sqrt(row["steps"]) * gaussian),
                "censored": row["censored"],
                "size_agrees": _within(size, SIZE_WITHIN, row["censored"]),
                "compute_agrees": _within(compute, COMPUTE_WITHIN, row["censored"]),
            }
        )
    return pd.DataFrame(told)


def _within(ratio: float, bound: float, censored: str) -> bool:
    """A size at the edge of the grid may be planned beyond it without bound."""
    low = ratio >= 1 / bound or censored == "smallest_size"
    return bool(low and (ratio <= bound or censored == "largest_size"))


@dataclass(frozen=True, eq=False)
class _Powers:
    coefficients: dict[str, np.ndarray]  # of 1, ln N, ln σ_GM
    loss: np.ndarray  # of 1, z, z²
    spread: np.ndarray
    scatter: float
    freedom: int


@cache
def _powers(kept: tuple[int, ...] | None = None) -> _Powers:
    rows = published_rows() if kept is None else published_rows().iloc[list(kept)]
    n = np.log(np.asarray(rows["records"]) / 1e7)
    gaussian = np.log(
        [gaussian_sigma(e, d) for e, d in zip(rows["target_epsilon"], rows["delta"], strict=True)]
    )
    basis = np.stack([np.ones_like(n), n, gaussian], axis=1)
    values = {
        name: np.linalg.lstsq(basis, np.log(np.asarray(rows[name])), rcond=None)[0]
        for name in ("n_params", "steps", "expected_batch_size")
    }
    z = n - gaussian
    curve = np.stack([np.ones_like(z), z, z**2], axis=1)
    log_loss = np.log(np.asarray(rows["loss"]))
    loss = np.linalg.lstsq(curve, log_loss, rcond=None)[0]
    freedom = len(z) - 3
    scatter = float(np.sum((curve @ loss - log_loss) ** 2)) / freedom
    return _Powers(values, loss, np.linalg.inv(curve.T @ curve) * scatter, scatter, freedom)


def _at(powers: _Powers, records: float, gaussian: float) -> Saturating:
    n, g = np.log(records / 1e7), np.log(gaussian)
    row = np.array([1, n, g])
    values = {name: float(np.exp(row @ c)) for name, c in powers.coefficients.items()}
    curve = np.array([1, n - g, (n - g) ** 2])
    log_loss = float(curve @ powers.loss)
    deviation = np.sqrt(powers.scatter + curve @ powers.spread @ curve)
    reach = float(student.ppf(0.975, powers.freedom) * deviation)
    return Saturating(
        n_params=values["n_params"],
        expected_batch_size=min(values["expected_batch_size"], records),
        steps=values["steps"],
        loss=float(np.exp(log_loss)),
        loss_interval=(float(np.exp(log_loss - reach)), float(np.exp(log_loss + reach))),
    )
