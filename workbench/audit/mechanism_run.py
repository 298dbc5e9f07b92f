"""The mechanism audit of the workbench's own steps, around a real language model.

The model of the run gets three spare parameters, and the run gets records that only these learn
from. All else is the run's own: sampling, engine, noise, ledger's σ and q, optimizer.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from workbench.audit.mechanism import OVERSIZE, MechanismReport, observed_from
from workbench.audit.mechanism_checks import LEFT, RIGHT, Claim
from workbench.config import RunConfig
from workbench.corpora.tokens import IGNORED
from workbench.errors import InputError, whole
from workbench.training import models
from workbench.training.distributed import World
from workbench.training.memory.predict import physical_batch_size
from workbench.training.optimizer import optimizer
from workbench.training.plan import plan
from workbench.training.prepare import Examples, Prepared, prepare
from workbench.training.randomness import coins
from workbench.training.step import Stepper


def audit_trainer(
    config: RunConfig,
    *,
    steps: int = 300,
    n_canaries: int = 1000,
    n_roll: int = 1500,
    n_records: int = 500,
    significance: float = 0.01,
    on_step: Callable[[int], None] | None = None,
    enough: Callable[[MechanismReport], bool] | None = None,
) -> MechanismReport:
    """Watch the steps that train ``config`` take, on some of its records and planted gradients.

    Args:
        config: the run; its σ, batch and C are claimed and must not change on the way.
        steps: how many to take; the model is thrown away.
        n_canaries: gradient canaries, each in by a fair coin of the operating system.
        n_roll: records that only answer the roll call.
        n_records: real records of the corpus beside them.
        significance: how often a true claim may be flagged, over all checks.
        on_step: called with the number of steps taken.
        enough: called with what was measured so far after 5, 10, 20 … steps; True ends the audit.

    Nothing is written and no step enters a ledger. Raises `InputError` for a run without privacy,
    with a schedule or with adaptive clipping, and for whatever training refuses.
    """
    steps = whole("steps", steps, least=1, remedy="watch some steps")
    asked = config.with_changes({"canaries.count": 0, "training.steps": steps})
    _refuse_changing(asked)
    included = coins(config.with_changes({"canaries.count": n_canaries, "randomness": "secure"}))
    prepared = _planted(asked, prepare(asked), included, n_roll=n_roll, n_records=n_records)
    model = prepared.model
    assert isinstance(model, _Planted)
    chosen = optimizer(model, asked.training)
    rows: list[np.ndarray] = []
    terms = prepared.plan.at(0)
    scale = -terms.expected_batch_size / terms.max_grad_norm

    def watch(*_: Any) -> None:
        spare = [model.left.weight, model.right.weight, model.roll.weight]
        rows.append(np.concatenate([p.grad.double().cpu().numpy().ravel() for p in spare]) * scale)  # type: ignore[union-attr]
        for parameter in spare:
            parameter.grad.zero_()  # type: ignore[union-attr]

    chosen.register_step_pre_hook(watch)
    size = physical_batch_size(asked, model.inner)
    stepper = Stepper(asked, prepared, chosen, World(), physical_batch_size=size)
    claim = Claim(
        noise_multiplier=terms.noise_multiplier,
        sample_rate=terms.sample_rate,
        max_grad_norm=terms.max_grad_norm,
        expected_batch_size=terms.expected_batch_size,
    )

    def report() -> MechanismReport:
        observed = observed_from(np.stack(rows), included, n_roll=n_roll)
        return MechanismReport(claim, observed, significance, config.privacy.delta)

    for step in range(steps):
        stepper.take(step, None)
        if on_step is not None:
            on_step(step + 1)
        if enough is not None and enough(report()):
            break
    return report()


def _refuse_changing(config: RunConfig) -> None:
    if not config.privacy.private:
        raise InputError(
            "privacy.private is false, so there is no mechanism to audit; set it to true."
        )
    if config.privacy.clipping != "flat":
        raise InputError(
            f"privacy.clipping is {config.privacy.clipping!r} but the audit measures gradients "
            "that are clipped to a constant C; set it to 'flat'."
        )
    for name, ramp in config.schedule:
        if ramp.kind != "constant":
            raise InputError(
                f"schedule.{name}.kind is {ramp.kind!r} but the audit measures one σ, q and C; set "
                "it to 'constant'."
            )


class _Planted(nn.Module):
    """A language model whose planted records have logits of spare parameters alone.

    A planted record begins with a token behind the vocabulary, which says whose it is, and has
    token 0 to predict. Its loss falls along its own spare weights, whose length clipping sets.
    """

    def __init__(self, inner: PreTrainedModel, n_canaries: int, steepness: float) -> None:
        super().__init__()
        self.inner, self.n_canaries = inner, n_canaries
        self.known, self.steepness = models.vocabulary(inner), steepness
        self.config = inner.config
        self.left = nn.Embedding(n_canaries, 1)
        self.right = nn.Embedding(n_canaries, 1)
        self.roll = nn.Embedding(1, 1)
        with torch.no_grad():
            for spare in (self.left, self.right, self.roll):
                spare.weight.zero_()

    @property
    def device(self) -> torch.device:
        """That of its weights."""
        return self.inner.device

    def get_input_embeddings(self) -> nn.Module:
        """Those of the language model, whose tokens are the real ones."""
        return self.inner.get_input_embeddings()

    def forward(self, input_ids: Tensor, **more: Any) -> Any:
        planted = input_ids[:, :1] >= self.known
        real = torch.where(input_ids < self.known, input_ids, 0)
        output = self.inner(input_ids=real, **more)
        number = (input_ids[:, :1] - self.known).clamp(min=0)
        own = number.clamp(max=self.n_canaries - 1)
        along = LEFT * self.left(own) + RIGHT * self.right(own)
        called = self.roll(torch.zeros_like(number))
        value = torch.where((number == self.n_canaries)[..., None], called, along)
        first = torch.zeros_like(output.logits[:1, :1])
        first[..., 0] = self.steepness
        output.logits = torch.where(planted[..., None], value * first, output.logits)
        return output


def _planted(
    config: RunConfig, prepared: Prepared, included: np.ndarray, *, n_roll: int, n_records: int
) -> Prepared:
    """The run with planted records behind some of its own; N counts canaries that are out, too."""
    m, known = len(included), models.vocabulary(prepared.model)
    steepness = OVERSIZE * config.privacy.max_grad_norm / (1 - 1 / known)
    model = _Planted(prepared.model, m, steepness).to(prepared.device).train()
    own = prepared.training[:n_records]
    names = np.concatenate([np.flatnonzero(included), np.full(n_roll, m)]) + known
    tokens = torch.zeros((len(names), own.tokens.shape[1]), dtype=torch.int64)
    tokens[:, 0] = torch.from_numpy(names)
    labels = torch.full_like(tokens, IGNORED)
    labels[:, 1] = 0
    parts = zip((own.tokens, own.labels), (tokens, labels), strict=True)
    training = Examples(*(torch.cat([one, other.to(one.device)]) for one, other in parts))
    return replace(
        prepared,
        model=model,  # type: ignore[arg-type]
        training=training,
        plan=plan(config, len(own) + n_roll + m),
    )
