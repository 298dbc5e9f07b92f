"""Fits of scaling laws: against a quasi-Newton grid, and how often their intervals cover.

    python -m benchmarks scaling          the figures, minutes
    python -m benchmarks.scaling          rewrites data/measured/fit_coverage.csv and .json, an hour

Times are processor time on one thread, so that a busy machine does not change them. The peer is the
usual way to fit Chinchilla's law: L-BFGS from 4 500 starts on the same summed Huber loss, with its
exact derivative; it is timed on some of them and scaled, and all are run for the coverage file.
"""

import csv
import json
import math
import platform
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import minimize

from workbench.scaling import fit, plan
from workbench.scaling.fitting import checked_problem
from workbench.scaling.huber import DELTA, huber
from workbench.scaling.laws import CHINCHILLA
from workbench.scaling.published_plan import agreement

COVERAGE = Path(__file__).parents[1] / "data" / "measured" / "fit_coverage.csv"
# Besiroglu et al. 2024 (arXiv 2404.10102), their refit of the points of Hoffmann et al. 2022.
TRUE = {"A": 482.01, "B": 2085.43, "E": 1.8172, "alpha": 0.3478, "beta": 0.3658}
REPLICATES = 200
_TIMED_STARTS = 150
_SCATTER = 0.006


def points(seed: int, count: int, scatter: str, *, per_run: int = 1) -> pd.DataFrame:
    """The planted law over the range of the Chinchilla study, with scatter that runs share."""
    rng = np.random.default_rng(seed)
    runs = np.repeat(np.arange(count // per_run), per_run)
    size = np.exp(rng.uniform(math.log(5e7), math.log(1e10), len(runs) // per_run))[runs]
    tokens = np.exp(rng.uniform(math.log(1e9), math.log(5e11), len(runs)))
    frame = pd.DataFrame({"n_params": size, "tokens": tokens, "run": runs})
    drawn = {
        "laplace": lambda n: rng.laplace(0, _SCATTER, n),
        "normal": lambda n: rng.normal(0, _SCATTER, n),
        "student": lambda n: _SCATTER / 2 * rng.standard_t(3, n),
    }[scatter]
    shared = drawn(len(runs) // per_run)[runs] if per_run > 1 else drawn(len(runs))
    own = drawn(len(runs)) / 3 if per_run > 1 else 0
    return frame.assign(loss=truth(frame) * np.exp(shared + own))


def truth(frame: pd.DataFrame) -> np.ndarray:
    """The planted law."""
    n, d = np.asarray(frame["n_params"]), np.asarray(frame["tokens"])
    return TRUE["E"] + TRUE["A"] / n ** TRUE["alpha"] + TRUE["B"] / d ** TRUE["beta"]


def seconds(action: Callable[[], object], *, repeats: int = 1) -> float:
    """The least processor time of an action."""
    times = []
    for _ in range(repeats):
        began = time.process_time()
        action()
        times.append(time.process_time() - began)
    return min(times)


def quasi_newton(frame: pd.DataFrame, starts: np.ndarray) -> float:
    """The least objective that L-BFGS reaches from the starts, on logarithms as usual."""
    x = np.log(frame[["n_params", "tokens"]].to_numpy())
    log_loss = np.log(frame["loss"].to_numpy())

    def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
        value, slopes = CHINCHILLA.log_loss_and_slopes(theta[None], x)
        residuals = value[0] - log_loss
        # In units of δ², or the method stops where it begins.
        gradient = np.clip(residuals, -DELTA, DELTA) @ slopes[0]
        return huber(residuals, DELTA).sum() / DELTA**2, gradient / DELTA**2

    ends = [minimize(objective, s, jac=True, method="L-BFGS-B").fun for s in starts]
    return min(ends) * DELTA**2


def grid_of_starts() -> np.ndarray:
    """The 4 500 starts of Hoffmann et al. 2022, as (ln A, ln B, ln E, ln α, ln β)."""
    exponents = np.log(np.maximum([0, 0.5, 1, 1.5, 2], 1e-3))
    floors, coefficients = np.arange(-1, 1.5, 0.5), np.arange(0, 30, 5.0)
    return np.array(list(product(coefficients, coefficients, floors, exponents, exponents)))


def main() -> dict[str, float]:
    """One fit, its bootstrap, and one plan, beside the quasi-Newton grid."""
    frame = points(0, 240, "laplace").drop(columns="run")
    problem, _ = checked_problem(frame, "chinchilla", None)
    problem.solve()
    ours = seconds(problem.solve, repeats=5)
    starts = grid_of_starts()
    some = np.random.default_rng(0).permutation(len(starts))[:_TIMED_STARTS]
    theirs = seconds(lambda: quasi_newton(frame, starts[some])) * len(starts) / _TIMED_STARTS
    whole = seconds(lambda: fit(frame), repeats=3)
    draws = seconds(lambda: fit(frame, bootstrap=1000))
    planned = seconds(lambda: plan("published", records=3.1e6, target_epsilon=4.3))
    return {
        "Chinchilla fit of 240 points, s of processor": ours,
        f"Chinchilla fit of 240 points, s of processor | L-BFGS from {len(starts)} starts": theirs,
        "objective": problem.loss(problem.solve()[0]),
        f"objective | best of {_TIMED_STARTS} of these starts": quasi_newton(frame, starts[some]),
        "fit with profile intervals, s of processor": whole,
        "fit with 1000 bootstraps, s of processor": draws,
        "plan, ms of processor": 1000 * planned,
        **_agreement("published rows that agree, of 11", leave_one_out=False),
        **_agreement("of 11 rows, each planned from the others", leave_one_out=True),
    }


def _agreement(words: str, *, leave_one_out: bool) -> dict[str, float]:
    told = agreement(leave_one_out=leave_one_out)
    return {
        f"{words}: {name}": float(np.count_nonzero(told[f"{name}_agrees"]))
        for name in ("size", "compute")
    }


CASES = (
    ("chinchilla", 60, "laplace", 1),
    ("chinchilla", 60, "normal", 1),
    ("chinchilla", 60, "student", 1),
    ("chinchilla", 240, "laplace", 1),
    ("chinchilla", 30, "normal", 1),
    ("chinchilla", 240, "normal", 4),
)


def coverage(count: int, scatter: str, per_run: int, *, bootstrap: int = 0) -> dict[str, float]:
    """The share of replicates whose 95 % intervals hold what was planted."""
    covered = []
    for seed in range(REPLICATES):
        fitted = fit(points(seed, count, scatter, per_run=per_run), bootstrap=bootstrap)
        new = points(seed + 10_000, 40, scatter)
        far = new.assign(n_params=new["n_params"] * 10, tokens=new["tokens"] * 10)
        row = {n: float(low <= TRUE[n] <= high) for n, (low, high) in fitted.intervals.items()}
        row["band"] = _inside(fitted.band(new), truth(new))
        row["band_10_times_beyond"] = _inside(fitted.band(far), truth(far))
        row["new_run"] = _inside(fitted.predict_interval(new), np.asarray(new["loss"]))
        covered.append(row)
    return pd.DataFrame(covered).mean().to_dict()


def _inside(limits: np.ndarray, values: np.ndarray) -> float:
    return float(np.mean((limits[:, 0] <= values) & (values <= limits[:, 1])))


def write() -> None:
    """Simulate every case and write the shares, a row each, with what made them."""
    rows = []
    for law, count, scatter, per_run in CASES:
        for bootstrap in (0, 200) if (count, scatter) == (60, "normal") else (0,):
            shares = coverage(count, scatter, per_run, bootstrap=bootstrap)
            how = "bootstrap" if bootstrap else "profile"
            case = {"law": law, "points": count, "points_per_run": per_run, "scatter": scatter}
            rows.append({**case, "intervals": how, "replicates": REPLICATES, **shares})
            print(rows[-1], file=sys.stderr, flush=True)
            _save(rows)


def _save(rows: list[dict]) -> None:
    with COVERAGE.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(
            {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in rows
        )
    made_by = {
        "script": "python -m benchmarks.scaling",
        "planted": TRUE,
        "scatter": _SCATTER,
        "seeds": f"0 to {REPLICATES - 1}",
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {platform.system()}",
        "numpy": version("numpy"),
        "scipy": version("scipy"),
    }
    text = json.dumps(made_by, indent=2, ensure_ascii=False) + "\n"
    COVERAGE.with_suffix(".json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
