"""The model on disk, as a directory that `transformers` loads and this workbench can train again.

Safetensors and JSON only, nothing pickled. A checkpoint appears whole or not at all, and the newest
replaces the one before.
"""

import json
import shutil
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from workbench.training.models import no_progress_bars

_STEP = "step.json"


def save(
    folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, step: int
) -> Path:
    """Write ``folder/step-000123`` and return it; earlier checkpoints are removed after."""
    final = folder / f"step-{step:06d}"
    if final.exists():
        return final
    partial = folder / f".{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    with no_progress_bars():
        model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    (partial / _STEP).write_text(json.dumps({"step": step}), encoding="utf-8")
    older = steps(folder)
    partial.rename(final)
    for path in older:
        shutil.rmtree(path)
    return final


def steps(folder: Path) -> list[Path]:
    """The whole checkpoints in ``folder``, oldest first."""
    return sorted(folder.glob("step-*"))
