"""The tokenizer learns from public text alone; a record is one row, cut or refused, never two."""

import numpy as np
import pytest

from workbench.corpora import encode, tokens, train_tokenizer
from workbench.errors import InputError

PUBLIC = [f"the public text number {i} is here for anyone to read" for i in range(50)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(PUBLIC, 300)


def test_any_text_survives_the_round_trip(tokenizer) -> None:
    text = "naïve 🙂\tαβγ"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_every_record_starts_so_that_its_first_word_is_predicted(tokenizer) -> None:
    encoded = encode(tokenizer, ["public text"], record_tokens=8)
    assert encoded.tokens[0, 0] == tokenizer.bos_token_id


def test_vocabulary_is_bounded_and_ids_fit_in_it(tokenizer) -> None:
    encoded = encode(tokenizer, PUBLIC, record_tokens=16)
    assert len(tokenizer) <= 300
    assert encoded.tokens.max() < len(tokenizer)


def test_padding_is_ignored_and_nothing_else_is(tokenizer) -> None:
    encoded = encode(tokenizer, ["public", PUBLIC[0]], record_tokens=32)
    lengths = [len(tokenizer(text)["input_ids"]) for text in ("public", PUBLIC[0])]
    assert (encoded.labels != tokens.IGNORED).sum(axis=1).tolist() == lengths
    kept = encoded.labels != tokens.IGNORED
    np.testing.assert_array_equal(encoded.labels[kept], encoded.tokens[kept])
    assert (encoded.tokens[~kept] == tokenizer.pad_token_id).all()


def test_what_was_encoded_cannot_be_changed(tokenizer) -> None:
    """Runs of one process share it."""
    encoded = encode(tokenizer, ["public"], record_tokens=8)
    for array in (encoded.tokens, encoded.labels):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 0


def test_a_long_record_is_cut_and_counted(tokenizer) -> None:
    encoded = encode(tokenizer, ["public", "text " * 100], record_tokens=8)
    assert encoded.tokens.shape == (2, 8)
    assert encoded.truncated == 1


def test_a_long_record_is_refused_if_asked(tokenizer) -> None:
    with pytest.raises(InputError, match=r"1 of 2 records .*record_tokens = 8"):
        encode(tokenizer, ["public", "text " * 100], record_tokens=8, long_records="refuse")


def test_private_text_does_not_shape_the_vocabulary() -> None:
    secret = ["xyzzyplugh " * 5] * 100
    with_secret = train_tokenizer(PUBLIC + secret, 300)
    without = train_tokenizer(PUBLIC, 300)
    assert len(with_secret("xyzzyplugh")["input_ids"]) < len(without("xyzzyplugh")["input_ids"])
