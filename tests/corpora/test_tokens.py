"""The tokenizer learns from public text alone; a record is one row, cut or refused, never two."""

from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from workbench.corpora import encode, tokens, train_tokenizer
from workbench.corpora.values import as_record
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


def _tokenizer(model: Any, **special: str) -> PreTrainedTokenizerFast:
    inner = Tokenizer(model)
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, **special)


KNOWN = {"[UNK]": 0, "public": 1, "text": 2}


@pytest.mark.parametrize(
    "tokenizer",
    [
        _tokenizer(models.BPE()),  # knows nothing and says nothing
        _tokenizer(models.WordLevel({"[UNK]": 0, "x": 1}, unk_token="[UNK]"), unk_token="[UNK]"),
        _tokenizer(models.WordLevel({"[UNK]": 0, "x": 1}, unk_token="[UNK]")),
        _tokenizer(models.Unigram([("[UNK]", 0.0), ("z", -1.0)], unk_id=0)),
    ],
    ids=["no vocabulary", "all unknown", "unknown in secret", "unknown by number"],
)
def test_records_without_anything_to_predict_are_refused(tokenizer: Any) -> None:
    with pytest.raises(InputError, match="None of 2 records has a token to predict"):
        encode(tokenizer, ["public text", "public public text"], record_tokens=8)


def test_one_token_or_special_ones_are_nothing_to_predict() -> None:
    model = models.WordLevel(KNOWN, unk_token="[UNK]")
    plain = _tokenizer(model, unk_token="[UNK]")
    with pytest.raises(InputError, match="None of 2 records"):
        encode(plain, ["public", "text"], record_tokens=8)
    framed = _tokenizer(model, unk_token="[UNK]", bos_token="<s>", eos_token="</s>")
    framed.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> <s> $A </s>",
        special_tokens=[(s, framed.convert_tokens_to_ids(s)) for s in ("<s>", "</s>")],  # type: ignore[misc]
    )
    with pytest.raises(InputError, match="None of 1 records"):
        encode(framed, [""], record_tokens=8)
    with pytest.raises(InputError, match=r"or raise corpus\.record_tokens"):
        encode(framed, ["public text", "text public"], record_tokens=2)
    assert encode(framed, ["public text"], record_tokens=3).nothing_to_predict == 0


def test_some_records_without_anything_to_predict_are_counted() -> None:
    tokenizer = _tokenizer(models.WordLevel(KNOWN, unk_token="[UNK]"), unk_token="[UNK]")
    records = ["public text", "text", "text public", "who knows this"]
    assert encode(tokenizer, records, record_tokens=8).nothing_to_predict == 2


def test_chats_are_rendered_by_the_tokenizers_own_template(tokenizer) -> None:
    chats = [
        as_record([{"role": "user", "content": text}], "here") for text in ("public", "text is")
    ]
    with pytest.raises(InputError, match="no chat template"):
        encode(tokenizer, chats, record_tokens=32)
    templated = train_tokenizer(PUBLIC, 300)
    templated.chat_template = (
        "{% for m in messages %}{{ bos_token }}{{ m.role }}: {{ m.content }}{% endfor %}"
    )
    encoded = encode(templated, chats, record_tokens=32)
    kept = encoded.tokens[0][encoded.labels[0] != tokens.IGNORED]
    assert kept[0] == templated.bos_token_id
    assert kept[1] != templated.bos_token_id  # the template has written it
    assert templated.decode(kept, skip_special_tokens=True) == "user: public"
    templated.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(InputError, match=r"cannot render a record .*roles must alternate"):
        encode(templated, chats, record_tokens=32)
