"""What users have: many kinds of files, and a refusal with the line for what is wrong in one."""

import gzip
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.config import CorpusConfig, RunConfig
from workbench.corpora import Records, load
from workbench.corpora.values import Chat
from workbench.errors import InputError

TEXTS = [f"record number {i}, with a comma and {'more ' * (i % 3)}words" for i in range(200)]
BOM = b"\xef\xbb\xbf"


def of(path: Path | str, **changes: Any) -> Records:
    values = {"source": str(path), "record": "row", "min_words": 1, **changes}
    return load(CorpusConfig.model_validate(values))


def texts(records: Records) -> list[str]:
    return sorted([*records.public, *records.heldout, *records.training])


def refusal(path: Path | str, **changes: Any) -> str:
    with pytest.raises(InputError) as refused:
        of(path, **changes)
    message = str(refused.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def csv_of(rows: list[str], delimiter: str = ",") -> str:
    return "\n".join([f"id{delimiter}text", *(f'{i}{delimiter}"{t}"' for i, t in enumerate(rows))])


CONTENTS = {
    ".jsonl": "\n".join(json.dumps({"text": text}) for text in TEXTS),
    ".ndjson": "\n".join(json.dumps({"text": text}) for text in TEXTS),
    ".json": json.dumps([{"text": text} for text in TEXTS], indent=1),
    ".csv": csv_of(TEXTS),
    ".tsv": csv_of(TEXTS, "\t"),
}


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("mark", [b"", BOM], ids=["", "BOM"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"], ids=["unix", "windows"])
@pytest.mark.parametrize("kind", CONTENTS)
def test_every_kind_of_table_gives_its_rows(
    kind: str, line_end: str, mark: bytes, packed: str, tmp_path: Path
) -> None:
    path = tmp_path / f"a{kind.upper()}{packed}"
    raw = mark + CONTENTS[kind].replace("\n", line_end).encode()
    path.write_bytes(gzip.compress(raw) if packed else raw)
    assert texts(of(path)) == sorted(TEXTS)


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_parquet_may_be_packed_too(packed: str, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pd.DataFrame({"text": TEXTS}).to_parquet(path)
    if packed:
        raw = path.read_bytes()
        path = tmp_path / "a.parquet.gz"
        path.write_bytes(gzip.compress(raw))
    assert texts(of(path)) == sorted(TEXTS)


def test_marks_within_a_text_made_of_several_files_are_taken_off(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    half = "\n".join(TEXTS[:100]).encode(), "\n".join(TEXTS[100:]).encode()
    path.write_bytes(BOM + half[0] + b"\n" + BOM + half[1])
    assert texts(of(path, record="line")) == sorted(TEXTS)
    lines = [json.dumps({"text": text}).encode() for text in TEXTS]
    path = tmp_path / "a.jsonl"
    path.write_bytes(BOM + b"\n".join(lines[:99]) + b"\n" + BOM + b"\n".join(lines[99:]))
    assert texts(of(path)) == sorted(TEXTS)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "cp1252", "latin-1", "utf-8"])
def test_another_encoding_is_read_if_it_is_named(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    naive = [f"{text} naïve" for text in TEXTS]
    path.write_bytes(csv_of(naive).encode(encoding))
    assert texts(of(path, encoding=encoding)) == sorted(naive)
    if encoding == "utf-16":
        assert "corpus.encoding to 'utf-16'" in refusal(path)
    elif encoding != "utf-8":
        assert "corpus.encoding" in refusal(path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"encoding": "klingon"}, "corpus.encoding is 'klingon'"),
        ({"encoding": "rot13"}, "corpus.encoding is 'rot13'"),
        ({"encoding": "a\0b"}, "corpus.encoding"),
        ({"delimiter": ""}, "corpus.delimiter is ''"),
        ({"delimiter": "::"}, "corpus.delimiter is '::'"),
        ({"delimiter": '"'}, "corpus.delimiter"),
    ],
)
def test_options_that_cannot_be_are_refused(changes: dict[str, str], says: str) -> None:
    with pytest.raises(InputError) as refused:
        RunConfig.parse({"corpus": changes})
    assert says in str(refused.value)


def test_another_delimiter_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(csv_of(TEXTS, ";"), "utf-8")
    assert texts(of(path, delimiter=";")) == sorted(TEXTS)
    assert "set corpus.text_field" in refusal(path)


def test_files_of_a_folder_or_pattern_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    parts = {"b.jsonl": TEXTS[:80], "a.jsonl.gz": TEXTS[80:150], "c.jsonl": TEXTS[150:]}
    for name, rows in parts.items():
        raw = "\n".join(json.dumps({"text": text}) for text in rows).encode()
        (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith("gz") else raw)
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / ".DS_Store").write_bytes(b"\0")
    in_order = [*parts["a.jsonl.gz"], *parts["b.jsonl"], *parts["c.jsonl"]]
    for source in (tmp_path, tmp_path / "*.jsonl*", tmp_path / "[abc].json*"):
        records = of(source)
        kept = set(records.training)
        assert list(records.training) == [text for text in in_order if text in kept]
        assert texts(records) == sorted(TEXTS)


def test_a_name_that_looks_like_a_pattern_is_a_name(tmp_path: Path) -> None:
    path = tmp_path / "a[1].jsonl"
    path.write_text(CONTENTS[".jsonl"], "utf-8")
    assert texts(of(path)) == sorted(TEXTS)


def test_folders_and_patterns_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    assert "a folder without a file" in refusal(tmp_path)
    assert "no file has" in refusal(tmp_path / "*.csv")
    (tmp_path / "a.xlsx").touch()
    assert "a.xlsx" in refusal(tmp_path)
    assert "a.xlsx" in refusal(tmp_path / "*")
    (tmp_path / "folder.csv").mkdir()
    assert "a folder without a file" in refusal(tmp_path / "folder.csv")


RAGGED = {
    "more fields": ("text,label\na,1\nb, and then,1\n", "Line 3", "3 fields", "header has 2"),
    "fewer fields": ("text,label\na,1\nb\n", "Line 3", "1 field ", "header has 2"),
    "behind a quoted line break": ('text,label\n"a\nb\nc",1\n\nd,e,f\n', "Line 6", "3 fields"),
    "windows": ("text,label\r\na,1\r\nb,c,1\r\n", "Line 3", "3 fields"),
    "equal columns": ("text,text\na,b\n", "Line 1", "'text' twice"),
    "equal other columns": ("text,x,x\na,b,c\n", "Line 1", "'x' twice"),
    "a quote that is not doubled": ('id,text\n1,a\n2,"b \\"c\\", d"\n', "line 3"),
    "a quote never closed": ('id,text\n1,a\n2,"b\n3,c\n', "line 3"),
    "no such column": ("a,b\n1,2\n", "line 1", "only a, b"),
    "nothing": ("", "only nothing"),
}


@pytest.mark.parametrize("case", RAGGED)
def test_a_table_that_is_none_is_refused_with_its_line(case: str, tmp_path: Path) -> None:
    body, *says = RAGGED[case]
    path = tmp_path / "a.csv"
    path.write_bytes(body.encode())
    message = refusal(path)
    assert all(words in message for words in says), message


JSON_MISTAKES = {
    "not JSON": ('{"text": "a"}\nnot\n', "Line 2", "not JSON"),
    "no object": ('{"text": "a"}\n\n3\n', "Line 3", "not a JSON object"),
    "a field twice": ('{"text": "a", "text": "b"}\n', "Line 1", "'text' twice"),
    "a field twice within": ('{"text": "a", "m": {"x": 1, "x": 2}}\n', "Line 1", "'x' twice"),
    "a field missing": ('{"text": "a"}\n{"body": "b"}\n', "line 2", "only body"),
    "a number": ('{"text": 3}\n', "line 1", "holds a number"),
    "a number of many digits": ('{"text": ' + "9" * 5000 + "}\n", "line 1", "holds a number"),
    "true": ('{"text": true}\n', "line 1", "holds true or false"),
    "an object": ('{"text": {"a": 1}}\n', "line 1", "holds an object"),
    "a list of numbers": ('{"text": [1]}\n', "line 1", "holds a list of other things"),
    "nested without end": ("[" * 100_000 + "\n", "Line 1", "nested too deeply"),
    "no message": ('{"text": [{"from": "a"}]}\n', "line 1", "entry 1", "no message of a chat"),
}


@pytest.mark.parametrize("case", JSON_MISTAKES)
def test_json_that_cannot_be_used_is_refused_with_its_line(case: str, tmp_path: Path) -> None:
    body, *says = JSON_MISTAKES[case]
    path = tmp_path / "a.jsonl"
    path.write_text(body, "utf-8")
    message = refusal(path)
    assert all(words in message for words in says), message


def test_a_json_file_is_one_array(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"text": "a"}')
    assert "not a JSON array" in refusal(path)
    path.write_text('[{"text": "a"},\n{"text": 3}]')
    assert "entry 2" in refusal(path)
    path.write_text('[{"text": "a"},\n{"text"}]')
    assert "(line 2)" in refusal(path)


def test_an_integer_of_many_digits_beside_the_text_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = (f'{{"id": {"9" * 5000}, "text": "{text}"}}' for text in TEXTS)
    path.write_text("\n".join(rows), "utf-8")
    assert texts(of(path)) == sorted(TEXTS)


def test_a_field_within_another_is_named_with_a_dot(tmp_path: Path) -> None:
    rows = [{"meta": {"text": text}, "meta.title": "t", "n": 1} for text in TEXTS]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    assert texts(of(path, text_field="meta.text")) == sorted(TEXTS)
    assert "set corpus.text_field" in refusal(path, text_field="meta.body")
    assert "set corpus.text_field" in refusal(path, text_field="n.text")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert texts(of(tmp_path / "a.parquet", text_field="meta.text")) == sorted(TEXTS)
    assert "set corpus.text_field" in refusal(tmp_path / "a.parquet", text_field="meta.body")
    dotted = [{"meta.text": text, "meta": {"text": "other"}} for text in TEXTS]
    path.write_text("\n".join(map(json.dumps, dotted)), "utf-8")
    assert texts(of(path, text_field="meta.text")) == sorted(TEXTS)


@pytest.mark.parametrize(
    "column",
    [
        pa.array(TEXTS).dictionary_encode(),
        pa.array(TEXTS, pa.large_string()),
        pa.array([text.split(" with ") for text in TEXTS]),
        pa.array([text.split(" with ") for text in TEXTS], pa.large_list(pa.string())),
    ],
    ids=["category", "large", "list", "large list"],
)
def test_parquet_columns_of_other_kinds_hold_text_too(column: pa.Array, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": column}), path)
    found = texts(of(path))
    assert [text.replace("\n", " with ") for text in found] == sorted(TEXTS)


def test_parquet_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    both = pa.Table.from_arrays([pa.array(TEXTS), pa.array(TEXTS)], names=["text", "text"])
    pq.write_table(both, path)
    assert "two columns named 'text'" in refusal(path)
    pq.write_table(pa.table({"text": [b"bytes"]}), path)
    assert "holds binary" in refusal(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "not a Parquet file" in refusal(path)


def test_a_gzip_file_that_is_none_or_cut_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(b"text\na\n")
    assert "no whole gzip file" in refusal(path)
    path.write_bytes(gzip.compress(b"text\na\n" * 100)[:-9])
    assert "no whole gzip file" in refusal(path)


def chat(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": "Speak."}, {"role": "assistant", "content": text}]


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_chats_are_records_as_a_whole(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind}"
    rows = [{"messages": chat(text)} for text in TEXTS]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    records = of(path, text_field="messages")
    assert records.are_chats
    found = [text for text in texts(records) if isinstance(text, Chat)]
    assert sorted(text.messages[1]["content"] for text in found) == sorted(TEXTS)
    assert "set corpus.record to 'row'" in refusal(path, text_field="messages", record="paragraph")
    # "Speak." is a word, too.
    assert of(path, text_field="messages", min_words=9).counts.too_short == 0
    assert of(path, text_field="messages", min_words=10).counts.too_short > 0


def test_chats_beside_texts_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"text": t}) for t in (chat("a"), "b")), "utf-8")
    assert "chats in some rows" in refusal(path)


_BYTES = st.binary(max_size=200) | st.text(
    "ab,;\"'\\\n\r\t 0{}[]:u\u00e9\u0085\u2028\ufeff", max_size=80
).map(lambda text: text.encode())
_BODIES = {
    "csv": _BYTES.map(lambda body: b"text,x\n" + body) | _BYTES,
    "tsv": _BYTES.map(lambda body: b"text\tx\n" + body),
    "jsonl": _BYTES.map(lambda body: b'{"text": "a"}\n{"text": ' + body + b"}") | _BYTES,
    "json": _BYTES.map(lambda body: b'[{"text": ' + body + b"}]") | _BYTES,
    "txt": _BYTES,
    "parquet": _BYTES.map(lambda body: b"PAR1" + body + b"PAR1"),
    "csv.gz": _BYTES | _BYTES.map(gzip.compress),
}


@pytest.mark.parametrize("kind", _BODIES)
@settings(derandomize=True, deadline=None, max_examples=80)
@given(data=st.data(), record=st.sampled_from(["row", "line"]))
def test_random_bytes_end_in_records_or_one_sentence(
    kind: str, record: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / f"random.{kind}"
    path.write_bytes(data.draw(_BODIES[kind]))
    try:
        of(path, record=record, min_words=0)
        message = "."
    except InputError as error:
        message = str(error)
    assert message.endswith(".")
    assert "\n" not in message
