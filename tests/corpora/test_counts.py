"""Which records are left out is counted and told, whatever script they are written in."""

from pathlib import Path

import pytest

from workbench.config import CorpusConfig
from workbench.corpora import RecordCounts, load
from workbench.corpora.counts import words

CHINESE = "今天天气很好我们去公园散步然后回家吃饭"
JAPANESE = "きょうは天気がいいのでこうえんをさんぽします"
THAI = "วันนี้อากาศดีมากเราไปเดินเล่นที่สวนสาธารณะ"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("one", 1),
        ("one — two", 3),  # what stands between blanks, as ever
        ("naïve café", 2),
        ("한국어는 띄어쓰기가 있다", 3),
        ("Привет мир", 2),
        (CHINESE, 19),
        ("今天，天气。", 4),
        ("用GPT-2模型", 5),  # three letters, GPT and 2
        (JAPANESE, 22),
        ("สวน", 3),
        ("ที่", 1),  # a letter with a vowel and a tone mark
    ],
)
def test_words_are_counted_in_every_script(text: str, count: int) -> None:
    assert words(text) == count


@pytest.mark.parametrize("text", [CHINESE, JAPANESE, THAI])
def test_languages_without_blanks_are_not_dropped(text: str, tmp_path: Path) -> None:
    """Beside English, of which every record has words enough."""
    path = tmp_path / "a.txt"
    english = " ".join(["word"] * 15)
    lines = [f"{english} {i}" if i % 10 == 0 else f"{text}{i}" for i in range(300)]
    path.write_text("\n".join(lines), "utf-8")
    counts = load(CorpusConfig(source=str(path), record="line")).counts
    assert counts.too_short == 0
    assert counts.public + counts.heldout + counts.training == 300


def test_every_record_found_is_counted_once(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = [f"a record of enough words with number {i}" for i in range(200)]
    left_out = ["too short"] * 7 + ["", "  "] + rows[:5]
    path.write_text("\n".join(["text,more", *(f"{row},x" for row in rows + left_out)]), "utf-8")
    records = load(CorpusConfig(source=str(path), record="row", min_words=5))
    counts = records.counts
    assert (counts.found, counts.too_short, counts.empty, counts.duplicate) == (214, 7, 2, 5)
    kept = len(records.public), len(records.heldout), len(records.training)
    assert kept == (counts.public, counts.heldout, counts.training)
    assert sum(kept) == 200


@pytest.mark.parametrize("record", ["paragraph", "row"])
def test_rows_without_text_are_empty_records(record: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [f'{{"text": "record {i}"}}' for i in range(200)]
    path.write_text("\n".join([*rows, '{"text": null}', '{"text": " "}']), "utf-8")
    config = CorpusConfig.model_validate({"source": str(path), "record": record, "min_words": 0})
    assert load(config).counts.empty == 2


def test_the_counts_are_one_sentence_without_what_did_not_happen() -> None:
    whole = RecordCounts(found=10, public=1, heldout=2, training=7)
    assert str(whole) == "Records: 7 private to train on, 2 held out, 1 public."
    counts = RecordCounts(
        found=2020, empty=1, too_short=1000, duplicate=9, training=1010, truncated=5
    )
    assert str(counts) == (
        "Records: 1,010 private to train on, 0 held out, 0 public; 1 empty, 1,000 shorter than "
        "corpus.min_words, 9 copies of another: left out of 2,020 found; of those to train on, 5 "
        "cut at corpus.record_tokens."
    )
