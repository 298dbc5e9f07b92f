"""The reference the ε surface is held against: dp-accounting's PLD, refined until it stands still.

    python -m benchmarks.pld_truth            rewrites data/measured/pld_truth.csv and .json

Random configurations are log-uniform over the range the surface promises (σ 0.3–20, q 1e-6–1,
1–1e6 steps, δ 1e-12–1e-3), the published ones come first, and some with σ up to 1000 and δ up to
1e-2 come last. A PLD is an upper bound at every
discretisation, so the interval shrinks fourfold until ε moves by less than 0.1 % or 0.0005; what
is left of the error is then under a third of that. A configuration that is still moving when the
grid grows too large is kept with ``settled`` false and is no reference.
"""

import csv
import json
import math
import platform
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

TRUTH = Path(__file__).resolve().parent.parent / "data" / "measured" / "pld_truth.csv"
SEED = 20260
RANDOM_CONFIGURATIONS = 600
WIDE_CONFIGURATIONS = 60
_WIDEST_INTERVAL = 1e-2
_SECONDS_PER_LEVEL = 12.0
_LEVELS = 8

PUBLISHED = (
    (1.5, 0.04, 2250, 1e-5),
    (1.0, 0.01, 10_000, 1e-5),
    (1.0, 1.0, 1, 1e-5),
    (0.5, 1e-3, 1000, 1e-6),
    (1.0, 1e-3, 100, 1e-6),
    (1.1, 2.62e-5, 38_147, 1e-5),
    (2.5, 16_384 / 1_281_167, 71_589, 8e-7),
    (10.0, 4096 / 50_000, 875, 1e-5),
    (0.614, 518_000 * 1024 / 13e12, 100_000, 1.1e-10),
    (0.8, 512 / 19_000, 300, 1e-5),
)


@dataclass(frozen=True)
class Truth:
    """One configuration with its ε (add or remove one record, Poisson sampling)."""

    origin: str
    noise_multiplier: float
    sample_rate: float
    steps: int
    delta: float
    epsilon: float
    interval: float
    moved: float
    settled: bool
    seconds: float


def configurations() -> list[tuple[str, float, float, int, float]]:
    """The published configurations, the random ones of the fixed seed, and some with more noise."""
    random = np.random.default_rng(SEED)
    low, high = [0.3, 1e-6, 1, 1e-12], [20, 1, 1e6, 1e-3]
    drawn = random.uniform(np.log(low), np.log(high), size=(RANDOM_CONFIGURATIONS, 4))
    wide_low, wide_high = [20, 1e-3, 1, 1e-12], [1000, 1, 1e6, 1e-2]
    wide = random.uniform(np.log(wide_low), np.log(wide_high), size=(WIDE_CONFIGURATIONS, 4))
    rows: list[tuple[str, float, float, int, float]] = [("published", *row) for row in PUBLISHED]
    for origin, logs in (("random", drawn), ("wide", wide)):
        rows += [(origin, s, q, round(t), d) for s, q, t, d in np.exp(logs).tolist()]
    return rows


def pld_epsilon(
    noise_multiplier: float, sample_rate: float, steps: int, delta: float, *, interval: float
) -> float:
    """ε by dp-accounting's PLD at one discretisation interval."""
    from dp_accounting.pld import privacy_loss_distribution

    one_step = privacy_loss_distribution.from_gaussian_mechanism(
        noise_multiplier, sampling_prob=sample_rate, value_discretization_interval=interval
    )
    return float(one_step.self_compose(steps).get_epsilon_for_delta(delta))


def settle(row: tuple[str, float, float, int, float]) -> Truth:
    """Refine the discretisation until ε stands still or the next grid would be too large."""
    origin, noise_multiplier, sample_rate, steps, delta = row
    began = time.perf_counter()
    interval, epsilon, moved, settled = _WIDEST_INTERVAL, math.inf, math.inf, False
    for level in range(_LEVELS):
        level_began = time.perf_counter()
        interval = _WIDEST_INTERVAL / 4**level
        finer = pld_epsilon(noise_multiplier, sample_rate, steps, delta, interval=interval)
        moved, epsilon = abs(finer - epsilon), finer
        settled = level > 1 and moved <= max(0.001 * epsilon, 0.0005)
        if settled or time.perf_counter() - level_began > _SECONDS_PER_LEVEL:
            break
    return Truth(
        origin, noise_multiplier, sample_rate, steps, delta, epsilon, interval, moved, settled,
        round(time.perf_counter() - began, 2),
    )  # fmt: skip


def write(rows: Iterable[Truth], path: Path) -> None:
    """Write the rows as CSV and what made them beside it as JSON."""
    rows = list(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Truth)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    made_by = {
        "script": "python -m benchmarks.pld_truth",
        "seed": SEED,
        "rows": len(rows),
        "settled": sum(row.settled for row in rows),
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {platform.system()}",
        "dp-accounting": version("dp-accounting"),
        "numpy": version("numpy"),
        "scipy": version("scipy"),
    }
    path.with_suffix(".json").write_text(json.dumps(made_by, indent=2) + "\n", encoding="utf-8")


def main(processes: int = 2) -> None:
    """Compute every configuration and write the file; takes tens of minutes."""
    rows = []
    with ProcessPoolExecutor(processes) as pool:
        for row in pool.map(settle, configurations()):
            rows.append(row)
            print(f"{len(rows)} {row}", file=sys.stderr)
    write(rows, TRUTH)


if __name__ == "__main__":
    main()
