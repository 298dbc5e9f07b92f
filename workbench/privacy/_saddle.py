"""Numerics behind the ε surface: one step's privacy loss, its closed forms and its saddle point.

Everything here is vectorised over cells and assumes input already checked by `surface`.

The pair is P = (1−q)·N(0, σ²) + q·N(1, σ²) against Q = N(0, σ²): the direction in which a record
is removed. The other direction never gave a larger ε at ε ≥ 0; the comparison with PLD, which
takes the larger of the two, keeps that true. With y = x/σ the loss of a step is L(y) = log(1 + u),
u = q·(exp(y/σ − 1/2σ²) − 1), and E_Q[u] = 0.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import special

SADDLE_NODES = 64
_SADDLE_STEPS = 30
_TILT_TOLERANCE = 1e-3
_GAUSSIAN_STEPS = 16
_CACHED_NUMBERS = 1 << 14  # work arrays of this many numbers stay in a core's cache
_LARGEST_EXPONENT = 600.0


@dataclass(frozen=True)
class Cells:
    """Configurations, one each row: four float arrays of shape (cells,)."""

    noise_multiplier: np.ndarray
    sample_rate: np.ndarray
    steps: np.ndarray
    log_delta: np.ndarray

    def __len__(self) -> int:
        return len(self.noise_multiplier)

    def __getitem__(self, rows: np.ndarray | slice) -> "Cells":
        return Cells(
            self.noise_multiplier[rows],
            self.sample_rate[rows],
            self.steps[rows],
            self.log_delta[rows],
        )

    def chunks(self, numbers_per_cell: int) -> list[slice]:
        """Slices of as many cells as are worked on at once."""
        size = max(1, _CACHED_NUMBERS // numbers_per_cell)
        return [slice(start, start + size) for start in range(0, len(self), size)]


class Saddle(NamedTuple):
    """What the saddle point says of each cell; arrays of shape (cells,)."""

    epsilon: np.ndarray  # with the fourth-order correction; below 0 where δ is never exceeded
    upper: np.ndarray  # the Rényi bound on ε at the saddle's order
    correction: np.ndarray  # size of the correction's two terms: small where they suffice
    tilt: np.ndarray  # the saddle point t, above 0
    spread: np.ndarray  # standard deviation of the composed loss, tilted
    log_moment: np.ndarray  # T·K(t) − log δ

    def take(self, rows: np.ndarray | slice) -> "Saddle":
        """The same for some cells."""
        return Saddle(*(values[rows] for values in self))


class Losses(NamedTuple):
    """One step's loss at quadrature nodes under Q; arrays of shape (cells, nodes)."""

    weight: np.ndarray
    excess: np.ndarray  # u, the likelihood ratio less one
    loss: np.ndarray


def closed_form(cells: Cells) -> np.ndarray:
    """ε where every record takes part in every step (q = 1) or there is one step: exact.

    One subsampled step obeys e^ε − 1 = q·(e^ε' − 1) with δ = q·δ' (Balle, Barthe & Gaboardi 2018,
    Theorem 8), ε' being the plain Gaussian's.
    """
    q = cells.sample_rate
    log_delta = cells.log_delta - np.log(q)
    mu = np.sqrt(cells.steps) / cells.noise_multiplier
    plain = gaussian_epsilon(mu, np.minimum(log_delta, -1e-9))
    representable = np.minimum(plain, _LARGEST_EXPONENT)
    amplified = np.log1p(q * np.expm1(representable)) + (plain - representable)
    return np.where(log_delta < 0, amplified, 0.0)


def one_jump(cells: Cells) -> np.ndarray:
    """ε if the composed loss were large only by one step's being large: δ(ε) = T·δ₁(ε)."""
    single = np.ones(len(cells))
    log_delta = cells.log_delta - np.log(cells.steps)
    return closed_form(Cells(cells.noise_multiplier, cells.sample_rate, single, log_delta))


def gaussian_epsilon(mu: np.ndarray, log_delta: np.ndarray) -> np.ndarray:
    """ε ≥ 0 of a Gaussian mechanism with sensitivity μ standard deviations (Balle & Wang 2018).

    With a = ε/μ − μ/2 and Mills' ratio R, δ(ε) = φ(a)·(R(a) − R(a + μ)), log-concave in a: Newton
    from the right never overshoots.
    """
    floor = -mu / 2
    a = np.maximum(np.sqrt(-2 * log_delta), floor)
    for _ in range(_GAUSSIAN_STEPS):
        far = _mills(a + mu)
        gap = _mills(a) - far
        above = np.log(gap) - a * a / 2 - np.log(2 * np.pi) / 2 - log_delta
        a = np.maximum(a + above * gap / (mu * far), floor)
    return mu * (a - floor)


def saddle(cells: Cells) -> Saddle:
    """The saddle-point approximation of ε (Alghamdi et al. 2023, section 4), in one direction.

    δ(ε) is a contour integral of exp(F(z)), F(z) = T·K(z) − z·ε − log z − log(1 + z), where K is
    the cumulant generating function of one step's loss under P. At the saddle F′ = 0 gives ε, so δ
    is a decreasing function of the tilt t alone, and Newton finds the t of the δ that is wanted.
    """
    parts = [_saddle(cells[rows]) for rows in cells.chunks(SADDLE_NODES)]
    return Saddle(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _mills(x: np.ndarray) -> np.ndarray:
    """Mills' ratio (1 − Φ(x))/φ(x)."""
    return np.sqrt(np.pi / 2) * special.erfcx(x / np.sqrt(2))


def losses_of(cells: Cells, nodes: int) -> Losses:
    """Trapezoidal nodes over all y that a hundredth of δ cannot see beyond in ``steps`` steps."""
    sigma = cells.noise_multiplier[:, None]
    reach = np.sqrt(2 * (np.log(100 * cells.steps) - cells.log_delta))[:, None] + 0.5
    width = 2 * reach + 1 / sigma
    y = width * np.linspace(0, 1, nodes) - reach
    weight = np.exp(-y * y / 2) * (width / (nodes - 1) / np.sqrt(2 * np.pi))
    excess = cells.sample_rate[:, None] * np.expm1(y / sigma - 0.5 / sigma**2)
    return Losses(weight, excess, np.log1p(excess))


def tilted(losses: Losses, tilt: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """K(t), K′(t) and the tilted weights, which sum to one.

    Subtracting (t + 1)·u, whose mean is 0, from the integrands leaves terms of one sign: K keeps
    its relative accuracy where q, and with it K, is tiny.
    """
    order = tilt[:, None] + 1
    exponent = np.minimum(order * losses.loss, _LARGEST_EXPONENT)
    moment = np.vecdot(losses.weight, np.expm1(exponent) - order * losses.excess)
    weight = np.exp(exponent) * losses.weight
    mean = np.vecdot(weight, losses.loss) - np.vecdot(losses.weight, losses.excess)
    return np.log1p(moment), mean / (1 + moment), weight / (1 + moment)[:, None]


def _first_tilt(cells: Cells) -> np.ndarray:
    """A start for Newton: the central limit's tilt, cut where one record's moment explodes."""
    sigma, steps = cells.noise_multiplier, cells.steps
    deviations = np.sqrt(-2 * cells.log_delta)
    chi = cells.sample_rate * np.sqrt(np.expm1(sigma**-2))
    limit = deviations / (np.sqrt(steps) * np.minimum(chi, 1 / sigma + sigma**-2))
    # log T + s·log q + s(s−1)/2σ² is one term of the composed moment of order s = t + 1.
    half = 0.5 - sigma**2 * np.log(cells.sample_rate)
    square = half**2 - 2 * sigma**2 * (np.log(steps) - np.log(-cells.log_delta))
    explosion = np.where(square > 0, half + np.sqrt(np.maximum(square, 0)) - 1, np.inf)
    return np.minimum(limit, np.maximum(explosion, 0.5))


def _saddle(cells: Cells) -> Saddle:
    losses = losses_of(cells, SADDLE_NODES)
    tilt = _first_tilt(cells)
    low, high = tilt * 1e-4, tilt * 1e4
    active = np.arange(len(cells))
    for _ in range(_SADDLE_STEPS):
        t, now = tilt[active], cells[active]
        step, excess = _newton(now, Losses(*(a[active] for a in losses)), t)
        low[active] = np.where(excess > 0, t, low[active])
        high[active] = np.where(excess > 0, high[active], t)
        new = t * np.exp(step)
        inside = (low[active] < new) & (new < high[active])
        tilt[active] = np.where(inside, new, np.sqrt(low[active] * high[active]))
        active = active[~(np.abs(step) < _TILT_TOLERANCE)]
        if not active.size:
            break
    return _expand(cells, losses, tilt)


def renyi_bound(log_moment: np.ndarray, t: np.ndarray) -> np.ndarray:
    """An upper bound on ε from T·K(t) − log δ (Canonne, Kamath & Steinke 2020, Proposition 12)."""
    return (log_moment - np.log1p(t)) / t + np.log(t / (1 + t))


def _newton(cells: Cells, losses: Losses, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Newton's step for log t, and log of the saddle's δ over the wanted δ."""
    K, slope, weight = tilted(losses, t)
    bend = np.maximum(np.vecdot(weight * losses.loss, losses.loss) - slope**2, 0)
    curvature = t * t * cells.steps * bend + 1 + (t / (1 + t)) ** 2
    log_delta = (
        cells.steps * (K - t * slope) + 1 + t / (1 + t) - np.log1p(t)
        - np.log(2 * np.pi * curvature) / 2
    )  # fmt: skip
    excess = log_delta - cells.log_delta
    # −log δ grows about as t², so beyond the saddle Newton is run on its logarithm.
    ratio = np.minimum(cells.log_delta / np.minimum(log_delta, -1e-9), 1.0)
    step = np.where(excess > 0, excess, -np.log(ratio) * log_delta) / curvature
    return np.clip(step, -2, 2), excess


def _expand(cells: Cells, losses: Losses, t: np.ndarray) -> Saddle:
    """The expansion of the contour integral about the saddle, to fourth order."""
    K, slope, weight = tilted(losses, t)
    deviation = losses.loss - slope[:, None]
    square = deviation * deviation
    second = np.vecdot(weight, square)
    third = np.vecdot(weight * deviation, square)
    fourth = np.vecdot(weight * square, square)
    F2 = cells.steps * second + t**-2 + (1 + t) ** -2.0
    F3 = cells.steps * third - 2 * t**-3 - 2 * (1 + t) ** -3.0
    F4 = cells.steps * (fourth - 3 * second**2) + 6 * t**-4 + 6 * (1 + t) ** -4.0
    flat, skew = F4 / (8 * F2**2), 5 * F3**2 / (24 * F2**3)
    log_moment = cells.steps * K - cells.log_delta
    leading = log_moment - np.log(t) - np.log1p(t) - np.log(2 * np.pi * F2) / 2
    epsilon = (leading + np.log1p(np.maximum(flat - skew, -0.9))) / t
    upper = renyi_bound(log_moment, t)
    return Saddle(epsilon, upper, np.abs(flat) + skew, t, np.sqrt(F2), log_moment)
