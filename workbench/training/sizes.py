"""How large a model is and what a token costs it, counted so that laws can be compared.

Whether embeddings and head count moves a fitted exponent (Porian et al. 2024, 2406.19146), so a run
tells all of them.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from workbench.corpora.tokens import IGNORED

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def non_embedding_parameters(model: "PreTrainedModel") -> int:
    """Parameters without those of embeddings, of positions too, and without the output head."""
    embeddings = (part for part in model.modules() if isinstance(part, nn.Embedding))
    left_out = {id(part.weight) for part in embeddings}
    head = model.get_output_embeddings()
    if isinstance(head, nn.Module):
        left_out |= {id(weight) for weight in head.parameters()}
    return sum(w.numel() for w in model.parameters() if id(w) not in left_out)


def flops_per_token(model: "PreTrainedModel", *, record_tokens: int) -> float:
    """FLOPs that training takes for a token, without what clipping adds.

    Six for every weight that multiplies it, the head's among them and those of embeddings not, and
    12 × layers × width × ``record_tokens`` for attention to a whole record (Chowdhery et al. 2022,
    2204.02311, appendix B).
    """
    head = model.get_output_embeddings()
    of_head = sum(w.numel() for w in head.parameters()) if isinstance(head, nn.Module) else 0
    shape = model.config
    attention = 12 * shape.num_hidden_layers * shape.hidden_size * record_tokens
    return float(6 * (non_embedding_parameters(model) + of_head) + attention)


def predicted_bytes(tokenizer: "PreTrainedTokenizerBase", labels: "np.ndarray") -> int:
    """UTF-8 bytes of the text that the ``labels`` (records, record_tokens) have to predict.

    Special tokens are predicted too, but have no text.
    """
    rows = [row[row != IGNORED].tolist() for row in labels[:, 1:]]
    texts: Sequence[str] = tokenizer.batch_decode(
        rows, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)


def bits_per_byte(loss: float, *, tokens: int, n_bytes: int) -> float:
    """What a loss in nats a token is in bits a byte of text, for text of so many of both.

    >>> round(bits_per_byte(2.0, tokens=100, n_bytes=250), 4)
    1.1542
    """
    return loss * tokens / (n_bytes * math.log(2)) if n_bytes else math.nan
