"""What one protected record is, and which records train.

Differential privacy protects a *record*: here one paragraph, line or table row. Records are
deduplicated by text and each is sent to the public, held-out or training part by a hash of its own
text, so that adding or removing one record of the corpus changes one part by that one record and
leaves every other record where it was. A split by shuffled position would not have this property.

>>> records = split([f"record {i}" for i in range(100)], public_fraction=0.1, heldout_fraction=0.1)
>>> sum(map(len, (records.public, records.heldout, records.training)))
100
"""

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from workbench.config import CorpusConfig
from workbench.corpora.builtin import CORPORA
from workbench.errors import InputError


@dataclass(frozen=True)
class Records:
    """Texts by what may be done with them; the three parts share no text.

    ``public`` may shape anything (the tokenizer learns from it); ``heldout`` only measures;
    ``training`` is what ε protects.
    """

    public: tuple[str, ...]
    heldout: tuple[str, ...]
    training: tuple[str, ...]


def load(config: CorpusConfig, *, seed: int = 0) -> Records:
    """Read, cut into records, filter, deduplicate and split the corpus of ``config``.

    Raises `InputError` for a source that is missing, unreadable, of an unknown kind, or that leaves
    one of the three parts empty.
    """
    texts = cut(_documents(config), config.record)
    long_enough = [text for text in texts if len(text.split()) >= config.min_words]
    if not long_enough:
        raise InputError(
            f"corpus.source {config.source!r} holds no {config.record} of at least "
            f"{config.min_words} words; lower corpus.min_words or give another file."
        )
    records = split(
        long_enough,
        public_fraction=config.public_fraction,
        heldout_fraction=config.heldout_fraction,
        seed=seed,
    )
    for part in ("public", "heldout", "training"):
        if not getattr(records, part):
            raise InputError(
                f"corpus.source {config.source!r} gives {len(set(long_enough))} different records, "
                f"too few for its {part} part; give a larger corpus."
            )
    return records


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
    for text in dict.fromkeys(texts):
        place = _uniform(text, seed)
        if place < public_fraction:
            public.append(text)
        elif place < public_fraction + heldout_fraction:
            heldout.append(text)
        else:
            training.append(text)
    return Records(tuple(public), tuple(heldout), tuple(training))


def cut(documents: Iterable[str], record: str) -> list[str]:
    """Cut documents into paragraphs (parted by blank lines), lines, or leave them whole (rows)."""
    separator = {"paragraph": r"\n\s*\n", "line": r"\n", "row": None}[record]
    pieces = (
        piece
        for document in documents
        for piece in (re.split(separator, document) if separator else [document])
    )
    return [stripped for piece in pieces if (stripped := piece.strip())]


def _uniform(text: str, seed: int) -> float:
    """A number in [0, 1) that depends on ``text`` and ``seed`` and on nothing else."""
    digest = hashlib.sha256(f"{seed}\n{text}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _documents(config: CorpusConfig) -> list[str]:
    """The texts of a built-in corpus or of a file: one for a text file, one a row for a table."""
    if config.source in CORPORA:
        return CORPORA[config.source]()
    path = Path(config.source).expanduser()
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise InputError(
            f"corpus.source {config.source!r} is neither a built-in corpus "
            f"({', '.join(CORPORA)}) nor a file ending in {', '.join(_READERS)}; choose one."
        )
    if read is _text and config.record == "row":
        raise InputError(
            f"corpus.record is 'row' but {path} is plain text without rows; "
            "choose 'paragraph' or 'line'."
        )
    try:
        return read(path, config.text_field)
    except UnicodeDecodeError:
        raise InputError(f"corpus.source {path} is not UTF-8 text; convert it to UTF-8.") from None
    except OSError as error:
        raise InputError(
            f"Cannot read corpus.source {path}: {error.strerror or error}; check the path."
        ) from None


def _text(path: Path, _field: str) -> list[str]:
    return [path.read_text(encoding="utf-8")]


def _jsonl(path: Path, field: str) -> list[str]:
    texts = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        if not isinstance(row, dict):
            raise InputError(f"Line {number} of {path} is not a JSON object; correct that line.")
        if not isinstance(row.get(field), str):
            raise _no_column(f"line {number} of {path}", field, row)
        # JSON can escape half a surrogate pair, which is no text and cannot be hashed or encoded.
        texts.append(row[field].encode("utf-8", "replace").decode("utf-8"))
    return texts


def _csv(path: Path, field: str) -> list[str]:
    csv.field_size_limit(2**31 - 1)  # a record may be longer than the reader's 131 072 characters
    rows = csv.DictReader(
        io.StringIO(path.read_text(encoding="utf-8-sig"), newline=""), strict=True
    )
    try:
        if field not in (rows.fieldnames or ()):
            raise _no_column(path, field, rows.fieldnames or ())
        return [row[field] or "" for row in rows]
    except csv.Error as error:
        raise InputError(
            f"{path} is not CSV at line {rows.line_num} ({error}); correct that line."
        ) from None


def _parquet(path: Path, field: str) -> list[str]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            if field not in file.schema_arrow.names:
                raise _no_column(path, field, file.schema_arrow.names)
            column = file.read(columns=[field]).column(field)
    except pyarrow.ArrowInvalid:
        raise InputError(f"corpus.source {path} is not a Parquet file; check the file.") from None
    if not pyarrow.types.is_string(column.type) and not pyarrow.types.is_large_string(column.type):
        raise InputError(
            f"Column {field!r} of {path} holds {column.type} but must hold text; "
            "set corpus.text_field to a text column."
        )
    return [text for text in column.to_pylist() if text is not None]


def _no_column(where: object, field: str, columns: Iterable[str]) -> InputError:
    return InputError(
        f"corpus.text_field is {field!r} but {where} has no text of that name, "
        f"only {', '.join(columns) or 'nothing'}; set corpus.text_field."
    )


_READERS: dict[str, Callable[[Path, str], list[str]]] = {
    ".txt": _text,
    ".md": _text,
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".parquet": _parquet,
}
