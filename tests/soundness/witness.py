"""A run watched from outside: what it drew, what it released, and the same worked out by hand.

Nothing here calls the code under watch for what it checks: the clipped sum is taken one record at a
time from plain autograd, and batches and gradients are caught where the run uses them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from workbench import training
from workbench.config import RunConfig
from workbench.runs.ledger import read
from workbench.training import RunResult, step
from workbench.training.step import Stepper


@dataclass
class Step:
    """One step as it happened: the batch, the weights before it, and the gradient handed on."""

    indices: np.ndarray
    weights: dict[str, Tensor]
    gradient: dict[str, Tensor]
    recorded: int  # steps in the ledger on disk when the weights were about to move


@dataclass
class Witness:
    """Everything that a watched run let see."""

    steps: list[Step] = field(default_factory=list)
    stepper: Stepper | None = None
    result: RunResult | None = None

    @property
    def prepared(self) -> Any:
        """The run's model and records."""
        assert self.stepper is not None
        return self.stepper.prepared


def watch(config: RunConfig, run_dir: Path) -> Witness:
    """Train ``config`` and return what was seen."""
    witness = Witness()
    with _watching(witness, run_dir):
        witness.result = training.train(config, run_dir=run_dir)
    return witness


@contextmanager
def _watching(witness: Witness, run_dir: Path) -> Iterator[None]:
    draw, move, take = step.poisson_batch, step.take_step, Stepper.take
    drawn: list[np.ndarray] = []

    def drawing(*args: Any, **kwargs: Any) -> np.ndarray:
        drawn.append(draw(*args, **kwargs))
        return drawn[-1]

    def moving(model: nn.Module, chosen: Any, gradients: Any, **kwargs: Any) -> None:
        weights = {name: p.detach().clone() for name, p in model.named_parameters()}
        gradient = {name: g.clone() for name, g in gradients.items()}
        recorded = read(run_dir / "ledger.jsonl").steps
        witness.steps.append(Step(drawn[-1], weights, gradient, recorded))
        move(model, chosen, gradients, **kwargs)

    def taking(self: Stepper, *args: Any) -> Any:
        witness.stepper = self
        return take(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "poisson_batch", drawing)
        patch.setattr(step, "take_step", moving)
        patch.setattr(Stepper, "take", taking)
        yield


def record_gradients(witness: Witness, seen: Step) -> Tensor:
    """Every record's gradient at the weights before a step, one at a time, (records, d)."""
    model, records = witness.prepared.model, witness.prepared.training
    after = {name: p.detach().clone() for name, p in model.named_parameters()}
    _put(model, seen.weights)
    rows = [torch.zeros(0, sum(w.numel() for w in seen.weights.values()), dtype=torch.float64)]
    for index in seen.indices.tolist():
        labels = records.labels[index]
        length = int((labels >= 0).sum())
        tokens = records.tokens[index, :length]
        logits = model(input_ids=tokens[None, :-1], use_cache=False).logits[0]
        gradients = torch.autograd.grad(cross_entropy(logits, tokens[1:]), list(model.parameters()))
        rows.append(torch.cat([g.flatten() for g in gradients]).double()[None])
    _put(model, after)
    return torch.cat(rows)


def clipped_sum(witness: Witness, seen: Step, max_grad_norm: float) -> Tensor:
    """Σᵢ gᵢ·min(1, C/‖gᵢ‖) at the weights before a step, flat."""
    rows = record_gradients(witness, seen)
    return ((max_grad_norm / rows.norm(dim=1)).clamp(max=1) @ rows).flatten()


def released(seen: Step) -> Tensor:
    """The gradient a step handed to the optimizer, flat."""
    return torch.cat([g.flatten() for g in seen.gradient.values()]).double()


@torch.no_grad()
def _put(model: nn.Module, weights: dict[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        parameter.copy_(weights[name])
