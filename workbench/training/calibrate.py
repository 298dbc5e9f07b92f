"""A clipping norm from the gradient norms themselves: whose norms decides what it costs.

Public records cost nothing. Private ones may be asked only through noisy counts, which are
accounted. The article's way, a warm-up epoch on the private records without noise, reads off them
for free, and no ε covers it; it is here to compare with, and says so.
"""

import warnings
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from workbench import corpora
from workbench.clipping.clipped_sum import ClippedSum
from workbench.config import RunConfig
from workbench.errors import InputError, probability
from workbench.privacy.schedule import History
from workbench.training.memory.predict import physical_batch_size
from workbench.training.optimizer import optimizer, take_step
from workbench.training.plan import count_noise
from workbench.training.prepare import Examples, Prepared, prepare
from workbench.training.quantile import count_below, moved_norm, noisy_share_below
from workbench.training.randomness import initial_weights, seeded
from workbench.training.replay import fingerprint
from workbench.training.sampling import poisson_batch
from workbench.training.step import batch_gradient_sum

Source = Literal["public", "noisy_counts", "article_warm_up"]
_ROUNDS = 40
_RATE = 1.0  # of the first round; it falls as 1/√round, so that C comes to rest
_NO_BOUND = 1e30  # clips nothing, and the engines still tell every norm
_NOT_PRIVATE = (
    "This C was read off private records without noise, so no ε covers it; use it to compare, and "
    "take public records or noisy counts for a run that is to be private."
)


@dataclass(frozen=True)
class NormCalibration:
    """A clipping norm and where it is from.

    ``spent`` is what the private records were asked, to be composed with the run's own history by
    `privacy.compose`; ``warning`` is empty unless the norm is not private.
    """

    max_grad_norm: float
    quantile: float
    source: Source
    spent: History
    warning: str = ""


def calibrated_norm(
    config: RunConfig, *, quantile: float = 0.5, source: Source = "public"
) -> NormCalibration:
    """The ``quantile`` of record gradient norms, as a clipping norm for ``config``.

    ``public`` trains one pass over the public records, without noise, and takes the quantile of
    all norms on the way. ``noisy_counts`` asks Poisson batches of the private records at the
    initial weights, with ``privacy.count_noise_multiplier``. ``article_warm_up`` does on private
    records what ``public`` does on public ones, is not private, and warns of it.

    What ``noisy_counts`` has spent is in no run's ledger, nor in the ε that `train` and `verify`
    state. A run with that C has cost both together::

        privacy.compose(found.spent + read_run(run_dir).ledger.history, delta)

    Raises `InputError` for a quantile outside (0, 1) or an unknown source.
    """
    probability("quantile", quantile, remedy="choose one such as 0.5, the median")
    prepared = prepare(config)
    # The run itself, and a calibration that asks for something else, must not share its noise.
    purpose = f"calibration {source} {float(quantile)!r}"
    chance = seeded(prepared.randomness, fingerprint(config, prepared), purpose)
    prepared = replace(prepared, randomness=chance)
    match source:
        case "public":
            texts = corpora.load(config.corpus, seed=config.corpus_seed).public
            encoded = corpora.encode(
                prepared.tokenizer, texts, record_tokens=config.corpus.record_tokens
            )
            norms = _warm_up_norms(config, prepared, Examples.on(prepared.device, encoded))
            return NormCalibration(float(np.quantile(norms, quantile)), quantile, source, [])
        case "noisy_counts":
            return _by_noisy_counts(config, prepared, quantile)
        case "article_warm_up":
            warnings.warn(_NOT_PRIVATE, UserWarning, stacklevel=2)
            norms = _warm_up_norms(config, prepared, prepared.training)
            found = float(np.quantile(norms, quantile))
            return NormCalibration(found, quantile, source, [], _NOT_PRIVATE)
        case _:
            raise InputError(
                f"source is {source!r} but must be public, noisy_counts or article_warm_up; "
                "choose one of these."
            )


def _warm_up_norms(config: RunConfig, prepared: Prepared, records: Examples) -> np.ndarray:
    """Every record's norm on one plain pass over ``records``, (records,).

    Their order follows from the seed alone: of what private records there are, a C from public
    ones shows nothing.
    """
    order = torch.randperm(len(records), generator=initial_weights(config.seed))
    chosen = optimizer(prepared.model, config.training)
    size = min(config.training.expected_batch_size, max(1, len(records) // 8))
    norms = []
    for indices in order.split(size):
        total = _unclipped(config, prepared, records[indices])
        norms.append(total.norms)
        mean = {name: gradient / len(indices) for name, gradient in total.gradients.items()}
        rate = config.training.learning_rate
        take_step(prepared.model, chosen, mean, learning_rate=rate, noise_deviation=0.0)
    return torch.cat(norms).numpy()


def _by_noisy_counts(config: RunConfig, prepared: Prepared, quantile: float) -> NormCalibration:
    terms = prepared.plan.at(0)
    noise = count_noise(config.privacy.count_noise_multiplier, terms.expected_batch_size)
    bound = config.privacy.max_grad_norm
    for number in range(1, _ROUNDS + 1):
        indices = poisson_batch(
            len(prepared.training),
            sample_rate=terms.sample_rate,
            generator=prepared.randomness.sampling,
        )
        batch = prepared.training[torch.from_numpy(indices)]
        share = noisy_share_below(
            count_below(_unclipped(config, prepared, batch).norms, bound),
            len(indices),
            count_noise_multiplier=noise,
            expected_batch_size=terms.expected_batch_size,
            generator=prepared.randomness.noise,
        )
        bound = moved_norm(bound, share, quantile=quantile, rate=_RATE / number**0.5)
    # A record moves a count by ½, so noise of deviation σ is a Gaussian mechanism of 2σ.
    spent = [(2 * noise, terms.sample_rate, _ROUNDS)]
    return NormCalibration(bound, quantile, "noisy_counts", spent)


def _unclipped(config: RunConfig, prepared: Prepared, batch: Examples) -> ClippedSum:
    """The sum and the norms of a batch as the run would compute them, under a C never met."""
    asked = config.with_changes({"privacy.private": True, "privacy.clipping": "flat"})
    return batch_gradient_sum(
        prepared.model,
        batch,
        asked,
        max_grad_norm=_NO_BOUND,
        physical_batch_size=physical_batch_size(asked, prepared.model),
    )[0]
