"""What a run would spend, certified, before its first step."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from workbench import corpora, privacy
from workbench.config import RunConfig
from workbench.corpora.counts import RecordCounts
from workbench.corpora.tokens import refuse_without_template
from workbench.privacy import Guarantee, PrivacyTerms
from workbench.training.plan import Plan, plan


@dataclass(frozen=True)
class Projection:
    """The guarantee of a whole run, and the plan that it follows from.

    Without privacy ε is infinite.
    """

    plan: Plan
    guarantee: Guarantee
    counts: RecordCounts | None = None  # before encoding, so none of them cut

    @property
    def warning(self) -> str:
        """Why the guarantee protects less than it seems to; empty if nothing speaks against it."""
        bound = 1 / self.plan.dataset_size
        if self.guarantee.delta < bound or math.isinf(self.guarantee.epsilon):
            return ""
        return (
            f"δ is {self.guarantee.delta:.2g} but 1/N is {bound:.2g}: a δ this large allows giving "
            "away whole records, so choose one well below 1/N."
        )


def project(config: RunConfig) -> Iterator[Projection]:
    """Yield what ``config`` would spend; a second or so, so it belongs in the background.

    Raises `InputError` for a corpus or a setting that training would refuse for the same reason.
    """
    config.model.directory()  # a path that is not there should not have to wait for Start
    terms = PrivacyTerms.of(config.privacy)
    if config.corpus.record == "chunk":
        from workbench.training.prepare import load_records  # with torch and the tokenizer

        records = load_records(config)
    else:
        records = corpora.load(config.corpus, seed=config.corpus_seed)
    if config.model.directory() is None:
        refuse_without_template(not records.are_chats)
    planned = plan(config, len(records.training))
    guarantee = privacy.guarantee(planned.history(), terms)
    yield Projection(planned, guarantee, records.counts)
