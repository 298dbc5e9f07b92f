"""Texts that are the same or nearly so, whichever side of the split they are on.

A copy of a member among the non-members is scored as a member would be and counts as a false alarm;
near copies on one side make a learned attack look better than it is. Near means that two texts
share most of their runs of five words, compared by MinHash (Broder 1997) and then exactly.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from workbench.errors import InputError, probability

SHINGLE = 5  # words
NEAR = 0.8  # of the shingles of both, what two near duplicates share at least
_BANDS, _ROWS = 32, 4  # two texts that share 0.8 meet in a band with a chance of 1 − 5e-8
_WORD = re.compile(r"\w+")
_PRIME = (1 << 31) - 1


@dataclass(frozen=True, eq=False)
class Duplicates:
    """Which texts belong together.

    Attributes:
        group: (records,) the same number for texts that are duplicates, directly or by a chain.
        exact: how many texts equal an earlier one.
        near: how many more are near duplicates of an earlier one.
    """

    group: np.ndarray
    exact: int
    near: int


def find_duplicates(texts: Sequence[str], *, near: float = NEAR) -> Duplicates:
    """Group equal texts, and those whose shingles have a Jaccard similarity of at least ``near``.

    Case, punctuation and blanks do not count. Texts of fewer than five words are one shingle.

    >>> find_duplicates(["One two three.", "one  two three", "else"]).group.tolist()
    [0, 0, 2]
    """
    probability("near", near, one=True, remedy="choose a share such as 0.8")
    if not len(texts):
        raise InputError("There are no texts to compare; give at least one.")
    words = [_WORD.findall(text.lower()) or [text] for text in texts]
    parent = list(range(len(texts)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[tuple[str, ...], int] = {}
    for i, own in enumerate(words):
        parent[i] = first.setdefault(tuple(own), i)
    exact = len(texts) - len(first)
    kept = list(first.values())
    shingles = {i: _shingles(words[i]) for i in kept}
    for one, other in sorted(_candidates(kept, shingles)):
        a, b = sorted((root(one), root(other)))
        if a != b and _jaccard(shingles[one], shingles[other]) >= near:
            parent[b] = a
    group = np.array([root(i) for i in range(len(texts))])
    return Duplicates(group, exact, len(texts) - exact - len(np.unique(group)))


def _shingles(words: Sequence[str]) -> np.ndarray:
    """Hashes of all runs of five words, sorted and distinct."""
    count = max(1, len(words) - SHINGLE + 1)
    runs = (" ".join(words[i : i + SHINGLE]) for i in range(count))
    hashes = (hashlib.blake2b(run.encode("utf-8", "replace"), digest_size=4) for run in runs)
    return np.unique([int.from_bytes(h.digest(), "big") % _PRIME for h in hashes])


def _candidates(kept: Sequence[int], shingles: dict[int, np.ndarray]) -> set[tuple[int, int]]:
    """Pairs whose MinHash agrees in a whole band."""
    rng = np.random.default_rng(0)
    a = rng.integers(1, _PRIME, _BANDS * _ROWS)
    b = rng.integers(0, _PRIME, _BANDS * _ROWS)
    pairs: set[tuple[int, int]] = set()
    bands: list[defaultdict[bytes, list[int]]] = [defaultdict(list) for _ in range(_BANDS)]
    for i in kept:
        signature = ((shingles[i][:, None] * a + b) % _PRIME).min(axis=0).reshape(_BANDS, _ROWS)
        for band, part in zip(bands, signature, strict=True):
            band[part.tobytes()].append(i)
    for band in bands:
        for members in band.values():
            # A chain is enough: what all share joins them one to the next.
            pairs |= {(one, other) for one, other in pairwise(members)}
    return pairs


def _jaccard(one: np.ndarray, other: np.ndarray) -> float:
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)
