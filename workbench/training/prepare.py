"""Everything a run needs before its first step, and every reason to refuse it.

Nothing is written and no generator but that of the initial weights is used before all of it holds.
"""

import copy
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from workbench import corpora
from workbench.config import CorpusConfig, ModelConfig, RunConfig
from workbench.corpora import Encoded, RecordCounts, Records
from workbench.corpora.builtin import CORPORA
from workbench.corpora.records import subset
from workbench.corpora.tokens import IGNORED, refuse_without_template
from workbench.errors import InputError
from workbench.privacy import PrivacyTerms, refuse_unaccounted
from workbench.runs.ledger import Terms
from workbench.runs.planted import Planted
from workbench.training import models
from workbench.training.plan import Plan, plan
from workbench.training.planting import plant, with_canaries
from workbench.training.randomness import Randomness, initial_weights, randomness
from workbench.training.same_run import corpus_hash


@dataclass(frozen=True)
class Examples:
    """Encoded records on the device: tokens and labels, each (records, record_tokens) int64."""

    tokens: Tensor
    labels: Tensor

    @classmethod
    def on(cls, device: torch.device, encoded: Encoded) -> "Examples":
        """A copy on ``device``."""
        return cls(*(torch.tensor(of, device=device) for of in (encoded.tokens, encoded.labels)))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, indices: Tensor | slice) -> "Examples":
        return Examples(self.tokens[indices], self.labels[indices])

    def without_common_padding(self) -> "Examples":
        """The same records without the columns that are padding in all of them."""
        learnt = (self.labels != IGNORED).any(dim=0).nonzero()
        used = max(2, int(learnt.max()) + 1 if len(learnt) else 0)  # to predict one from
        return Examples(self.tokens[:, :used], self.labels[:, :used])


@dataclass(frozen=True)
class Prepared:
    """A run about to start; ``corpus`` is the hash of all of it, as confidential as its records.

    ``training`` holds the canaries that are in, behind the records of the corpus, and ``planted``
    all of them. N, in ``plan`` and ``terms``, counts those that are out, too.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    training: Examples
    heldout: Examples
    counts: RecordCounts
    device: torch.device
    plan: Plan
    terms: Terms
    randomness: Randomness
    corpus: str
    planted: Planted | None = None

    @property
    def n_params(self) -> int:
        """Trainable parameters, a tied one once."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)


def prepare(config: RunConfig, *, coins: np.ndarray | None = None) -> Prepared:
    """Load corpus, tokenizer and model, plant canaries, and settle the plan of all steps.

    ``coins`` say which canaries are in; a run that goes on has some. Raises `InputError`, before
    anything is written, for whatever cannot be run as asked.
    """
    if config.privacy.private:
        refuse_unaccounted(PrivacyTerms.of(config.privacy))
    device = _device(config.runtime.device)
    records, tokenizer = _records(config)
    settled = plan(config, len(records.training))
    weights = initial_weights(config.seed)
    model, tokenizer = _model_and_tokenizer(config, records, tokenizer, weights)
    training, heldout = _encoded(config, records, tokenizer)
    own = len(training.tokens)
    model = model.to(device)  # type: ignore[arg-type]
    planted = plant(config, records.public, training, model, tokenizer, weights, coins=coins)
    training = with_canaries(training, planted)
    _refuse_unknown_tokens(config, model, tokenizer, training, heldout)
    examples = Examples.on(device, training)
    starts_from = (examples.tokens, examples.labels, *model.parameters())
    return Prepared(
        model=model.train(),
        tokenizer=tokenizer,
        training=examples,
        heldout=Examples.on(device, heldout),
        counts=replace(
            records.counts,
            public=len(records.public),
            heldout=len(records.heldout),
            training=own,
            canaries=config.canaries.records,
            truncated=training.truncated,
            nothing_to_predict=training.nothing_to_predict,
        ),
        device=device,
        plan=settled,
        terms=Terms(
            delta=config.privacy.delta,
            accountant=config.privacy.accountant,
            sampling=config.privacy.sampling,
            neighbouring_relation=config.privacy.neighbouring_relation,
            unit=config.privacy.unit,
            training_records=settled.dataset_size,
            expected_batch_size=config.training.expected_batch_size,
        ),
        randomness=randomness(config, device, starts_from),
        corpus=corpus_hash(config, records, tokenizer, training, heldout),
        planted=planted,
    )


def load_records(config: RunConfig) -> Records:
    """The records that a run of ``config`` would have, chunks cut by its tokenizer.

    Raises `InputError` as `prepare` does for a corpus that cannot be used.
    """
    return _records(config)[0]


def _records(config: RunConfig) -> tuple[Records, PreTrainedTokenizerBase | None]:
    """The records, and the tokenizer where it had to be there to cut them."""
    corpus, seed = config.corpus, config.corpus_seed
    if corpus.record != "chunk":
        return corpora.load(corpus, seed=seed), None
    everything = corpus.model_copy(update={"training_subset": 1.0})
    if corpus.source in CORPORA and config.model.directory() is None:
        key = everything.model_dump_json()
        records, tokenizer = _chunks_of_builtin(key, seed, config.model.vocabulary)
        tokenizer = copy.deepcopy(tokenizer)  # a run may change its own
    else:
        records, tokenizer = _chunks(everything, seed, config.model)
    return subset(records, corpus.training_subset, seed=seed), tokenizer


def _chunks(
    corpus: CorpusConfig, seed: int, model: ModelConfig
) -> tuple[Records, PreTrainedTokenizerBase]:
    records = corpora.load(corpus, seed=seed)
    if folder := model.directory():
        tokenizer = models.from_directory(folder)[1]
    else:
        refuse_without_template(not records.are_chats)
        tokenizer = corpora.train_tokenizer(records.public, model.vocabulary)
    return corpora.chunked(records, tokenizer, record_tokens=corpus.record_tokens), tokenizer


@lru_cache(maxsize=1)
def _chunks_of_builtin(
    corpus: str, seed: int, vocabulary: int
) -> tuple[Records, PreTrainedTokenizerBase]:
    """Kept for the next run: it takes a quarter of a minute and nothing else decides it."""
    settings = CorpusConfig.model_validate_json(corpus)
    return _chunks(settings, seed, ModelConfig(vocabulary=vocabulary))


def _device(name: str) -> torch.device:
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":  # not Apple's GPU, on which nothing was measured yet
        if available["cuda"]:
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("cpu")
    if not available[name]:
        raise InputError(
            f"runtime.device is {name!r} but this machine has none that torch can use; set it to "
            "'auto'."
        )
    return torch.device(name)


def _model_and_tokenizer(
    config: RunConfig,
    records: Records,
    tokenizer: PreTrainedTokenizerBase | None,
    generator: torch.Generator,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if folder := config.model.directory():
        model, tokenizer = models.from_directory(folder)
    else:
        refuse_without_template(not records.are_chats)
        if tokenizer is None:
            tokenizer = corpora.train_tokenizer(records.public, config.model.vocabulary)
        model = models.tiny(
            config.model,
            vocabulary=len(tokenizer),
            context=config.corpus.record_tokens,
            generator=generator,
        )
    context = models.context_length(model)
    if config.corpus.record_tokens > context:
        raise InputError(
            f"corpus.record_tokens is {config.corpus.record_tokens} but the model takes at most "
            f"{context} tokens; lower it."
        )
    return model, tokenizer


def _encoded(
    config: RunConfig, records: Records, tokenizer: PreTrainedTokenizerBase
) -> tuple[Encoded, Encoded]:
    """The training and the held-out records as tokens.

    Encoding takes longer than all else before the first step, so the latest is kept. A model's own
    tokenizer may have changed meanwhile; ours follows from the public records.
    """
    corpus = config.corpus
    key = (records, config.model.vocabulary, corpus.record_tokens, corpus.long_records)
    ours = config.model.directory() is None
    if ours and (kept := _KEPT.get(key)):
        return kept
    training, heldout = (
        corpora.encode(
            tokenizer,
            texts,
            record_tokens=corpus.record_tokens,
            long_records=corpus.long_records,
        )
        for texts in (records.training, records.heldout)
    )
    if ours:
        _KEPT.clear()
        _KEPT[key] = training, heldout
    return training, heldout


def _refuse_unknown_tokens(
    config: RunConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *encoded: Encoded,
) -> None:
    """What is used counts: tokenizers may have tokens for images that the model never sees."""
    largest = max(int(each.tokens.max(initial=0)) for each in encoded)
    if isinstance(tokenizer.bos_token_id, int):  # what a sample of text starts from
        largest = max(largest, tokenizer.bos_token_id)
    known = models.vocabulary(model)
    if largest >= known:
        raise InputError(
            f"The tokenizer in model.source {config.model.source!r} gives token {largest} but the "
            f"model beside it has {known}, counted from 0; save the two that belong together, or "
            "call the model's resize_token_embeddings."
        )


_KEPT: dict[tuple[Records, int, int, str], tuple[Encoded, Encoded]] = {}
