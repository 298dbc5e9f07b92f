"""The mean of a run's latest weights: what averaging makes of them, at no cost in privacy.

It is computed from weights that ε covers already (post-processing; Dwork and Roth 2014, proposition
2.1). Under a constant rate it does much of what lowering the rate does, so that every evaluation of
one run stands for a run of that length (Hägele et al. 2024, arXiv 2405.18392, section 4).
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_COUNT = "steps"


@dataclass(frozen=True)
class _Stretch:
    """The mean of the weights over some steps that end at an evaluation."""

    steps: int
    mean: dict[str, Tensor]


class TailAverage:
    """Means of the weights between evaluations, as many as the tail of ``fraction`` needs.

    The tail ends now, starts at an evaluation, and holds at least ``fraction`` of the steps so far.
    Each mean takes as much memory as the trainable weights.
    """

    def __init__(self, fraction: float) -> None:
        self.fraction = fraction
        self._taken = 0
        self._stretches: list[_Stretch] = []
        self._open = _Stretch(0, {})

    @torch.no_grad()
    def add(self, model: nn.Module) -> None:
        """Count in the weights after one more step."""
        self._taken += 1
        steps = self._open.steps + 1
        mean = self._open.mean or {name: torch.zeros_like(w) for name, w in _weights(model)}
        for name, weight in _weights(model):
            mean[name].lerp_(weight, 1 / steps)
        self._open = _Stretch(steps, mean)

    def evaluated(self) -> None:
        """Say that an evaluation is due here, where later tails may start."""
        if self._open.steps:
            self._stretches.append(self._open)
            self._open = _Stretch(0, {})
        while self._stretches and self.steps - self._stretches[0].steps >= self._least:
            del self._stretches[0]

    @property
    def steps(self) -> int:
        """How many steps the tail holds."""
        return sum(stretch.steps for stretch in self._stretches)

    @property
    def _least(self) -> int:
        return max(1, math.ceil(self.fraction * self._taken))

    @property
    def complete(self) -> bool:
        """Whether the tail is as long as asked for."""
        return self.steps >= self._least

    @contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """Have ``model`` bear the mean, and its own weights again afterwards."""
        own = {name: weight.detach().clone() for name, weight in _weights(model)}
        try:
            _put(model, self.mean())
            yield
        finally:
            _put(model, own)

    def mean(self) -> dict[str, Tensor]:
        """The mean of the weights over the steps of the tail, by parameter name."""
        parts = [(stretch.steps / self.steps, stretch.mean) for stretch in self._stretches]
        return {name: sum(share * mean[name] for share, mean in parts) for name in parts[0][1]}  # type: ignore[misc]

    def state(self) -> dict[str, Tensor]:
        """Everything, as tensors that a checkpoint can hold."""
        found: dict[str, Tensor] = {}
        for number, stretch in enumerate([*self._stretches, self._open]):
            found[f"{number} {_COUNT}"] = torch.tensor(stretch.steps)
            found |= {f"{number} {name}": tensor for name, tensor in stretch.mean.items()}
        return found

    def restore(self, state: Mapping[str, Tensor], *, taken: int) -> None:
        """Stand where a `state` was taken, after so many steps.

        Without one, the tail is incomplete until it was long enough in sight.
        """
        self._taken = taken
        if not state:
            return
        parts: dict[int, dict[str, Tensor]] = {}
        for key, value in state.items():
            number, _, name = key.partition(" ")
            parts.setdefault(int(number), {})[name] = value.clone()
        stretches = [_Stretch(int(part.pop(_COUNT)), part) for _, part in sorted(parts.items())]
        self._stretches, self._open = stretches[:-1], stretches[-1]


def _weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return ((name, w) for name, w in model.named_parameters() if w.requires_grad)


@torch.no_grad()
def _put(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    for name, weight in _weights(model):
        weight.copy_(weights[name])
