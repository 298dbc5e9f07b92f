"""What a record is, how it is split, and the one sentence for every corpus that cannot be used."""

import json
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.config import CorpusConfig
from workbench.corpora import records
from workbench.errors import InputError

TEXTS = [f"record number {i} says something of its own" for i in range(300)]


def _config(path: Path | str, **changes: object) -> CorpusConfig:
    return CorpusConfig.model_validate({"source": str(path), "min_words": 1, **changes})


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.lists(st.text(min_size=1)), st.integers(0, 2**32))
def test_parts_are_disjoint_and_complete(texts: list[str], seed: int) -> None:
    parts = records.split(texts, public_fraction=0.2, heldout_fraction=0.2, seed=seed)
    together = [*parts.public, *parts.heldout, *parts.training]
    assert sorted(together) == sorted(set(texts))


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.integers(0, 299), st.integers(0, 2**32))
def test_removing_a_record_leaves_every_other_where_it_was(index: int, seed: int) -> None:
    def parts(texts: list[str]) -> records.Records:
        return records.split(texts, public_fraction=0.3, heldout_fraction=0.3, seed=seed)

    whole, less = parts(TEXTS), parts(TEXTS[:index] + TEXTS[index + 1 :])
    for name in ("public", "heldout", "training"):
        expected = [text for text in getattr(whole, name) if text != TEXTS[index]]
        assert list(getattr(less, name)) == expected


def test_a_copy_of_a_record_changes_nothing() -> None:
    once = records.split(TEXTS, public_fraction=0.2, heldout_fraction=0.2)
    twice = records.split(TEXTS + TEXTS, public_fraction=0.2, heldout_fraction=0.2)
    assert once == twice


def test_seeds_split_differently_and_sizes_follow_the_fractions() -> None:
    texts = [str(i) for i in range(10_000)]
    one = records.split(texts, public_fraction=0.1, heldout_fraction=0.07, seed=1)
    other = records.split(texts, public_fraction=0.1, heldout_fraction=0.07, seed=2)
    assert one.training != other.training
    # Five standard deviations of a binomial with n = 10 000 and p = 0.1.
    assert abs(len(one.public) - 1000) < 150


def test_the_built_in_corpus_has_the_size_the_workshop_counts_on() -> None:
    """22 900 paragraphs of at least 15 words before deduplication, about 19 000 to train on."""
    parts = records.load(CorpusConfig())
    assert 18_500 < len(parts.training) < 19_300
    assert min(len(text.split()) for text in parts.training) >= 15


def test_paragraphs_lines_and_rows(tmp_path: Path) -> None:
    assert records.cut(["one\ntwo\n\n \nthree"], "paragraph") == ["one\ntwo", "three"]
    assert records.cut(["one\ntwo\n\nthree"], "line") == ["one", "two", "three"]
    assert records.cut(["one\n\ntwo"], "row") == ["one\n\ntwo"]


def _written(path: Path, texts: list[str]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps({"note": text}) for text in texts), "utf-8")
    elif path.suffix == ".csv":
        pd.DataFrame({"note": texts}).to_csv(path, index=False)
    elif path.suffix == ".parquet":
        pd.DataFrame({"note": texts}).to_parquet(path)
    else:
        path.write_text("\n\n".join(texts), "utf-8")
    return path


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.jsonl", "a.csv", "a.parquet"])
def test_every_kind_of_file_gives_the_same_records(tmp_path: Path, name: str) -> None:
    path = _written(tmp_path / name, TEXTS)
    parts = records.load(_config(path, text_field="note"))
    assert parts == records.split(TEXTS, public_fraction=0.1, heldout_fraction=0.07)


def test_a_row_is_one_record_though_it_has_paragraphs(tmp_path: Path) -> None:
    path = _written(tmp_path / "a.csv", [f"{text}\n\nand more" for text in TEXTS])
    parts = records.load(_config(path, text_field="note", record="row"))
    assert sum(map(len, (parts.public, parts.heldout, parts.training))) == len(TEXTS)


def _refused(config: CorpusConfig, *words: str) -> None:
    with pytest.raises(InputError) as refusal:
        records.load(config)
    message = str(refusal.value)
    assert all(word in message for word in words), message
    assert "\n" not in message
    assert message.endswith(".")


def test_corpora_that_cannot_be_used_are_refused_in_one_sentence(tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    latin = tmp_path / "latin.txt"
    latin.write_bytes("naïve".encode("latin-1"))
    not_parquet = tmp_path / "a.parquet"
    not_parquet.write_text("text")
    not_json = tmp_path / "a.jsonl"
    not_json.write_text('{"text": "fine"}\nnot json\n')
    broken = tmp_path / "broken.csv"
    broken.write_text('text\n"never closed\n')
    csv = _written(tmp_path / "a.csv", TEXTS)
    numbers = tmp_path / "numbers.parquet"
    pd.DataFrame({"text": [1, 2]}).to_parquet(numbers)

    _refused(_config(empty), "no paragraph")
    _refused(_config(tmp_path / "none.txt"), "none.txt", "check the path")
    _refused(_config(tmp_path / "a.pdf"), ".parquet", "sotu")
    _refused(_config("no-such-corpus"), "built-in")
    _refused(_config(tmp_path), "several kinds", "*.jsonl")
    _refused(_config(""), "built-in")
    _refused(_config(latin), "UTF-8")
    _refused(_config(not_parquet), "not a Parquet file")
    _refused(_config(not_json), "Line 2")
    _refused(_config(broken), "not CSV", "line")
    _refused(_config(csv), "'text'", "note", "text_field")
    _refused(_config(numbers), "int64", "text")
    _refused(_config(empty, record="row"), "row")
    _refused(_config(csv, text_field="note", min_words=99), "99 words")
    _refused(_config(csv, text_field="note", public_fraction=0.6, heldout_fraction=0.5), "below 1")


def test_a_very_long_csv_field_is_a_record_too(tmp_path: Path) -> None:
    path = _written(tmp_path / "a.csv", [*TEXTS, "long " * 40_000])
    parts = records.load(_config(path, text_field="note"))
    assert sum(map(len, (parts.public, parts.heldout, parts.training))) == len(TEXTS) + 1


def test_odd_characters_in_json_neither_end_a_line_nor_the_run(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [*TEXTS, "a line separator \u2028 inside", "half a surrogate \ud800 pair"]
    dumped = (json.dumps({"text": text}, ensure_ascii="\ud800" in text) for text in rows)
    path.write_text("\n".join(dumped), "utf-8")
    parts = records.load(_config(path))
    assert sum(map(len, (parts.public, parts.heldout, parts.training))) == len(rows)


def test_a_corpus_too_small_for_its_parts_is_refused(tmp_path: Path) -> None:
    _refused(_config(_written(tmp_path / "a.txt", TEXTS[:1])), "too few")
