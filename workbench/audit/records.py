"""The records of an audit: which were trained on, which were not, and how that was decided.

Only where every record was sent to one side or the other by an independent fair coin do counts of
right guesses refute a guarantee. A run of ours decides by a hash of each record's own text, which
is such a coin once the larger side is thinned by further coins. What a file calls members and
non-members may differ in any way.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

from workbench.audit.duplicates import find_duplicates
from workbench.config import CorpusConfig, RunConfig
from workbench.corpora.files import files_of
from workbench.corpora.readers import read
from workbench.corpora.records import cut
from workbench.errors import InputError, shown, whole

LEAST = 10  # records a side: fewer show nothing at any significance
MOST = 4000  # records of an audit, if not said otherwise
SET_ASIDE = 64  # records whose membership is nobody's question


@dataclass(frozen=True, eq=False)
class AuditRecords:
    """Records with known membership, in an order that says nothing of it.

    Attributes:
        texts: (records,).
        member: (records,) whether it was trained on.
        group: (records,) duplicates have the same number; see `workbench.audit.duplicates`.
        others: texts that were not trained on and are not evaluated: prefixes and populations.
        fair_coins: whether each record was sent to its side by an independent fair coin.
        most_tokens: where records were cut in training; None if nobody said.
        removed: how many records were left out before, by reason.
    """

    texts: tuple[str, ...]
    member: np.ndarray
    group: np.ndarray
    others: tuple[str, ...] = ()
    fair_coins: bool = False
    most_tokens: int | None = None
    removed: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.texts)

    def __post_init__(self) -> None:
        for name, count in (("members", self.member.sum()), ("non-members", (~self.member).sum())):
            if count < LEAST:
                raise InputError(
                    f"There are {count} {name} but an audit needs at least {LEAST} of each; give "
                    "more records."
                )


def run_records(config: RunConfig, *, most: int = MOST, seed: int = 0) -> AuditRecords:
    """Training records and held-out records of a run, as fair coins; public records stand aside.

    Args:
        config: the run's own.
        most: how many records at most, both sides together, drawn without looking at the side.
        seed: of that draw, and of the coins that thin the larger side.

    A record is held out with a chance that the configuration fixes. Of the likelier side each
    record stays by a coin of its own, so that every record left was on either side with probability
    one half, independently. Raises `InputError` for a corpus that cannot be read or is too small.
    """
    most = whole("most", most, least=2 * LEAST, remedy="take more records")
    from workbench.training.prepare import load_records

    records = load_records(config)
    heldout = config.corpus.heldout_fraction / (1 - config.corpus.public_fraction)
    # Who is neither held out nor in the subset that is trained on is nobody's question.
    ratio = heldout / ((1 - heldout) * config.corpus.training_subset)
    kept = [
        *((text, True) for text in records.training if _coin(text, seed) < min(1.0, ratio)),
        *((text, False) for text in records.heldout if _coin(text, seed) < min(1.0, 1 / ratio)),
    ]
    kept.sort(key=lambda pair: _coin(pair[0], f"{seed} order"))
    aside = sorted(records.public, key=lambda text: _coin(text, f"{seed} order"))
    return _without_duplicates(
        [text for text, _ in kept[:most]],
        np.array([member for _, member in kept[:most]], dtype=bool),
        others=tuple(aside[:SET_ASIDE]),
        # Held-out losses that decide when to stop are no longer those of records never seen, and
        # all chunks of a paragraph share its coin.
        fair_coins=config.training.patience is None and config.corpus.record != "chunk",
        most_tokens=config.corpus.record_tokens,
    )


def file_records(
    members: str | Path,
    nonmembers: str | Path,
    *,
    text_field: str = "text",
    record: str = "row",
    fair_coins: bool = False,
    most: int = MOST,
    seed: int = 0,
) -> AuditRecords:
    """Members and non-members from files of text, JSONL, CSV or Parquet.

    Args:
        members: what the model was trained on.
        nonmembers: what it was not trained on.
        text_field: the column that holds the text.
        record: "row" for tables; for plain text "line" or "paragraph".
        fair_coins: whether each record went to its file by an independent fair coin; only whoever
            trained the model can know.
        most: as in `run_records`.
        seed: of the order, of what stands aside, and of what is left out above ``most``.

    Raises `InputError` for files that cannot be read, empty texts alone, or texts in both.
    """
    sides = [_read(path, text_field, record) for path in (members, nonmembers)]
    return text_records(
        *(texts for texts, _ in sides),
        fair_coins=fair_coins,
        most=most,
        seed=seed,
        empty=sum(count for _, count in sides),
    )


def text_records(
    members: Sequence[str],
    nonmembers: Sequence[str],
    *,
    fair_coins: bool = False,
    most: int = MOST,
    seed: int = 0,
    empty: int = 0,
) -> AuditRecords:
    """Members and non-members as texts; see `file_records`.

    A tenth of the records, 128 at most, leave the evaluation; the non-members among them serve as
    prefixes and populations. Raises `InputError` where ``fair_coins`` cannot have given the counts.
    """
    most = whole("most", most, least=2 * LEAST, remedy="take more records")
    pairs = [*((text, True) for text in members), *((text, False) for text in nonmembers)]
    full = [(text, member) for text, member in pairs if text.strip()]
    empty += len(pairs) - len(full)
    both = {t for t, member in full if member} & {t for t, member in full if not member}
    if both:
        raise InputError(
            f"{len(both):,} texts are among both members and non-members, such as "
            f"{shown(min(both)[:40])}; remove them from one of the two files."
        )
    full.sort(key=lambda pair: _coin(pair[0], f"{seed} order"))
    # Whoever stands aside is chosen without a look at the side, or fair coins would be none.
    count = min(2 * SET_ASIDE, len(full) // 10)
    aside, full = full[:count], full[count : count + most]
    found = _without_duplicates(
        [text for text, _ in full],
        np.array([member for _, member in full], dtype=bool),
        others=tuple(text for text, member in aside if not member),
        fair_coins=fair_coins,
        most_tokens=None,
    )
    found = replace(found, removed={**found.removed, "empty": empty})
    inside = int(found.member.sum())
    if fair_coins and binomtest(inside, len(found)).pvalue < 1e-4:
        raise InputError(
            f"{inside:,} of {len(found):,} records are members, which independent fair coins "
            "hardly give; audit without that claim, or thin the larger side by coins."
        )
    return found


def _without_duplicates(
    texts: list[str],
    member: np.ndarray,
    *,
    others: tuple[str, ...],
    fair_coins: bool,
    most_tokens: int | None,
) -> AuditRecords:
    """Without any group of duplicates that stands on both sides, and one copy of the others.

    With fair coins whole groups go.
    """
    if not texts:
        raise InputError("There are no records to audit; give members and non-members.")
    groups = find_duplicates(texts).group
    across = np.array(
        sorted({int(g) for g in groups[member]} & {int(g) for g in groups[~member]}), dtype=int
    )
    crossing = np.isin(groups, across)
    _, index, size = np.unique(groups, return_index=True, return_counts=True)
    alone, first = np.zeros(len(texts), dtype=bool), np.zeros(len(texts), dtype=bool)
    first[index], alone[index] = True, size == 1
    # Two near copies that go in together are a group of two, whose ε is larger than one record's.
    keep = alone if fair_coins else first & ~crossing
    return AuditRecords(
        texts=tuple(text for text, kept in zip(texts, keep, strict=True) if kept),
        member=member[keep],
        group=groups[keep],
        others=others,
        fair_coins=fair_coins,
        most_tokens=most_tokens,
        removed={
            "duplicates across the split": int(crossing.sum()),
            "duplicates on one side": int((~keep & ~crossing).sum()),
        },
    )


def _read(path: str | Path, text_field: str, record: str) -> tuple[list[str], int]:
    """The texts of a file, and how many are empty."""
    config = CorpusConfig.model_validate(
        {"source": str(path), "text_field": text_field, "record": "row"}
    )
    files = files_of(config)
    plain = any(file.name.removesuffix(".gz").endswith((".txt", ".md")) for file in files)
    if plain:
        config = config.model_copy(update={"record": "line" if record == "row" else record})
    texts = cut([text for file in files for text in read(file, config)], config.record)
    full = [text for text in texts if text]
    if not full:
        raise InputError(f"{path} holds no text; give a file with one record a row or line.")
    return full, len(texts) - len(full)


def _coin(text: str, salt: object) -> float:
    """A number in [0, 1) that depends on the text and on ``salt`` alone."""
    digest = hashlib.sha256(f"audit {salt}\n{text}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
