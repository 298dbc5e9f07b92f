"""What a run is prepared from: encoded once where it cannot have changed, else anew."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from workbench import corpora
from workbench.analysis.projection import project
from workbench.config import RunConfig
from workbench.corpora.builtin import CORPORA
from workbench.errors import InputError
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


def on_disk(folder: Path, config: RunConfig) -> Path:
    """A GPT-2 without its tokenizer's files."""
    shape = GPT2Config(vocab_size=300, n_embd=16, n_layer=1, n_head=2, n_positions=16)
    GPT2LMHeadModel(shape).save_pretrained(folder)
    return folder


def test_a_model_without_its_tokenizer_is_refused(config: RunConfig, tmp_path: Path):
    folder = on_disk(tmp_path / "model", config)
    with pytest.raises(InputError, match=r"tokenizer") as refusal:
        prepare(config.with_changes({"model.source": str(folder)}))
    assert "\n" not in str(refusal.value)


def test_a_tokenizer_that_knows_nothing_of_the_corpus_is_refused(config: RunConfig, tmp_path: Path):
    folder = on_disk(tmp_path / "model", config)
    words = Tokenizer(WordLevel({"[UNK]": 0, "elsewhere": 1}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained(folder)
    with pytest.raises(InputError, match=r"None of .* records has a token to predict"):
        prepare(config.with_changes({"model.source": str(folder)}))


def test_chats_need_a_model_with_a_template(config: RunConfig, tmp_path: Path):
    path = tmp_path / "chats.jsonl"
    chats = ([{"role": "user", "content": line}] for line in LINES)
    path.write_text("\n".join(json.dumps({"text": chat}) for chat in chats), "utf-8")
    asked = config.with_changes({"corpus.source": str(path), "corpus.record": "row"})
    with pytest.raises(InputError, match="no chat template") as refusal:
        prepare(asked)
    with pytest.raises(InputError) as preview:
        list(project(asked))
    assert str(preview.value) == str(refusal.value)
    folder = on_disk(tmp_path / "model", config)
    tokenizer = corpora.train_tokenizer(LINES, 300)
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    prepared = prepare(asked.with_changes({"model.source": str(folder)}))
    assert str(tokenizer.decode(prepared.training.tokens[0][:6])).startswith("line ")


def test_what_was_left_out_or_cut_is_counted(config: RunConfig, tmp_path: Path):
    path = tmp_path / "own.txt"
    path.write_text("\n".join([*LINES, *LINES[:9], "short"]), "utf-8")
    counts = prepare(
        config.with_changes({"corpus.source": str(path), "corpus.min_words": 2})
    ).counts
    assert (counts.found, counts.duplicate, counts.too_short) == (210, 9, 1)
    assert counts.truncated > 0
    assert counts.nothing_to_predict == 0
