"""What a run would spend, certified, before its first step."""

from collections.abc import Iterator
from dataclasses import dataclass

from workbench import corpora, privacy
from workbench.config import RunConfig
from workbench.privacy import Guarantee


@dataclass(frozen=True)
class Projection:
    """The guarantee of a whole run, with what it follows from; a target ε has become a σ."""

    noise_multiplier: float
    expected_batch_size: int
    training_records: int
    steps: int
    guarantee: Guarantee

    @property
    def warning(self) -> str:
        """Why the guarantee protects less than it seems to; empty if nothing speaks against it."""
        if self.guarantee.delta < 1 / self.training_records:
            return ""
        return (
            f"δ is {self.guarantee.delta:.2g} but 1/N is {1 / self.training_records:.2g}: a δ this "
            "large allows giving away whole records, so choose one well below 1/N."
        )


def project(config: RunConfig) -> Iterator[Projection]:
    """Yield what ``config`` would spend; a second or so, so it belongs in the background.

    Raises `InputError` for a corpus or a setting that training would refuse for the same reason.
    """
    terms = config.privacy
    n_records = len(corpora.load(config.corpus, seed=config.seed).training)
    rate, steps = config.sample_rate(n_records), config.steps(n_records)
    sigma = terms.noise_multiplier
    if sigma is None:
        assert terms.target_epsilon is not None
        sigma = privacy.noise_multiplier(
            terms.target_epsilon, rate, steps, terms.delta, accountant=terms.accountant
        )
    epsilon = privacy.epsilon(sigma, rate, steps, terms.delta, accountant=terms.accountant)
    yield Projection(
        noise_multiplier=sigma,
        expected_batch_size=config.training.expected_batch_size,
        training_records=n_records,
        steps=steps,
        guarantee=Guarantee(epsilon, terms.delta, terms.accountant),
    )
