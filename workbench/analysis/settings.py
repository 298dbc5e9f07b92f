"""One DP-SGD configuration as the explorer holds it, and what holding a quantity still means.

>>> from workbench.presets import find
>>> point = Point.from_preset(find("laptop"))
>>> point.steps, round(point.epochs, 2), point.tokens
(300, 8.17, 9830400)
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np

from workbench.config import LARGEST, LARGEST_COUNT
from workbench.errors import InputError, positive, probability, whole
from workbench.presets import Preset
from workbench.privacy.surface import explain_noise_multiplier_surface

LengthUnit = Literal["steps", "epochs"]
HoldKind = Literal["nothing", "epsilon", "noise_batch_ratio"]

_SAME = 1e-12  # steps counted as epochs and back must not gain a step by rounding
_QUANTITIES = {
    "noise_multiplier": ("Noise multiplier σ", "enter a value such as 1"),
    "max_grad_norm": ("Clipping norm C", "enter a value such as 1"),
    "expected_batch_size": ("Expected batch size B", "enter a whole number such as 512"),
    "dataset_size": ("Data set size N", "enter the number of records"),
    "length": ("Training length", "train for at least one step"),
    "n_params": ("Parameters d", "enter the number of trained weights"),
    "mean_gradient_norm": ("Mean gradient ḡ", "enter a value such as 1"),
    "record_tokens": ("Tokens per record", "enter a whole number such as 64"),
    "target_epsilon": ("Target ε", "enter a budget such as 8"),
}
_COUNTS = ("expected_batch_size", "dataset_size", "record_tokens")


@dataclass(frozen=True, kw_only=True)
class Point:
    """σ, C, batch, data set, length, δ, d and ḡ; raises `InputError` if they cannot be a run.

    ``length`` counts steps or epochs, by ``length_unit``; the other follows. ``n_params`` and
    ``mean_gradient_norm`` matter to the noise readings alone, never to ε.
    """

    noise_multiplier: float
    max_grad_norm: float
    expected_batch_size: int
    dataset_size: int
    length: float
    length_unit: LengthUnit = "steps"
    delta: float
    n_params: float
    mean_gradient_norm: float
    record_tokens: int
    target_epsilon: float

    def __post_init__(self) -> None:
        for name, (label, remedy) in _QUANTITIES.items():
            value = getattr(self, name)
            positive(label, value, remedy=remedy)
            largest = LARGEST_COUNT if name in (*_COUNTS, "length") else LARGEST
            if not 1 / LARGEST <= value <= largest:
                raise InputError(
                    f"{label} is {value:.3g} but must lie between {1 / LARGEST:g} and "
                    f"{largest:g}; {remedy}."
                )
        for name in _COUNTS:
            label, remedy = _QUANTITIES[name]
            whole(label, getattr(self, name), least=1, remedy=remedy)
        probability("δ", self.delta, remedy="choose one well below 1/N, such as 1e-5")
        if self.expected_batch_size > self.dataset_size:
            raise InputError(
                f"Expected batch size B is {self.expected_batch_size:,} but the data set has "
                f"N = {self.dataset_size:,} records, so q = B/N would exceed 1; lower B or raise N."
            )

    @classmethod
    def from_preset(cls, preset: Preset) -> Self:
        """A preset's numbers; its claimed ε, else 8, becomes the target line.

        No source publishes ḡ, the norm of the mean clipped gradient: it starts at C, the largest
        value it can have.
        """
        return cls(
            noise_multiplier=preset.noise_multiplier,
            max_grad_norm=preset.max_grad_norm,
            expected_batch_size=preset.expected_batch_size,
            dataset_size=preset.dataset_size,
            length=preset.steps,
            delta=preset.delta,
            n_params=preset.n_params,
            mean_gradient_norm=preset.max_grad_norm,
            record_tokens=preset.record_tokens,
            target_epsilon=preset.claimed_epsilon or 8.0,
        )

    @property
    def sample_rate(self) -> float:
        """Sample rate q = B/N."""
        return self.expected_batch_size / self.dataset_size

    @property
    def steps(self) -> int:
        """Steps T; from epochs, rounded up so that no epoch is cut short."""
        return int(self.steps_at(np.asarray(self.expected_batch_size)))

    @property
    def epochs(self) -> float:
        """Expected passes over the data, T·B/N."""
        return self.steps * self.sample_rate

    @property
    def tokens(self) -> int:
        """Tokens expected to be processed, T·B·(tokens per record)."""
        return self.steps * self.expected_batch_size * self.record_tokens

    def steps_at(self, batch_size: np.ndarray) -> np.ndarray:
        """Steps T if the batch were ``batch_size``, any shape: constant unless epochs are given."""
        if self.length_unit == "steps":
            return np.full(np.shape(batch_size), float(max(1, round(self.length))))
        whole_epochs = self.length * self.dataset_size / batch_size
        return np.maximum(1.0, np.ceil(whole_epochs * (1 - _SAME)))

    def changed(self, **changes: Any) -> Self:
        """A copy with some fields replaced; counts are rounded to whole numbers."""
        for name in _COUNTS:
            if name in changes and math.isfinite(changes[name]):
                changes[name] = round(changes[name])
        return replace(self, **changes)

    def counted_in(self, unit: LengthUnit) -> Self:
        """The same run with its length given in the other unit."""
        return replace(self, length=float(getattr(self, unit)), length_unit=unit)


@dataclass(frozen=True)
class Hold:
    """A quantity kept still while others move: ε, or σ/B, at ``value``."""

    kind: HoldKind = "nothing"
    value: float = math.nan

    @classmethod
    def at(cls, point: Point, kind: HoldKind, epsilon: float) -> Self:
        """Hold ``kind`` at what it is now: ``epsilon``, or the point's σ/B."""
        match kind:
            case "epsilon":
                return cls(kind, epsilon)
            case "noise_batch_ratio":
                return cls(kind, point.noise_multiplier / point.expected_batch_size)
            case _:
                return cls()

    def apply(self, point: Point, *, moved: str) -> Point:
        """``point``, whose field ``moved`` has just changed, with σ (or B) solved again.

        Holding ε re-solves σ by the fast surface, a preview; raises `InputError` where it has no
        answer. Holding σ/B moves B with σ, and σ with everything else.
        """
        match self.kind:
            case "epsilon":
                return replace(point, noise_multiplier=_sigma_for(point, self.value))
            case "noise_batch_ratio" if moved == "noise_multiplier":
                batch_size = max(1, round(point.noise_multiplier / self.value))
                return replace(point, expected_batch_size=batch_size)
            case "noise_batch_ratio":
                return replace(point, noise_multiplier=self.value * point.expected_batch_size)
            case _:
                return point


def _sigma_for(point: Point, epsilon: float) -> float:
    """The previewed σ that spends ``epsilon``, rounded up to four digits."""
    solved = explain_noise_multiplier_surface(epsilon, point.sample_rate, point.steps, point.delta)
    if solved.reasons[()]:
        raise InputError(
            f"ε cannot be held at {epsilon:.3g} here because {solved.reasons[()]}; "
            "hold nothing, or change the target."
        )
    sigma = float(solved.values)
    digits = 3 - math.floor(math.log10(sigma))
    return round(math.ceil(sigma * 10**digits) / 10**digits, digits)
