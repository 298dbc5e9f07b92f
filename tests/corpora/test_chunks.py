"""Chunks: pieces of paragraphs that are split first and cut second, each one a record."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from workbench import corpora
from workbench.config import CorpusConfig, RunConfig
from workbench.corpora.chunks import _spans
from workbench.corpora.records import Records, _uniform, subset
from workbench.errors import InputError
from workbench.training.prepare import load_records, prepare

LENGTHS = (1, 5, 9, 40, 17, 80, 23)


def paragraph(number: int) -> str:
    """Some words that no other paragraph has in this order."""
    return " ".join(f"p{number}w{i * i % 97}" for i in range(LENGTHS[number % len(LENGTHS)]))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "paragraphs.txt"
    path.write_text("\n\n".join(paragraph(i) for i in range(120)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def config(source: Path) -> CorpusConfig:
    return CorpusConfig(
        source=str(source),
        record="chunk",
        min_words=2,
        record_tokens=24,
        public_fraction=0.2,
        heldout_fraction=0.2,
    )


@pytest.fixture(scope="module")
def paragraphs(config: CorpusConfig) -> Records:
    return corpora.load(config, seed=1)


@pytest.fixture(scope="module")
def tokenizer(paragraphs: Records) -> PreTrainedTokenizerBase:
    return corpora.train_tokenizer(paragraphs.public, 300)


@pytest.fixture(scope="module")
def chunks(paragraphs: Records, tokenizer: PreTrainedTokenizerBase) -> Records:
    return corpora.chunked(paragraphs, tokenizer, record_tokens=24)


def _whole(text: str, pieces: tuple[str, ...]) -> bool:
    """Whether the pieces in a row, of which only the last may be missing, are ``text``."""
    while text and (piece := next((p for p in pieces if text.startswith(p)), None)):
        text = text[len(piece) :]
    return len(text.split()) <= 5  # a remainder too short to be a record of 24 tokens


def test_paragraphs_are_split_before_they_are_cut(paragraphs: Records, chunks: Records) -> None:
    """Every part holds its own paragraphs whole, and no piece of another part's."""
    for part in ("heldout", "training"):
        assert all(_whole(text, getattr(chunks, part)) for text in getattr(paragraphs, part))
    outside = (*paragraphs.heldout, *paragraphs.public)
    for chunk in chunks.training:
        assert any(chunk in text for text in paragraphs.training)
        assert not any(chunk in text for text in outside)
    assert chunks.public == paragraphs.public
    assert len(chunks.training) > 1.5 * len(paragraphs.training)


def test_a_chunk_has_the_tokens_that_it_had_in_its_paragraph(
    chunks: Records, tokenizer: PreTrainedTokenizerBase
) -> None:
    encoded = corpora.encode(tokenizer, chunks.training, record_tokens=24, long_records="refuse")
    assert encoded.truncated == 0
    filled = (encoded.labels >= 0).sum(axis=1)
    # Whole words, so a few tokens short of all; a paragraph's only chunk may be shorter.
    assert (filled >= 12).mean() > 0.8


def test_the_counts_add_up(paragraphs: Records, chunks: Records) -> None:
    for records in (paragraphs, chunks, subset(chunks, 0.3)):
        counts = records.counts
        left_out = counts.empty + counts.too_short + counts.duplicate + counts.outside_subset
        assert counts.found == counts.public + counts.heldout + counts.training + left_out
        assert counts.training == len(records.training)
    assert chunks.counts.too_short > paragraphs.counts.too_short
    assert "outside corpus.training_subset" in subset(chunks, 0.3).counts.left_out


def test_a_chunk_that_is_elsewhere_too_is_left_out(
    paragraphs: Records, tokenizer: PreTrainedTokenizerBase
) -> None:
    heldout = paragraphs.heldout[0]
    doubled = replace(
        paragraphs, training=(*paragraphs.training, heldout, f"{paragraphs.training[0]} ")
    )
    chunks = corpora.chunked(doubled, tokenizer, record_tokens=24)
    assert not set(chunks.training) & {*chunks.heldout, *chunks.public}
    assert len(set(chunks.training)) == len(chunks.training)


@settings(derandomize=True, max_examples=60)
@given(st.lists(st.integers(1, 9), max_size=30), st.integers(1, 12))
def test_spans_cover_everything_and_break_words_only_where_they_must(
    lengths: list[int], room: int
) -> None:
    words: list[int | None] = [number for number, n in enumerate(lengths) for _ in range(n)]
    spans = list(_spans(words, room))
    assert [i for start, end in spans for i in range(start, end)] == list(range(len(words)))
    for start, end in spans:
        assert 0 < end - start <= room
        if end < len(words) and words[end] == words[end - 1]:
            assert words[start] == words[end]  # one word that fills the whole span


def test_a_smaller_share_of_the_records_is_within_a_larger_one(chunks: Records) -> None:
    def sizes() -> Iterator[int]:
        larger = set(chunks.training)
        for share in (0.8, 0.5, 0.25, 0.1):
            part = subset(chunks, share, seed=3)
            assert set(part.training) <= larger
            assert (part.heldout, part.public) == (chunks.heldout, chunks.public)
            larger = set(part.training)
            yield len(larger)

    n = len(chunks.training)
    # Five standard deviations of a binomial.
    for size, share in zip(sizes(), (0.8, 0.5, 0.25, 0.1), strict=True):
        assert abs(size - share * n) < 5 * (n * share * (1 - share)) ** 0.5
    assert subset(chunks, 0.5, seed=3).training != subset(chunks, 0.5, seed=4).training


def test_one_record_more_moves_no_other_in_or_out_of_a_subset(chunks: Records) -> None:
    """Which a choice of the n lowest hashes would do."""
    less = replace(chunks, training=chunks.training[1:])
    expected = tuple(t for t in subset(chunks, 0.4).training if t != chunks.training[0])
    assert subset(less, 0.4).training == expected


def test_the_subset_is_drawn_apart_from_the_split(config: CorpusConfig) -> None:
    """Else a share would be of the texts nearest to the held-out ones."""
    lines = config.model_copy(update={"record": "paragraph", "training_subset": 0.5})
    places = [_uniform(t, 1) for t in corpora.load(lines, seed=1).training]
    assert min(places) < 0.5
    assert max(places) > 0.9


def _run(config: CorpusConfig, **changes: object) -> RunConfig:
    return RunConfig.parse(
        {
            "corpus": config.model_dump(),
            "privacy": {"unit": "chunk"},
            "model": {"width": 8, "layers": 1, "heads": 2, "vocabulary": 300},
            "training": {"expected_batch_size": 5, "steps": 2},
            "runtime": {"device": "cpu", "threads": 1},
            **changes,
        }
    )


def test_a_run_trains_on_chunks_and_says_so(config: CorpusConfig, chunks: Records) -> None:
    prepared = prepare(_run(config, seed=1))
    assert len(prepared.training) == len(chunks.training) == prepared.plan.dataset_size
    assert prepared.terms.unit == "chunk"
    assert "one chunk" in str(prepared.terms.guarantee(prepared.plan.history()))
    assert load_records(_run(config, seed=1)) == chunks


def test_the_corpus_seed_keeps_the_split_while_the_run_s_seed_changes(
    config: CorpusConfig,
) -> None:
    own = config.model_copy(update={"seed": 1})
    runs = [prepare(_run(own, seed=seed)) for seed in (1, 2)]
    assert runs[0].training.tokens.equal(runs[1].training.tokens)
    weights = [next(run.model.parameters()) for run in runs]
    assert not weights[0].equal(weights[1])
    # Without one, the run's seed decides both, as it always did.
    assert load_records(_run(config, seed=1)) == load_records(_run(own, seed=2))
    assert load_records(_run(config, seed=1)) != load_records(_run(config, seed=2))


@pytest.mark.parametrize(
    ("record", "unit", "remedy"), [("chunk", "record", "'chunk'"), ("line", "chunk", "'record'")]
)
def test_the_unit_is_said_truthfully(record: str, unit: str, remedy: str) -> None:
    with pytest.raises(
        InputError, match=rf"^privacy\.unit is '{unit}' .*set privacy\.unit to {remedy}"
    ):
        RunConfig().with_changes({"corpus.record": record, "privacy.unit": unit})


def test_a_subset_without_records_is_refused(config: CorpusConfig) -> None:
    with pytest.raises(InputError, match=r"training_subset"):
        prepare(_run(config.model_copy(update={"training_subset": 1e-9})))
