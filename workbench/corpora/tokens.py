"""From texts to fixed-size arrays of tokens, one row a record.

The tokenizer is a byte-level BPE, so that every text can be encoded, and it is trained on public
records alone: a vocabulary learned from private text would leak it outside the guarantee.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

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
    tokens but for `IGNORED` on padding. ``truncated`` counts the records that were cut.
    """

    tokens: np.ndarray
    labels: np.ndarray
    truncated: int

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
    never continued on a second row, where one record would be clipped twice.
    """
    rows: list[list[int]] = tokenizer(list(texts), verbose=False)["input_ids"]  # type: ignore[assignment]
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
    return Encoded(tokens, np.where(is_text, tokens, IGNORED), too_long)


def _padding(tokenizer: "PreTrainedTokenizerBase") -> int:
    # Under causal attention and ignored labels a token on the right changes nothing before it, so
    # any token of the vocabulary pads for a tokenizer that has none of its own.
    return tokenizer.pad_token_id if isinstance(tokenizer.pad_token_id, int) else 0
