"""What became of the records of a corpus: how many were read, left out, and on which side.

Who drops a record in silence trains on another corpus than the user believes. Whoever tells of a
run (summary, terminal, panel) tells these counts.
"""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass

# Scripts written without blanks between words: each letter counts as a word, and vowel signs and
# tone marks belong to the letter before them. Korean has blanks.
_BLANKLESS = (
    "\u0e01-\u0e30\u0e32\u0e33\u0e40-\u0e46"  # Thai
    "\u0e81-\u0eb0\u0eb2\u0eb3\u0ebd-\u0ec6\u0edc-\u0edf"  # Lao
    "\u0f40-\u0f6c"  # Tibetan
    "\u1000-\u102a\u103f\u1050-\u1055"  # Burmese
    "\u1780-\u17b3"  # Khmer
    "\u1950-\u19ab"  # Tai Le and New Tai Lue
    "\u1a20-\u1a54"  # Tai Tham
    "\u3005-\u3007\u3041-\u3096\u30a1-\u30fa\u31f0-\u31ff\uff66-\uff9d"  # kana
    "\u3105-\u312f\u31a0-\u31bf"  # Bopomofo
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    "\ua000-\ua48c"  # Yi
)
_LETTER = re.compile(f"[{_BLANKLESS}]")
_WORD_BESIDE = re.compile(rf"[^\W{_BLANKLESS}]+")


def words(text: str) -> int:
    """How many words ``text`` has: what stands between blanks.

    In scripts that put no blanks between words, each letter counts as one.

    >>> words("two words"), words("GPT は良い。")
    (2, 4)
    """
    pieces = text.split()
    if text.isascii():
        return len(pieces)
    return sum(_words_within(piece) for piece in pieces)


def _words_within(piece: str) -> int:
    letters = len(_LETTER.findall(piece))
    return letters + len(_WORD_BESIDE.findall(piece)) if letters else 1


@dataclass(frozen=True)
class RecordCounts:
    """How many records were found, left out and kept.

    ``found`` = ``empty`` + ``too_short`` + ``duplicate`` + ``public`` + ``heldout`` + ``training``
    + ``outside_subset``, which are private records that ``corpus.training_subset`` leaves out. A
    copy of a record is left out wherever it stands, so that ``training`` holds no record twice. Of
    the training records, ``truncated`` were cut at ``corpus.record_tokens``, and
    ``nothing_to_predict`` have no token to learn from; both are 0 before encoding. ``canaries`` are
    counted beside the training records, whether in or out.
    """

    found: int = 0
    empty: int = 0
    too_short: int = 0
    duplicate: int = 0
    public: int = 0
    heldout: int = 0
    training: int = 0
    truncated: int = 0
    nothing_to_predict: int = 0
    canaries: int = 0
    outside_subset: int = 0

    def __iter__(self) -> Iterator[tuple[str, int]]:
        """Names and counts, so that ``dict(counts)`` is what a run's summary holds."""
        return iter(asdict(self).items())

    @property
    def parts(self) -> str:
        """How many records may be seen by whom."""
        planted = f" and {self.canaries:,} canaries, in or out" if self.canaries else ""
        return (
            f"{self.training:,} private to train on{planted}, {self.heldout:,} held out, "
            f"{self.public:,} public"
        )

    @property
    def left_out(self) -> str:
        """Which records are not used and why; empty if all are."""
        reasons = {
            "empty": self.empty,
            "shorter than corpus.min_words": self.too_short,
            "copies of another": self.duplicate,
            "outside corpus.training_subset": self.outside_subset,
        }
        told = _listed(reasons)
        return f"{told}: left out of {self.found:,} found" if told else ""

    @property
    def impaired(self) -> str:
        """Which training records are used in part or to no effect; empty if none."""
        told = _listed(
            {
                "cut at corpus.record_tokens": self.truncated,
                "without any token to predict": self.nothing_to_predict,
            }
        )
        return f"of those to train on, {told}" if told else ""

    def __str__(self) -> str:
        """All of it in one sentence."""
        told = [part for part in (self.parts, self.left_out, self.impaired) if part]
        return f"Records: {'; '.join(told)}."


def _listed(reasons: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in reasons.items() if count)
