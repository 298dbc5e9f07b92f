"""A law of private training that is bounded by what a model knows that only counts tokens.

L = E + (L₀ − E)·h/(1 + h), S-shaped on logarithmic axes, with

h = a·M^−α + b·D^−β + c·(σ̄·M^ω·T^−τ)^γ [+ d·M^κ/U^λ] [+ k·ln²(η/η*)],
ln η* = c₀ + c₁·ln M + c₂·ln(σ̄² + s²).

M are parameters, D tokens seen, T steps, σ̄ the noise-batch ratio, U unique tokens, η the learning
rate, and L₀ is the cross-entropy of the unigram distribution. Where h is small this is Chinchilla's
law with a term for noise. The parts in brackets are there if the points have the columns
``unique_tokens`` and ``learning_rate`` with different values. With ``expected_batch_size``, σ̄²
takes up the sampling noise of clipped gradients, (1 − ‖ḡ‖²)/(M·B) a coordinate, with ‖ḡ‖ the norm
of the mean clipped gradient over C from the column ``mean_gradient_norm``, else 0.

θ holds logarithms, but c₀, c₁ and c₂ as they are. The law is our own; only its limits are known
from elsewhere.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd

from workbench.errors import InputError
from workbench.scaling.huber import DELTA, huber
from workbench.scaling.law import LOG_OF_NONE, Law, distinct, log_means, logs
from workbench.scaling.starts import CELLS, logs_of, non_negative

_CORE = ("E", "a", "b", "c", "alpha", "beta", "gamma", "omega", "tau")
_UNIQUE = ("d", "kappa", "lambda")
_RATE = ("k", "c0", "c1", "c2", "s")
_BOUNDS = {  # of parameters, not of θ
    **dict.fromkeys(("alpha", "beta", "kappa", "lambda"), (0.01, 4.0)),
    "gamma": (0.1, 4.0),
    **dict.fromkeys(("omega", "tau"), (1e-3, 0.5)),
}
_SIGNED_BOUNDS = {"c1": 2.0, "c2": 1.0}
_TRIED = 3000  # random combinations of exponents and floors
_M, _D, _T, _NOISE, _L0, _U, _RATE_AT = range(7)


@dataclass(frozen=True)
class PrivateLaw(Law):
    """The S-shaped law with the parts that the points can tell of."""

    with_unique: bool = False
    with_rate: bool = False
    with_batch: bool = False
    name = "private"
    floor = "E"
    exponents = ("alpha", "beta", "gamma")
    may_be_zero = ("noise_batch_ratio",)
    signed = frozenset({"c0", "c1", "c2"})
    width = 7

    @classmethod
    def of(cls, frame: pd.DataFrame) -> Self:
        """The parts for which ``frame`` has columns with different values."""

        def varies(column: str) -> bool:
            return column in frame and distinct(frame, column) > 1

        return cls(varies("unique_tokens"), varies("learning_rate"), "expected_batch_size" in frame)

    @property
    def parameters(self) -> tuple[str, ...]:  # type: ignore[override]
        """The core, then those of unique tokens, then those of the learning rate."""
        return _CORE + _UNIQUE * self.with_unique + _RATE * self.with_rate

    @property
    def columns(self) -> tuple[str, ...]:  # type: ignore[override]
        """What every row has to have."""
        core = ("n_params", "tokens", "steps", "noise_batch_ratio", "unigram_loss")
        more = ("unique_tokens",) * self.with_unique
        return core + more + ("expected_batch_size",) * self.with_batch

    @property
    def optional(self) -> tuple[str, ...]:
        """What a row may have; without a learning rate the best one is meant."""
        rate = ("learning_rate",) * self.with_rate
        return rate + ("mean_gradient_norm",) * self.with_batch

    @property
    def formula(self) -> str:  # type: ignore[override]
        """The law, with the parts that it has."""
        more = " + d·M^κ/U^λ" * self.with_unique + " + k·ln²(η/η*)" * self.with_rate
        return f"L = E + (L₀ − E)·h/(1 + h), h = a·M^−α + b·D^−β + c·(σ̄·M^ω·T^−τ)^γ{more}"

    def covariates(self, frame: pd.DataFrame) -> np.ndarray:
        """Logarithms of M, D, T, σ̄, of L₀, of U and of η, (points, 7); NaN where η is the best."""
        x = np.zeros((len(frame), self.width))
        x[:, :_NOISE] = logs(frame, "n_params", "tokens", "steps")
        x[:, _NOISE] = self._log_noise(frame)
        x[:, _L0] = logs(frame, "unigram_loss")[:, 0]
        if self.with_unique:
            x[:, _U] = np.minimum(logs(frame, "unique_tokens")[:, 0], x[:, _D])
        if self.with_rate:
            known = "learning_rate" in frame
            x[:, _RATE_AT] = logs(frame, "learning_rate")[:, 0] if known else np.nan
        return x

    def centre(self, x: np.ndarray) -> np.ndarray:
        """Mean logarithms, of all but L₀."""
        means = log_means(np.where(np.isnan(x), 2 * LOG_OF_NONE, x))
        means[_L0] = 0
        return means

    def uncentred(self, theta: np.ndarray, means: np.ndarray) -> np.ndarray:
        """Coefficients, and the middle of the learning rate, take up what centring took off."""
        shifted = np.array(theta, copy=True)
        value = dict(zip(self.parameters, np.moveaxis(self.values(theta), -1, 0), strict=True))

        def add(name: str, amount: np.ndarray) -> None:
            shifted[..., self.parameters.index(name)] += amount

        add("a", value["alpha"] * means[_M])
        add("b", value["beta"] * means[_D])
        noise = means[_NOISE] + value["omega"] * means[_M] - value["tau"] * means[_T]
        add("c", -value["gamma"] * noise)
        if self.with_unique:
            add("d", value["lambda"] * means[_U] - value["kappa"] * means[_M])
        if self.with_rate:
            add("s", means[_NOISE])
            twice = 2 * value["c2"] * means[_NOISE]
            add("c0", means[_RATE_AT] - value["c1"] * means[_M] - twice)
        return shifted

    def log_loss_and_slopes(
        self, theta: np.ndarray, x: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Log L and its derivatives, shapes as in `Law`."""
        p = dict(zip(self.parameters, self.values(theta).T[..., None], strict=True))
        m, d, t, noise, log_l0, u, _ = np.moveaxis(x, -1, 0)
        size, data = p["a"] * np.exp(-p["alpha"] * m), p["b"] * np.exp(-p["beta"] * d)
        seen = noise + p["omega"] * m - p["tau"] * t
        noisy = p["c"] * np.exp(np.minimum(p["gamma"] * seen, 300))
        by = {
            "a": size, "alpha": -p["alpha"] * m * size,
            "b": data, "beta": -p["beta"] * d * data,
            "c": noisy, "gamma": p["gamma"] * seen * noisy,
            "omega": p["gamma"] * p["omega"] * m * noisy,
            "tau": -p["gamma"] * p["tau"] * t * noisy,
        }  # fmt: skip
        h = size + data + noisy
        if self.with_unique:
            few = p["d"] * np.exp(p["kappa"] * m - p["lambda"] * u)
            h = h + few
            by |= {"d": few, "kappa": p["kappa"] * m * few, "lambda": -p["lambda"] * u * few}
        if self.with_rate:
            off, by_rate = _off_rate(p, x)
            h = h + off
            by |= by_rate
        h = np.minimum(h, 1e100)
        l0 = np.exp(log_l0)
        floor = np.minimum(p["E"], 0.999 * l0)
        loss = floor + (l0 - floor) * h / (1 + h)
        by_h = (l0 - floor) / ((1 + h) * (1 + h)) / loss
        slopes = [
            np.where(p["E"] < 0.999 * l0, floor / (1 + h) / loss, 0.0)
            if name == "E"
            else by_h * by[name]
            for name in self.parameters
        ]
        return np.log(loss), np.stack(np.broadcast_arrays(*slopes), axis=-1)

    def best_learning_rate(self, theta: np.ndarray, frame: pd.DataFrame) -> np.ndarray:
        """η* at each row, (rows,), of one θ (1, parameters); the law must hold learning rates."""
        p = dict(zip(self.parameters, self.values(theta)[0], strict=True))
        x = self.covariates(frame)
        return np.exp(_log_best_rate(p, x)[0])

    def limits(self) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of θ: ω and τ lie in [0, ½]."""
        low, high = super().limits()
        for index, name in enumerate(self.parameters):
            if name in _BOUNDS:
                low[index], high[index] = np.log(_BOUNDS[name])
            if name in _SIGNED_BOUNDS:
                low[index], high[index] = -_SIGNED_BOUNDS[name], _SIGNED_BOUNDS[name]
        return low, high

    def starts(self, x: np.ndarray, log_loss: np.ndarray) -> np.ndarray:
        """The best of random exponents and floors, the coefficients by least squares on h."""
        rng = np.random.default_rng(0)
        drawn = {name: _drawn(name, rng) for name in self.parameters}
        loss, l0 = np.exp(log_loss), np.exp(x[:, _L0])
        drawn["E"] = rng.uniform(0.2, 0.98, _TRIED) * loss.min()
        names = [name for name in ("a", "b", "c", "d", "k") if name in self.parameters]
        parts = [self._part(name, drawn, x) for name in names]
        floor = drawn["E"][:, None]
        known = np.clip(loss, floor * 1.001, l0 * 0.999)
        h = (known - floor) / (l0 - known)
        weight = (l0 - known) ** 2 / ((l0 - floor) * loss)
        basis = np.stack(np.broadcast_arrays(*parts), axis=-1) * weight[..., None]
        coefficients = non_negative(basis, h * weight)
        got = np.einsum("gnj,gj->gn", np.stack(np.broadcast_arrays(*parts), -1), coefficients)
        fitted = floor + (l0 - floor) * got / (1 + got)
        best = np.argsort(huber(np.log(fitted) - log_loss, DELTA).sum(1), kind="stable")[:CELLS]
        for name, column in zip(names, logs_of(coefficients).T, strict=True):
            drawn[name] = column
        logarithm = {*self.parameters} - {*names} - self.signed
        return np.stack(
            [np.log(drawn[n][best]) if n in logarithm else drawn[n][best] for n in self.parameters],
            axis=1,
        )

    def _part(self, name: str, drawn: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
        """What a coefficient multiplies, (tried, points)."""
        p = {key: value[:, None] for key, value in drawn.items()}
        if name == "a":
            return np.exp(-p["alpha"] * x[:, _M])
        if name == "b":
            return np.exp(-p["beta"] * x[:, _D])
        if name == "c":
            seen = x[:, _NOISE] + p["omega"] * x[:, _M] - p["tau"] * x[:, _T]
            return np.exp(np.minimum(p["gamma"] * seen, 300))
        if name == "d":
            return np.exp(p["kappa"] * x[:, _M] - p["lambda"] * x[:, _U])
        return _off_rate({**p, "k": np.ones((1, 1))}, x)[0]

    def _log_noise(self, frame: pd.DataFrame) -> np.ndarray:
        noise = frame["noise_batch_ratio"].to_numpy(dtype=float) ** 2
        if self.with_batch:
            batch = frame["expected_batch_size"].to_numpy(dtype=float)
            signal = np.zeros(len(frame))
            if "mean_gradient_norm" in frame:
                signal = frame["mean_gradient_norm"].to_numpy(dtype=float)
                if not (np.isfinite(signal) & (signal >= 0) & (signal <= 1)).all():
                    raise InputError(
                        "mean_gradient_norm must lie between 0 and 1, in multiples of C; give the "
                        "norm of the mean clipped gradient over C."
                    )
            noise = noise + (1 - signal**2) / (frame["n_params"].to_numpy(dtype=float) * batch)
        return np.where(noise > 0, np.log(np.where(noise > 0, noise, 1)) / 2, LOG_OF_NONE)


def _drawn(name: str, rng: np.random.Generator) -> np.ndarray:
    """Random values of a parameter, (tried,)."""
    if name in ("omega", "tau"):
        return rng.choice([0.01, 0.1, 0.25, 0.4, 0.5], _TRIED)
    if name == "c0":
        return rng.uniform(-1.5, 1.5, _TRIED)
    if name in ("c1", "c2"):
        return rng.choice([-0.4, -0.2, 0.0, 0.2], _TRIED)
    if name == "s":
        return np.exp(rng.uniform(-3, 3, _TRIED))
    return np.exp(rng.uniform(np.log(0.12), np.log(1.5), _TRIED))


def _log_best_rate(p: dict[str, np.ndarray], x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ln η*, and ln(σ̄² + s²)."""
    both = np.logaddexp(2 * x[..., _NOISE], 2 * np.log(p["s"]))
    return p["c0"] + p["c1"] * x[..., _M] + p["c2"] * both, both


def _off_rate(p: dict[str, np.ndarray], x: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """k·ln²(η/η*) and its derivatives by θ; 0 where the best rate is meant."""
    best, both = _log_best_rate(p, x)
    off = np.where(np.isnan(x[..., _RATE_AT]), 0.0, x[..., _RATE_AT] - best)
    slope = -2 * p["k"] * off
    by = {
        "k": p["k"] * off**2, "c0": slope, "c1": slope * x[..., _M], "c2": slope * both,
        "s": slope * p["c2"] * 2 * np.exp(2 * np.log(p["s"]) - both),
    }  # fmt: skip
    return p["k"] * off**2, by
