"""DP-SGD in a training loop of your own: any PyTorch model, any optimizer, any data set.

What must not go wrong is in one call. It draws the Poisson batch, clips every record's gradient,
adds noise once, divides by the expected batch size, counts the step, and only then sets ``.grad``:

>>> import torch
>>> from torch.nn.functional import cross_entropy
>>> from workbench import privacy, training
>>> x, y = torch.randn(200, 5), torch.randint(3, (200,))
>>> model = torch.nn.Linear(5, 3)
>>> optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
>>> private = training.PrivateSteps(
...     model, x, expected_batch_size=20, noise_multiplier=1.0, max_grad_norm=1.0, delta=1e-5
... )
>>> for _ in range(10):
...     private.backward(lambda i: cross_entropy(model(x[i]), y[i], reduction="none"))
...     optimizer.step()
>>> private.guarantee().epsilon == privacy.epsilon(1.0, 20 / 200, 10, delta=1e-5)
True

Under ``torchrun`` every process makes one, after ``torch.distributed.init_process_group`` and with
the whole data set, and the loop stays as it is. The first process draws the batch, each clips its
share of the records, the shares are added up once, and the first adds noise once. A model inside
DistributedDataParallel is refused: that averages gradients where sums are needed, and before they
are clipped.
"""

import os
import warnings
import weakref
from collections.abc import Callable, Sized
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from workbench.clipping.clipped_sum import ClippedSum, trainable, zeros
from workbench.clipping.gradient_sum import clipped_gradient_sum
from workbench.config import Accountant
from workbench.errors import InputError, positive, probability, whole
from workbench.privacy import Guarantee
from workbench.privacy.schedule import History
from workbench.runs.ledger import Ledger, Terms, read
from workbench.training.distributed import connected, refuse_wrapped
from workbench.training.optimizer import gaussian_noise, noisy_mean
from workbench.training.randomness import digest_of, generators
from workbench.training.sampling import poisson_batch

RecordLosses = Callable[[Tensor], Tensor]
_SEEDED = (
    "PrivateSteps has a seed: whoever knows it can subtract the noise, and two loops with one seed "
    "share it, so that no ε covers both; leave seed out for weights that you release."
)


class PrivateSteps:
    """Draws, clips, adds noise and counts for the steps of one loop on one data set.

    Args:
        model: in training mode; its trainable parameters count, together.
        records: the data set, or anything as long: ``len(records)`` records, one protected each.
        expected_batch_size: B̄, the mean of the random batch sizes, and the divisor.
        noise_multiplier: σ, the noise's deviation over C; `privacy.noise_multiplier` finds one.
        max_grad_norm: the clipping norm C.
        delta: δ, well below one over the number of records.
        accountant: which published one certifies ε.
        physical_batch_size: records in one forward and backward pass; memory alone depends on it.
        engine: of `clipped_gradient_sum`.
        unit: what one record is, in a word for the guarantee.
        ledger: a file that holds every step before its gradient is handed out. One that exists is
            gone on with, and its steps count.
        seed: for tests and teaching alone; batches and noise follow from it, and a warning says so.

    Raises `InputError` for arguments that cannot be, a model that is wrapped for several devices,
    processes that were started together and are not connected or differ in their data, and a
    ledger that was begun under other terms or whose steps had another σ, q or C.
    """

    def __init__(
        self,
        model: nn.Module,
        records: Sized,
        *,
        expected_batch_size: int,
        noise_multiplier: float,
        max_grad_norm: float,
        delta: float,
        accountant: Accountant = "pld",
        physical_batch_size: int = 64,
        engine: str = "bookkeeping",
        unit: str = "record",
        ledger: str | Path | None = None,
        seed: int | None = None,
    ) -> None:
        refuse_wrapped(model)
        if not trainable(model):
            raise InputError(
                "The model has no trainable parameter; unfreeze what is to be trained."
            )
        self._model, self._records, self._engine = model, records, engine
        self._world, self._process = connected(), os.getpid()
        size = self._agreed_size()
        remedy = "choose a number of records"
        batch = whole("expected_batch_size", expected_batch_size, least=1, remedy=remedy)
        self._part = whole("physical_batch_size", physical_batch_size, least=1, remedy=remedy)
        if batch > size:
            raise InputError(
                f"expected_batch_size is {batch} but there are {size} records; choose a smaller "
                "batch or more data."
            )
        self._noise_multiplier = positive(
            "noise_multiplier", noise_multiplier, remedy="set σ, the noise's deviation over C"
        )
        self._norm = positive("max_grad_norm", max_grad_norm, remedy="set the clipping norm C")
        self._terms = Terms(
            delta=probability("delta", delta, remedy="choose one well below 1 over the records"),
            accountant=accountant,
            sampling="poisson",
            neighbouring_relation="add_or_remove_one",
            unit=unit,
            training_records=size,
            expected_batch_size=batch,
        )
        self._rate, self._taken = batch / size, 0
        with torch.no_grad():
            self._world.take_from_first(dict(model.named_parameters()))
        first = next(iter(trainable(model).values()))
        self._sampling, self._noise = generators(first.device, self._follows_from(seed))
        before: History = []
        self._ledger: Ledger | None = None
        if ledger is not None and self._world.first:
            self._ledger, before = self._opened(Path(ledger))
            weakref.finalize(self, self._ledger.__exit__)
        self._before = self._world.agreed(before)

    def backward(self, record_losses: RecordLosses) -> None:
        """Take a new Poisson batch and set every trainable parameter's ``.grad`` from it.

        ``.grad`` is the noisy mean (Σ clipped + 𝒩(0, σ²C²)) / B̄ (Abadi et al. 2016, algorithm 1),
        so the optimizer may do with it what it likes. The step counts from the moment at which its
        gradient is about to be handed out, also where the batch is empty.

        Args:
            record_losses: from the indices of some records, (part,) int64 on the CPU, to one loss
                a record, (part,), each a function of that record alone. It is called once for
                every physical part, not at all for an empty batch.

        Raises `InputError` if the data set has another length by now, if losses are not one a
        record, or where `clipped_gradient_sum` does; then no parameter has a ``.grad``.
        """
        parameters = trainable(self._model)
        for parameter in parameters.values():
            parameter.grad = None
        try:
            noisy = self._noisy_mean(record_losses)
        except BaseException:
            for parameter in parameters.values():
                parameter.grad = None
            raise
        self._record()
        self._world.take_from_first(noisy)
        for name, parameter in parameters.items():
            parameter.grad = noisy[name].to(parameter.dtype)

    @property
    def steps(self) -> int:
        """How many steps count so far, with those of a ledger gone on with."""
        return self._taken + sum(count for _, _, count in self._before)

    def guarantee(self) -> Guarantee:
        """The certified guarantee of the steps so far, for whoever sees every gradient."""
        own: History = [(self._noise_multiplier, self._rate, self._taken)] if self._taken else []
        return self._terms.guarantee(self._before + own)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "PrivateSteps cannot be copied or sent elsewhere, because the copy would draw the same "
            "noise; make another, with the same ledger to go on counting."
        )

    def _noisy_mean(self, record_losses: RecordLosses) -> dict[str, Tensor]:
        if os.getpid() != self._process:
            raise InputError(
                "PrivateSteps was made in another process, which would draw the same noise; make "
                "one in each process."
            )
        if not self._model.training:
            raise InputError("The model is in evaluation mode; call model.train() first.")
        if self._agreed_size() != self._terms.training_records:
            raise InputError(
                f"There are {len(self._records)} records but PrivateSteps began with "
                f"{self._terms.training_records}, which its sample rate counts on; keep the data "
                "set as it was, or make another."
            )
        total = self._clipped_sum(self._batch(), record_losses)
        self._world.add_up(total.gradients)
        noise = gaussian_noise(
            total, noise_multiplier=self._noise_multiplier, generator=self._noise
        )
        batch = self._terms.expected_batch_size
        return noisy_mean(total.gradients, noise, expected_batch_size=batch)

    def _batch(self) -> np.ndarray:
        """The share of this process in one batch, which the first has drawn."""
        drawn = poisson_batch(
            self._terms.training_records, sample_rate=self._rate, generator=self._sampling
        )
        return self._world.share(self._world.agreed(drawn))

    def _clipped_sum(self, indices: np.ndarray, record_losses: RecordLosses) -> ClippedSum:
        """Σ clipped over this process's records, one physical part at a time."""
        total = ClippedSum(zeros(trainable(self._model)), torch.zeros(0), self._norm)
        for part in torch.from_numpy(indices).split(self._part):
            if not len(part):  # an empty tensor splits into one empty part
                continue

            def losses(part: Tensor = part) -> Tensor:
                found = record_losses(part)
                if found.shape != part.shape:
                    raise InputError(
                        f"record_losses gave shape {tuple(found.shape)} for {len(part)} records "
                        "but must give one loss a record, (part,); drop the mean over the batch."
                    )
                return found

            clipped = clipped_gradient_sum(
                self._model, losses, max_grad_norm=self._norm, engine=self._engine
            )
            total = total.with_part(clipped)
        return total

    def _record(self) -> None:
        """Count the step, on disk first, before anybody has its gradient."""
        if self._ledger is not None:
            self._ledger.record_step(
                noise_multiplier=self._noise_multiplier,
                sample_rate=self._rate,
                max_grad_norm=self._norm,
            )
        self._taken += 1

    def _opened(self, path: Path) -> tuple[Ledger, History]:
        if not path.exists():
            return Ledger(path, self._terms), []
        record = read(path)
        own = (self._noise_multiplier, self._rate, self._norm)
        for what, now, then in (
            ("terms", self._terms, {record.terms}),
            ("noise multiplier, sample rate and C", own, set(record.every_step)),
        ):
            if then - {now}:
                raise InputError(
                    f"The ledger {path} was begun with other {what} ({(then - {now}).pop()}) than "
                    f"{now}; give those, or another file."
                )
        ledger = Ledger.resumed(path, recorded=record.steps, same_noise=False, head=record.head)
        ledger.go_on(step=record.steps, same_noise=False)
        return ledger, record.history

    def _agreed_size(self) -> int:
        try:
            own = len(self._records)
        except TypeError:
            raise InputError(
                f"records is a {type(self._records).__name__}, which has no length, but its length "
                "decides the sample rate; give a data set with one."
            ) from None
        sizes = set(self._world.gathered(own))
        if len(sizes) > 1:
            raise InputError(
                f"The processes have {sorted(sizes)} records each; give all of them the whole data "
                "set, which PrivateSteps divides itself."
            )
        return own

    def _follows_from(self, seed: int | None) -> str | None:
        """What seeded generators start from; weights too, so that other models differ."""
        if seed is None:
            return None
        warnings.warn(_SEEDED, UserWarning, stacklevel=3)
        weights = digest_of(self._model.parameters())
        own = (self._noise_multiplier, self._norm, self._part, self._engine, self._world.size)
        return f"own loop\0{seed}\0{self._terms}\0{own}\0{weights}"
