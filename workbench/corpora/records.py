"""What one protected record is, and which records train.

Differential privacy protects a *record*: here one paragraph, line or table row. Records are
deduplicated by text and each is sent to the public, held-out or training part by a hash of its own
text, so that adding or removing one record of the corpus changes one part by that one record and
leaves every other record where it was. A split by shuffled position would not have this property.

>>> records = split([f"record {i}" for i in range(100)], public_fraction=0.1, heldout_fraction=0.1)
>>> sum(map(len, (records.public, records.heldout, records.training)))
100
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from workbench.config import CorpusConfig
from workbench.corpora.builtin import CORPORA
from workbench.corpora.counts import RecordCounts, words
from workbench.corpora.files import BOM, files_of
from workbench.corpora.readers import read
from workbench.corpora.values import Chat
from workbench.errors import InputError, shown


@dataclass(frozen=True)
class Records:
    """Texts by what may be done with them; the three parts share no text.

    ``public`` may shape anything (the tokenizer learns from it); ``heldout`` only measures;
    ``training`` is what ε protects.
    """

    public: tuple[str, ...]
    heldout: tuple[str, ...]
    training: tuple[str, ...]
    counts: RecordCounts = field(default=RecordCounts(), compare=False)

    @property
    def are_chats(self) -> bool:
        """Whether a chat template has to make texts of them."""
        return isinstance((self.training or self.heldout or self.public or ("",))[0], Chat)


def load(config: CorpusConfig, *, seed: int = 0) -> Records:
    """Read, cut into records, filter, deduplicate and split the corpus of ``config``.

    ``counts`` of the result tells what was left out. Raises `InputError` for a source that is
    missing, unreadable, of an unknown kind, or that leaves one of the three parts empty.
    """
    by_paragraph = config.record == "chunk"  # those are cut later, by the tokenizer
    pieces = cut(_documents(config), "paragraph" if by_paragraph else config.record)
    texts = [text for text in pieces if text]
    long_enough = [text for text in texts if _words(text) >= config.min_words]
    if not long_enough:
        raise InputError(
            f"corpus.source {shown(config.source)} holds no {config.record} of at least "
            f"{config.min_words} words; lower corpus.min_words or give another file."
        )
    records = split(
        long_enough,
        public_fraction=config.public_fraction,
        heldout_fraction=config.heldout_fraction,
        seed=seed,
    )
    left_out = {"empty": len(pieces) - len(texts), "too_short": len(texts) - len(long_enough)}
    counts = replace(records.counts, found=len(pieces), **left_out)
    if not by_paragraph:
        records = subset(replace(records, counts=counts), config.training_subset, seed=seed)
        counts = records.counts
    for part in ("public", "heldout", "training"):
        if not getattr(records, part):
            others = f" ({counts.left_out})" if counts.left_out else ""
            raise InputError(
                f"corpus.source {shown(config.source)} gives {len(set(long_enough))} different "
                f"records{others}, too few for its {part} part; give a larger corpus."
            )
    return replace(records, counts=counts)


def split(
    texts: Iterable[str], *, public_fraction: float, heldout_fraction: float, seed: int = 0
) -> Records:
    """Deduplicate ``texts`` and divide them at random, each by its own text and ``seed`` alone.

    The sizes of the parts follow the fractions up to binomial fluctuation. Raises `InputError` if
    nothing would be left to train on.
    """
    if public_fraction + heldout_fraction >= 1:
        raise InputError(
            f"corpus.public_fraction + corpus.heldout_fraction is "
            f"{public_fraction + heldout_fraction:g} but must be below 1; lower one of them."
        )
    public, heldout, training = [], [], []
    found = list(texts)
    different = dict.fromkeys(found)
    for text in different:
        place = _uniform(text, seed)
        if place < public_fraction:
            public.append(text)
        elif place < public_fraction + heldout_fraction:
            heldout.append(text)
        else:
            training.append(text)
    counts = RecordCounts(
        found=len(found),
        duplicate=len(found) - len(different),
        public=len(public),
        heldout=len(heldout),
        training=len(training),
    )
    return Records(tuple(public), tuple(heldout), tuple(training), counts)


def subset(records: Records, share: float, *, seed: int = 0) -> Records:
    """The same with about that ``share`` of the training records, each drawn by its own text.

    What a share holds, every larger one of the same ``seed`` holds, too. Raises `InputError` if
    none is left.
    """
    if share == 1:
        return records
    kept = tuple(text for text in records.training if _uniform(f"subset\n{text}", seed) < share)
    if not kept:
        raise InputError(
            f"corpus.training_subset is {share:g}, which leaves none of {len(records.training)} "
            "training records; raise it."
        )
    outside = len(records.training) - len(kept)
    counts = replace(records.counts, training=len(kept), outside_subset=outside)
    return replace(records, training=kept, counts=counts)


def cut(documents: Iterable[str], record: str) -> list[str]:
    """Cut documents into paragraphs (parted by blank lines), lines, or leave them whole (rows).

    Blank lines between records are no records, but a document without text is an empty one.
    """
    separator = {"paragraph": r"\n\s*\n", "line": r"\n", "row": None}[record]
    return [piece for text in documents for piece in _pieces(text, separator)]


def _pieces(text: str, separator: str | None) -> list[str]:
    if isinstance(text, Chat):
        return [text]
    if separator is None:
        return [_trimmed(text)]
    trimmed = (_trimmed(piece) for piece in re.split(separator, text))
    return [piece for piece in trimmed if piece] or [""]


def _trimmed(text: str) -> str:
    # Files put behind each other have their byte order marks within.
    return text.strip().removeprefix(BOM).strip()


def _words(text: str) -> int:
    return words(text.contents if isinstance(text, Chat) else text)


def _uniform(text: str, seed: int) -> float:
    """A number in [0, 1) that depends on ``text`` and ``seed`` and on nothing else."""
    digest = hashlib.sha256(f"{seed}\n{text}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _documents(config: CorpusConfig) -> list[str]:
    """The texts of a built-in corpus or of files: one for a text file, one a row for a table."""
    if config.source in CORPORA:
        return CORPORA[config.source]()
    texts = [text for file in files_of(config) for text in read(file, config)]
    chats = sum(isinstance(text, Chat) for text in texts)
    if chats and any(text and not isinstance(text, Chat) for text in texts):
        raise InputError(
            f"Field {config.text_field!r} of corpus.source {shown(config.source)} holds chats in "
            "some rows and text in others; give a corpus of one kind."
        )
    if chats and config.record != "row":
        raise InputError(
            f"corpus.record is {config.record!r} but field {config.text_field!r} holds chats, "
            "which are records as a whole; set corpus.record to 'row'."
        )
    return texts
