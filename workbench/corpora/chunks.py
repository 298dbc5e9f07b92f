"""Records that are pieces of paragraphs, cut after the paragraphs were split.

A paragraph goes to one part as a whole, so no text that is trained on continues in what is held
out. What ε then protects is one chunk: whoever wrote a paragraph of five has five records in it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from workbench.corpora.records import Records
from workbench.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LEAST_SHARE = 0.5  # of a record, that what remains of a paragraph has to fill


def chunked(
    records: Records, tokenizer: "PreTrainedTokenizerBase", *, record_tokens: int
) -> Records:
    """``records`` with held-out and training paragraphs cut into chunks; public ones stay whole.

    A chunk is as many whole words as fit into ``record_tokens``, beside the special tokens that
    the tokenizer puts around each. What remains of a paragraph is a chunk if it is the only one or
    fills half of a record, and is left out as too short else. So are copies of another chunk,
    wherever they stand. ``counts`` then counts chunks, and as one each paragraph that was left out
    before. Raises `InputError` for a tokenizer that cannot say where its tokens stand in a text.
    """
    room = record_tokens - tokenizer.num_special_tokens_to_add()
    if not getattr(tokenizer, "is_fast", False) or room < 1:
        raise InputError(
            "corpus.record is 'chunk' but the tokenizer of model.source cannot say where its "
            f"tokens stand in a text, or leaves no room for one in {record_tokens}; set "
            "corpus.record to 'paragraph', or raise corpus.record_tokens."
        )
    cut = [_cut(tokenizer, part, room) for part in (records.heldout, records.training)]
    heldout = tuple(dict.fromkeys(chunk for chunk, kept in cut[0] if kept))
    elsewhere = {*heldout, *records.public}
    of_training = [chunk for chunk, kept in cut[1] if kept]
    training = tuple(text for text in dict.fromkeys(of_training) if text not in elsewhere)
    found = sum(map(len, cut))
    kept = sum(is_kept for part in cut for _, is_kept in part)
    counts = records.counts
    counts = replace(
        counts,
        found=counts.found - counts.heldout - counts.training + found,
        too_short=counts.too_short + found - kept,
        duplicate=counts.duplicate + kept - len(heldout) - len(training),
        heldout=len(heldout),
        training=len(training),
    )
    return Records(records.public, heldout, training, counts)


def _cut(
    tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], room: int
) -> list[tuple[str, bool]]:
    """Every piece of the paragraphs in their order, and whether it is long enough to keep."""
    if not texts:
        return []
    encoded = tokenizer(list(texts), add_special_tokens=False, verbose=False)
    pieces = []
    for text, encoding in zip(texts, encoded.encodings or (), strict=True):
        offsets = encoding.offsets  # made anew each time that it is asked for
        for start, end in _spans(encoding.word_ids, room):
            # With the blank before its first word, without which that word may be other tokens.
            piece = text[offsets[start][0] : offsets[end - 1][1]]
            if piece.strip():
                pieces.append((piece, start == 0 or end - start >= _LEAST_SHARE * room))
    return pieces


def _spans(words: Sequence[int | None], room: int) -> Iterator[tuple[int, int]]:
    """Where chunks start and end among a paragraph's tokens, of which each has its word's number.

    >>> list(_spans([0, 0, 1, 2, 2, 2, 3], room=4))
    [(0, 3), (3, 7)]

    A word that does not fit into one chunk is cut.

    >>> list(_spans([0, 0, 0, 1], room=2))
    [(0, 2), (2, 4)]
    """
    start = 0
    while start < len(words):
        end = start + room
        if end < len(words):
            first = end
            while first > start and words[first - 1] == words[end]:
                first -= 1
            end = first if first > start else end
        end = min(end, len(words))
        yield start, end
        start = end
