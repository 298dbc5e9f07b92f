"""Where a session of a run sets out from: at the beginning, or where the newest checkpoint stands.

All of it stands here before anything is written, so that a run which cannot be is refused first.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Self

import torch
from torch.optim import Optimizer

from workbench.config import RunConfig
from workbench.runs.folder import RunRecord
from workbench.training import checkpoint, progress
from workbench.training.checkpoint import Position
from workbench.training.distributed import World
from workbench.training.memory.predict import physical_batch_size
from workbench.training.optimizer import optimizer
from workbench.training.plan import remaining
from workbench.training.prepare import Prepared
from workbench.training.randomness import renewed, seeded
from workbench.training.replay import can_replay, fingerprint
from workbench.training.same_run import refuse_other_terms
from workbench.training.spending import Spending
from workbench.training.step import Stepper
from workbench.training.tail import TailAverage


@dataclass(frozen=True)
class Start:
    """A run about to take its next step; only its folder is not open yet.

    ``same_noise`` says that steps which were lost are drawn again as they were.
    """

    config: RunConfig
    prepared: Prepared
    world: World
    optimizer: Optimizer
    stepper: Stepper
    spending: Spending
    position: Position
    began: datetime
    same_noise: bool = True
    tail: TailAverage | None = None  # which the first process alone has

    @classmethod
    def fresh(cls, config: RunConfig, prepared: Prepared, world: World) -> Self:
        """At the beginning; `InputError` where the engine cannot treat the model."""
        with torch.no_grad():
            world.take_from_first(dict(prepared.model.named_parameters()))
        moving = optimizer(prepared.model, config.training)
        size = physical_batch_size(config, prepared.model)
        stepper = Stepper(config, prepared, moving, world, physical_batch_size=size)
        stepper.try_out()
        own = world.joint(None if stepper.draws_elsewhere else fingerprint(config, prepared))
        prepared = replace(prepared, randomness=seeded(prepared.randomness, own))
        stepper.prepared = prepared
        share = config.training.tail_fraction
        return cls(
            config,
            prepared,
            world,
            moving,
            stepper,
            Spending(prepared.terms, prepared.plan),
            Position(fingerprint=own),
            datetime.now(UTC),
            tail=TailAverage(share) if share and world.first else None,
        )

    def restored(self, record: RunRecord, state: Mapping[str, Any] | None) -> Self:
        """Where the newest checkpoint of ``record`` stands, or at the beginning without one.

        ``state`` is that checkpoint's, as `same_run.refuse_edits` has read it.
        """
        prepared = self.prepared
        refuse_other_terms(record, prepared.terms, prepared.corpus)
        own, saved = self.position.fingerprint, Position()
        if record.checkpoint is not None and state is not None:
            saved = checkpoint.restore(
                record.checkpoint,
                state,
                prepared.model,
                self.optimizer,
                prepared.randomness,
                fingerprint=own,
                tail=self.tail,
            )
        same_noise = self.world.agreed(can_replay(record.ledger, saved, own))
        if not same_noise:
            prepared = replace(prepared, randomness=renewed(prepared.randomness, own))
        recorded = saved.recorded if same_noise else record.ledger.steps
        before, since = record.ledger.first(recorded), saved.step
        plan = remaining(prepared.plan, self.config, before=before, since=since)
        prepared = replace(prepared, plan=plan)
        self.stepper.prepared, self.stepper.max_grad_norm = prepared, saved.max_grad_norm
        return replace(
            self,
            prepared=prepared,
            spending=Spending(prepared.terms, plan, before=before, since=since),
            position=replace(saved, fingerprint=own),
            same_noise=same_noise,
        )

    def summary(self) -> dict[str, Any]:
        """What the run's folder says of it until it ends."""
        return progress.summary(
            self.config, self.prepared, self.position, state="running", began=self.began
        )
