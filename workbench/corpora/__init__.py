"""Where records come from: what one protected record is, built-in corpora, and tokens."""

from workbench.corpora.chunks import chunked
from workbench.corpora.counts import RecordCounts
from workbench.corpora.records import Records, load, split
from workbench.corpora.tokens import Encoded, encode, train_tokenizer

__all__ = [
    "Encoded",
    "RecordCounts",
    "Records",
    "chunked",
    "encode",
    "load",
    "split",
    "train_tokenizer",
]
