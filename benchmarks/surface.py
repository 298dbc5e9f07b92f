"""How long the ε preview takes, beside the accountants it stands in for.

Wall time, the least of seven, on one thread. The peers are called cell by cell on some cells of the
same grid and scaled to the whole of it: 50 of 2500 for Opacus's RDP accountant, 5 for
dp-accounting's PLD at its default discretisation.
"""

import time
import warnings
from collections.abc import Callable

import numpy as np

from workbench.privacy.surface import epsilon_surface, noise_multiplier_surface

REPEATS = 7
STEPS, DELTA = 1000, 1e-5
SIGMA = np.geomspace(0.3, 20, 50)
RATE = np.geomspace(1e-4, 1, 50)


def milliseconds(action: Callable[[], object], *, repeats: int = REPEATS) -> float:
    """The least wall time of an action."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return 1000 * min(times)


def scattered_cells(count: int) -> list[tuple[float, float]]:
    """Cells of the grid, at random by a fixed seed."""
    places = np.random.default_rng(0).integers(0, 50, (count, 2)).tolist()
    return [(float(SIGMA[row]), float(RATE[column])) for row, column in places]


def opacus_rdp(noise_multiplier: float, sample_rate: float) -> float:
    """ε by Opacus's RDP accountant, as its users call it."""
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.history = [(noise_multiplier, sample_rate, STEPS)]
    return accountant.get_epsilon(DELTA)


def pld(noise_multiplier: float, sample_rate: float) -> float:
    """ε by dp-accounting's PLD accountant with its defaults."""
    from dp_accounting import dp_event
    from dp_accounting.pld import PLDAccountant

    event = dp_event.PoissonSampledDpEvent(sample_rate, dp_event.GaussianDpEvent(noise_multiplier))
    return PLDAccountant().compose(event, STEPS).get_epsilon(DELTA)


def scaled(accountant: Callable[[float, float], float], count: int) -> float:
    """Milliseconds an accountant would take for the whole grid, from ``count`` cells of it."""
    cells = scattered_cells(count)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Opacus says when its orders do not reach the best one
        accountant(*cells[0])
        taken = milliseconds(lambda: [accountant(*cell) for cell in cells], repeats=1)
    return taken * SIGMA.size * RATE.size / count


def main() -> dict[str, float]:
    """The figures, in milliseconds."""
    sigma, target = SIGMA[:, None], np.geomspace(0.5, 10, 50)[:, None]
    rare = np.geomspace(1e-6, 1, 50)
    grid = "50 × 50 ε surface, ms"
    return {
        grid: milliseconds(lambda: epsilon_surface(sigma, RATE, STEPS, DELTA)),
        f"{grid} | Opacus RDP, 50 cells scaled": scaled(opacus_rdp, 50),
        f"{grid} | dp-accounting PLD, 5 cells scaled": scaled(pld, 5),
        "50 × 50 ε surface from q = 1e-6, ms": milliseconds(
            lambda: epsilon_surface(sigma, rare, STEPS, DELTA)
        ),
        "one ε, ms": milliseconds(lambda: epsilon_surface(0.8, 0.027, 300, DELTA)),
        "50 × 50 σ surface, ms": milliseconds(
            lambda: noise_multiplier_surface(target, np.geomspace(1e-3, 0.5, 50), 2000, DELTA)
        ),
        "one σ, ms": milliseconds(lambda: noise_multiplier_surface(8, 0.01, STEPS, DELTA)),
    }
