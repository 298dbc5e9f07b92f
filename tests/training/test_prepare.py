"""What a run is prepared from: encoded once where it cannot have changed, else anew."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from workbench import corpora
from workbench.config import RunConfig
from workbench.corpora.builtin import CORPORA
from workbench.training import prepare as room
from workbench.training.prepare import prepare

LINES = [f"line {i} counts {i * i} words" for i in range(200)]


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many texts each call of `encode` was given; nothing is kept from or for other tests."""
    calls: list[int] = []
    encode = corpora.encode

    def counted(tokenizer, texts, **options):
        calls.append(len(texts))
        return encode(tokenizer, texts, **options)

    monkeypatch.setattr(corpora, "encode", counted)
    monkeypatch.setitem(CORPORA, "lines", lambda: ["\n\n".join(LINES)])
    room._KEPT.clear()
    yield calls
    room._KEPT.clear()


def of(config: RunConfig, source: str, **changes: object) -> RunConfig:
    named = {name.replace("__", "."): value for name, value in changes.items()}
    return config.with_changes({"corpus.source": source, "corpus.record": "paragraph", **named})


def test_a_built_in_corpus_is_encoded_once(config: RunConfig, encoded: list[int]):
    first = prepare(of(config, "lines"))
    again = prepare(of(config, "lines", training__learning_rate=0.5))
    assert len(encoded) == 2  # training and held-out
    assert again.training.tokens.equal(first.training.tokens)
    assert again.heldout.labels.equal(first.heldout.labels)


@pytest.mark.parametrize(
    "changes", [{"seed": 1}, {"model__vocabulary": 280}, {"corpus__record_tokens": 9}], ids=str
)
def test_whatever_changes_the_tokens_is_encoded_anew(
    config: RunConfig, encoded: list[int], changes: dict[str, object]
):
    first = prepare(of(config, "lines"))
    other = prepare(of(config, "lines", **changes))
    assert len(encoded) == 4
    assert not other.training.tokens.equal(first.training.tokens)


def test_a_file_is_read_anew(config: RunConfig, encoded: list[int], tmp_path: Path):
    file = tmp_path / "own.txt"
    file.write_text("\n\n".join(LINES), encoding="utf-8")
    before = len(prepare(of(config, str(file))).training)
    file.write_text("\n\n".join(LINES[:150]), encoding="utf-8")
    assert len(prepare(of(config, str(file))).training) < before
