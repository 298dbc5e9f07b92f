"""Whether a run that goes on is the run that was begun.

ε is one number for all weights of a run, so what it is stated under must not change on the way: the
records and their split, the model, the private part of the configuration. All else may, and is
accounted as it is: the ledger has every step with its own σ and q. A run goes on from an edited
configuration with new batches and noise (see `workbench.training.replay`).
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from workbench.config import RunConfig
from workbench.corpora import Encoded, Records
from workbench.errors import InputError
from workbench.runs.folder import RunRecord
from workbench.runs.identity import keyed_digest, read_key
from workbench.runs.ledger import Terms
from workbench.runs.verify import refuse_foreign, refuse_other_end

# What may be edited before a run goes on; schedule and runtime may as a whole. A corpus or a model
# may have moved: what lies there is compared.
_FREE = {
    "corpus": {"source"},
    "model": {"source"},
    "privacy": {
        "noise_multiplier",
        "target_epsilon",
        "max_epsilon",
        "max_grad_norm",
        "clip_quantile",
        "clip_learning_rate",
        "count_noise_multiplier",
    },
    "training": {
        "steps",
        "epochs",
        "learning_rate",
        "learning_rate_schedule",
        "warmup_steps",
        "momentum",
        "beta1",
        "beta2",
        "weight_decay",
        "evaluate_every",
        "patience",
        "max_minutes",
        "tail_fraction",
    },
}
_FREE_SECTIONS = ("schedule", "runtime")
_TERMS = {  # how the configuration calls them
    "delta": "privacy.delta",
    "accountant": "privacy.accountant",
    "sampling": "privacy.sampling",
    "neighbouring_relation": "privacy.neighbouring_relation",
    "unit": "privacy.unit",
    "expected_batch_size": "training.expected_batch_size",
}


def corpus_hash(
    config: RunConfig, records: Records, tokenizer: PreTrainedTokenizerBase, *encoded: Encoded
) -> str:
    """A hash of settings, seed, split, records and tokenizer, as confidential as the records.

    Where the corpus lies does not count.
    """
    digest = hashlib.sha256()

    def add(content: bytes) -> None:
        digest.update(len(content).to_bytes(8, "big"))  # so that no two sequences run together
        digest.update(content)

    # Without defaults, which fields that are new have when a run was begun before them.
    settings = config.corpus.model_dump(mode="json", exclude={"source"}, exclude_defaults=True)
    planted = config.canaries.model_dump(mode="json", exclude_defaults=True)
    settled = [settings, config.seed, *([planted] if planted else [])]
    add(json.dumps(settled, sort_keys=True).encode())
    add(json.dumps(sorted(tokenizer.get_vocab().items())).encode())
    for part in (records.public, records.heldout, records.training):
        add(str(len(part)).encode())
        for text in part:
            add(text.encode("utf-8", "surrogatepass"))
    for rows in encoded:
        add(rows.tokens.tobytes())
        add(rows.labels.tobytes())
    return digest.hexdigest()


def refuse_edits(record: RunRecord) -> Mapping[str, Any] | None:
    """The state of the newest checkpoint, if there is one, or the reason not to go on from it.

    Raises `InputError` if the folder does not hold together, or a field was edited that has to stay
    as it was. All of it before anything is loaded or written.
    """
    if record.ledger.terms.corpus_digest is None:
        raise InputError(
            f"The run {record.path} was begun by a version that kept no digest of its corpus, so "
            "nobody can tell that it would go on with the same records; verify still tells its ε, "
            "but start a new run."
        )
    refuse_other_end(record.path, record.summary, record.ledger)
    if record.checkpoint is None:
        return None
    try:
        state = refuse_foreign(record.checkpoint, record.ledger)
    except InputError:
        if record.checkpoint.exists():
            raise
        raise InputError(
            f"{record.path} was still being written when it was read; resume it once more."
        ) from None
    try:
        begun = RunConfig.parse(state["config"])
    except InputError:
        raise InputError(
            f"The checkpoint {record.checkpoint} has a configuration of another version of the "
            "workbench; use the version that summary.json names."
        ) from None
    adaptive = begun.privacy.clipping == "adaptive"  # then C stays where it has arrived
    then, now = dict(_fields(begun.model_dump())), dict(_fields(record.config.model_dump()))
    for name, value in now.items():
        free = _is_free(name) and not (adaptive and name == "privacy.max_grad_norm")
        if then[name] != value and not free:
            raise _edited(record, name, then[name], value)
    return state


def refuse_other_terms(record: RunRecord, terms: Terms, corpus: str) -> None:
    """Raise `InputError` if ε would be stated under other terms than at the beginning.

    ``corpus`` is the `corpus_hash` of what the run would go on with.
    """
    begun = vars(record.ledger.terms)
    for name, value in vars(terms).items():
        if name in _TERMS and begun[name] != value:
            raise _edited(record, _TERMS[name], begun[name], value)
    if keyed_digest(read_key(record.path), corpus) != begun["corpus_digest"]:
        raise InputError(
            f"The records of corpus.source {record.config.corpus.source!r}, their split or the "
            f"tokens they are read as are not what the run {record.path} was begun with; put the "
            "corpus, its settings and its tokenizer back as they were, or start a new run."
        )


def _edited(record: RunRecord, name: str, then: object, now: object) -> InputError:
    return InputError(
        f"{name} is {now!r} but the run {record.path} was begun with {then!r}; put {name} back to "
        f"{then!r}, or start a new run."
    )


def _is_free(name: str) -> bool:
    section, _, field = name.partition(".")
    return section in _FREE_SECTIONS or field in _FREE.get(section, ())


def _fields(values: Mapping[str, Any], section: str = "") -> Iterator[tuple[str, Any]]:
    """Every field of a configuration by its dotted name."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _fields(value, f"{section}{name}.")
        else:
            yield f"{section}{name}", value
