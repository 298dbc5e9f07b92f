"""The records of one file, by its kind: texts of a table's rows, or the whole of a text file.

What cannot be read is refused with the line it stands on, never repaired by a guess: a row cut at
a comma that was meant as text would train on half a record.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from workbench.config import CorpusConfig
from workbench.corpora.files import BOM, content, is_compressed, kind, text_of
from workbench.corpora.values import as_record, inside, no_field
from workbench.errors import InputError, shown

_TEXT = (".txt", ".md")
_DIGITS = 1000  # of an integer; Python refuses to read some thousand


def read(path: Path, config: CorpusConfig) -> list[str]:
    """The texts of a file: one for a text file, one a row for a table.

    Raises `InputError` with the line for whatever is not as its kind of file should be.
    """
    ending = kind(path)
    if ending in _TEXT:
        if config.record == "row":
            raise InputError(
                f"corpus.record is 'row' but {path} is plain text without rows; "
                "choose 'paragraph' or 'line'."
            )
        texts = [_with_plain_line_ends(text_of(path, config.encoding))]
    elif ending == ".parquet":
        texts = _parquet(path, config.text_field)
    elif ending == ".json":
        texts = _json(path, config)
    elif ending in (".csv", ".tsv"):
        texts = _csv(path, config, delimiter="," if ending == ".csv" else "\t")
    else:
        texts = _jsonl(path, config)
    # JSON can escape half a surrogate pair, which is no text and cannot be hashed or encoded.
    return [text if _encodable(text) else _repaired(text) for text in texts]


def _jsonl(path: Path, config: CorpusConfig) -> list[str]:
    texts = []
    lines = _with_plain_line_ends(text_of(path, config.encoding)).split("\n")
    for number, line in enumerate(lines, start=1):
        if line.strip():
            row = _parsed(line.removeprefix(BOM), f"Line {number} of {path}")
            texts.append(_field_of(row, config.text_field, f"line {number} of {path}"))
    return texts


def _json(path: Path, config: CorpusConfig) -> list[str]:
    rows = _parsed(text_of(path, config.encoding), str(path))
    if not isinstance(rows, list):
        raise InputError(
            f"{path} is not a JSON array of objects; write it as one, or as JSONL with one object "
            "a line."
        )
    return [
        _field_of(row, config.text_field, f"entry {number} of {path}")
        for number, row in enumerate(rows, start=1)
    ]


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object, parse_int=_integer)
    except json.JSONDecodeError as error:
        inner = f" (line {error.lineno})" if error.lineno > 1 else ""
        raise InputError(f"{where} is not JSON{inner}: {error.msg}; correct it.") from None
    except _KeyTwiceError as error:
        raise InputError(
            f"{where} has {shown(str(error))} twice in one object; remove or rename one of them."
        ) from None
    except RecursionError:
        raise InputError(f"{where} is JSON that is nested too deeply; flatten it.") from None


class _KeyTwiceError(Exception):
    """A key that an object has twice, of which JSON would take the last."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _KeyTwiceError(Counter(key for key, _ in pairs).most_common(1)[0][0])
    return found


def _integer(digits: str) -> float:
    return int(digits) if len(digits) < _DIGITS else float(digits)


def _field_of(row: Any, field: str, where: str) -> str:
    if not isinstance(row, dict):
        raise InputError(f"{where[0].upper()}{where[1:]} is not a JSON object; correct it.")
    there, value = inside(row, field)
    if not there:
        raise no_field(where, field, row)
    return as_record(value, f"Field {field!r} of {where}")


def _csv(path: Path, config: CorpusConfig, *, delimiter: str) -> list[str]:
    csv.field_size_limit(2**31 - 1)  # a record may be longer than the reader's 131 072 characters
    text = io.StringIO(text_of(path, config.encoding), newline="")
    rows = csv.reader(text, strict=True, delimiter=config.delimiter or delimiter)
    texts, begins, column = [], 1, -1
    header: list[str] = []
    try:
        for row in rows:
            if row and not header:
                header, column = row, _column(path, begins, row, config)
            elif row:
                if len(row) != len(header):
                    raise InputError(
                        f"Line {begins} of {path} has {_fields(len(row))} but the header has "
                        f"{len(header)}; put quotes around text with a separator inside, or set "
                        "corpus.delimiter."
                    )
                texts.append(row[column])
            begins = rows.line_num + 1  # a quoted field may go over several lines
    except csv.Error as error:
        raise InputError(
            f"{path} is not CSV at line {begins} ({error}); correct the row that begins there."
        ) from None
    if not header:
        raise no_field(str(path), config.text_field, ())
    return texts


def _column(path: Path, line: int, header: list[str], config: CorpusConfig) -> int:
    """Where the text stands in each row."""
    twice = [name for name, count in Counter(header).items() if name and count > 1]
    if twice:
        raise InputError(
            f"Line {line} of {path} names the column {shown(twice[0])} twice; rename one of them."
        )
    if config.text_field not in header:
        raise no_field(f"line {line} of {path}", config.text_field, header)
    return header.index(config.text_field)


def _fields(count: int) -> str:
    return "1 field" if count == 1 else f"{count} fields"


def _parquet(path: Path, field: str) -> list[str]:
    import pyarrow

    try:
        column, values = _parquet_column(path, field)
    except InputError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, TypeError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"corpus.source {path} is not a Parquet file that can be read ({reason}); check the "
            "file."
        ) from None
    return [
        _value_in(value, column, field, f"row {number} of {path}")
        for number, value in enumerate(values, start=1)
    ]


def _parquet_column(path: Path, field: str) -> tuple[str, list[Any]]:
    """The column in which ``field`` stands, and its values."""
    import pyarrow
    import pyarrow.parquet

    whole = is_compressed(path)
    with (
        pyarrow.BufferReader(content(path)) if whole else path.open("rb") as source,
        pyarrow.parquet.ParquetFile(source) as file,
    ):
        schema = file.schema_arrow
        _refuse_twice(path, schema.names)
        column = next((name for name in _prefixes(field) if name in schema.names), None)
        if column is None:
            raise no_field(str(path), field, schema.names)
        of = schema.field(column).type
        if not _may_hold_text(of):
            raise InputError(
                f"Column {column!r} of {path} holds {of} but must hold text; set corpus.text_field "
                "to a text column."
            )
        return column, file.read(columns=[column]).column(column).to_pylist()


def _may_hold_text(of: Any) -> bool:
    from pyarrow import types

    text = (types.is_string, types.is_large_string, types.is_string_view, types.is_null)
    if types.is_dictionary(of):  # pandas writes a category as one
        of = of.value_type
    return types.is_nested(of) or any(holds(of) for holds in text)


def _value_in(value: Any, column: str, field: str, where: str) -> str:
    """The text of one row; where the column is a structure, ``field`` names what is within it."""
    if column != field:
        if value is None:
            return ""
        rest = field.removeprefix(f"{column}.")
        there, value = inside(value, rest) if isinstance(value, dict) else (False, None)
        if not there:
            raise no_field(where, field, [column])
    return as_record(value, f"Field {field!r} of {where}")


def _refuse_twice(path: Path, names: Iterable[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(f"{path} has two columns named {shown(twice[0])}; rename one of them.")


def _prefixes(field: str) -> list[str]:
    """``a.b.c``, ``a.b`` and ``a``: the columns in which the field may stand."""
    parts = field.split(".")
    return [".".join(parts[:count]) for count in range(len(parts), 0, -1)]


def _with_plain_line_ends(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _repaired(text: str) -> str:
    return type(text)(text.encode("utf-8", "replace").decode("utf-8"))
