"""What the study's text is like, measured once: sizes, and how well its word counts alone predict.

The unigram cross-entropy is where the loss of a model that learns nothing but frequencies ends, an
upper bound in laws that are S-shaped. It comes from the training records without noise, so no ε
covers it; the study's corpus is public.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from workbench.config import RunConfig
from workbench.corpora.tokens import IGNORED
from workbench.runs.files import replace_text

CORPUS = "corpus.json"


def unigram_loss(training: np.ndarray, heldout: np.ndarray, *, vocabulary: int) -> float:
    """Nats a token of held-out labels under the frequencies of the training labels.

    Args:
        training: labels, (records, record_tokens); the first column is never predicted.
        heldout: the same of the records that are measured.
        vocabulary: tokens there are; each counts once more than it was seen, so that none is
            impossible.

    >>> labels = np.array([[0, 1, 1, 2]])
    >>> round(unigram_loss(labels, np.array([[0, 1]]), vocabulary=3), 4)  # log 6 / 3
    0.6931
    """
    seen, asked = (labels[:, 1:][labels[:, 1:] != IGNORED] for labels in (training, heldout))
    counts = np.bincount(seen, minlength=vocabulary) + 1
    return float(-np.log(counts / counts.sum())[asked].mean())


def measured_corpus(base: RunConfig) -> dict[str, Any]:
    """Sizes of the corpus of ``base``, whole, and its unigram cross-entropy."""
    from workbench.training.prepare import prepare
    from workbench.training.sizes import predicted_bytes

    # A corpus may have fewer records than a batch that is not asked for here.
    prepared = prepare(base.with_changes({"training.expected_batch_size": 1}))
    training, heldout = (part.labels.numpy() for part in (prepared.training, prepared.heldout))
    loss = unigram_loss(training, heldout, vocabulary=len(prepared.tokenizer))
    return {
        "corpus": base.corpus.model_dump(mode="json"),
        "vocabulary": len(prepared.tokenizer),
        "records": dict(prepared.counts),
        "unique_tokens": int((training[:, 1:] != IGNORED).sum()),
        "heldout_tokens": int((heldout[:, 1:] != IGNORED).sum()),
        "heldout_bytes": predicted_bytes(prepared.tokenizer, heldout),
        "unigram_loss": round(loss, 6),
    }


def keep_corpus(folder: Path, base: RunConfig) -> Path:
    """Have ``corpus.json`` beside the rows; it is measured where there is none."""
    path = folder / CORPUS
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(measured_corpus(base), indent=1, ensure_ascii=False)
        replace_text(path, f"{text}\n")
    return path
