"""From texts to fixed-size arrays of tokens, one row a record.

The tokenizer is a byte-level BPE, so that every text can be encoded, and it is trained on public
records alone: a vocabulary learned from private text would leak it outside the guarantee.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from workbench.corpora.values import Chat
from workbench.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

START = "<|start|>"
PADDING = "<|padding|>"
IGNORED = -100  # the label that cross entropy leaves out, in torch and in transformers


@dataclass(frozen=True)
class Encoded:
    """Records as arrays.

    ``tokens`` and ``labels`` are (records, record_tokens) int64, padded on the right; labels equal
    tokens but for `IGNORED` on padding. ``truncated`` counts the records that were cut, and
    ``nothing_to_predict`` those from which nothing can be learnt: behind their first token, which
    is never predicted, stand only special or unknown ones.
    """

    tokens: np.ndarray
    labels: np.ndarray
    truncated: int
    nothing_to_predict: int = 0

    def __post_init__(self) -> None:
        self.tokens.setflags(write=False)  # what is kept between runs is nobody's to change
        self.labels.setflags(write=False)


def train_tokenizer(public: Iterable[str], vocabulary: int) -> "PreTrainedTokenizerBase":
    """Train a byte-level BPE of at most ``vocabulary`` tokens on public texts.

    Every encoded text starts with `START`, so that its first word is predicted too. The result is a
    Hugging Face tokenizer, which checkpoints save beside the weights.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PADDING, START],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(public, trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", special_tokens=[(START, bpe.token_to_id(START))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=START, pad_token=PADDING)


def encode(
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[str],
    *,
    record_tokens: int,
    long_records: str = "truncate",
) -> Encoded:
    """Encode each text as one row of ``record_tokens`` tokens.

    A longer record is cut and counted, or with ``long_records="refuse"`` raises `InputError`; it is
    never continued on a second row, where one record would be clipped twice. Chats are rendered by
    the tokenizer's own template.

    Raises `InputError` too if no record at all has anything to predict: such a run would end at
    perplexity 1 and a certified ε, having learnt nothing.
    """
    rows = _rows(tokenizer, texts)
    lengths = np.array([len(row) for row in rows])
    too_long = int((lengths > record_tokens).sum())
    if too_long and long_records == "refuse":
        raise InputError(
            f"{too_long} of {len(rows)} records are longer than corpus.record_tokens = "
            f"{record_tokens} (the longest has {lengths.max()}); raise it or set "
            "corpus.long_records to 'truncate'."
        )
    tokens = np.full((len(rows), record_tokens), _padding(tokenizer), dtype=np.int64)
    for index, row in enumerate(rows):
        kept = row[:record_tokens]
        tokens[index, : len(kept)] = kept
    is_text = np.arange(record_tokens) < lengths[:, None]
    labels = np.where(is_text, tokens, IGNORED)
    nothing = _nothing_to_predict(tokenizer, labels)
    if len(rows) and nothing == len(rows):
        raise InputError(
            f"None of {nothing} records has a token to predict: cut at corpus.record_tokens = "
            f"{record_tokens}, the tokenizer gives them one token at most, or only special, "
            "unknown or equal ones; check that its files are beside the model and fit the text"
            f"{', or raise corpus.record_tokens' if too_long else ''}."
        )
    return Encoded(tokens, labels, too_long, nothing)


def _rows(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> list[list[int]]:
    """The tokens of each text, as many as it has."""
    chats = [text for text in texts if isinstance(text, Chat)]
    if not chats:
        return tokenizer(list(texts), verbose=False)["input_ids"]  # type: ignore[return-value]
    rendered = [_rendered(tokenizer, chat) for chat in chats]
    # A template writes the special tokens itself.
    return tokenizer(rendered, add_special_tokens=False, verbose=False)["input_ids"]  # type: ignore[return-value]


def _rendered(tokenizer: "PreTrainedTokenizerBase", chat: Chat) -> str:
    refuse_without_template(tokenizer.chat_template is not None)
    try:
        return str(tokenizer.apply_chat_template(chat.messages, tokenize=False))
    except Exception as error:  # a template is a program, which can fail in any way
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"The tokenizer's chat template cannot render a record ({reason}); correct the "
            "messages, or render the corpus to text."
        ) from None


def refuse_without_template(has_template: bool) -> None:
    """Raise `InputError` for a corpus of chats if no template makes texts of them."""
    if not has_template:
        raise InputError(
            "corpus.text_field holds the messages of chats but the tokenizer of model.source has "
            "no chat template; give a model folder with one, or a corpus of texts."
        )


def _nothing_to_predict(tokenizer: "PreTrainedTokenizerBase", labels: np.ndarray) -> int:
    """How many rows have no token to learn from."""
    targets = labels[:, 1:]
    told = (targets != IGNORED) & ~np.isin(targets, _not_text(tokenizer))
    # A tokenizer need not say which token stands for what it does not know.
    if len(targets) > 1 and len(np.unique(targets[told])) == 1:
        return len(targets)
    return int((~told.any(axis=1)).sum())


def _not_text(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Special tokens, and the one for what the tokenizer does not know."""
    model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    unknown = getattr(model, "unk_token", None)
    ids = [*tokenizer.all_special_ids, tokenizer.unk_token_id]
    if isinstance(unknown, str):
        ids.append(tokenizer.convert_tokens_to_ids(unknown))
    return [token for token in ids if isinstance(token, int)]


def _padding(tokenizer: "PreTrainedTokenizerBase") -> int:
    # Under causal attention and ignored labels a token on the right changes nothing before it, so
    # any token of the vocabulary pads for a tokenizer that has none of its own.
    return tokenizer.pad_token_id if isinstance(tokenizer.pad_token_id, int) else 0
