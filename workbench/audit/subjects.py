"""Who is audited: a run of ours by its last checkpoint, or any causal model's folder."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.config import RunConfig
from workbench.errors import InputError, usable_path
from workbench.runs.folder import RunRecord, read_run
from workbench.training import models
from workbench.training.randomness import initial_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_WEIGHTS = ("*.safetensors", "*.bin")
_HALF = ("float16", "bfloat16")


@dataclass(frozen=True, eq=False)
class Subject:
    """A model under test with its tokenizer; ``run`` is its record where it is a run of ours."""

    name: str
    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    run: RunRecord | None = None

    @property
    def private(self) -> bool:
        """Whether it claims to be; of a model from elsewhere nobody knows."""
        return self.run is not None and self.run.config.privacy.private


def subject(path: str | Path) -> Subject:
    """The model in a run folder or in a model folder.

    Nothing is looked up elsewhere and no code of the folder is run. Raises `InputError` if there is
    no model, or one that the machine's free memory does not hold.
    """
    folder = usable_path("The model", path)
    if not folder.is_dir():
        raise InputError(f"{path} is no folder; give a run folder, or a model saved with its own.")
    if (folder / "ledger.jsonl").exists():
        record = read_run(folder)
        if record.checkpoint is None:
            raise InputError(
                f"The run {path} has no checkpoint yet; let it finish, or resume it, and audit it "
                "then."
            )
        refuse_too_large(record.checkpoint)
        model, tokenizer = models.from_directory(record.checkpoint)
        return Subject(record.path.name, model, tokenizer, record)
    refuse_too_large(folder)
    model, tokenizer = models.from_directory(folder)
    return Subject(folder.name or str(folder), model, tokenizer)


def start_of(run: Subject) -> Subject:
    """The model that a run of ours began with: its public start, or its first random weights."""
    assert run.run is not None
    config: RunConfig = run.run.config
    if folder := config.model.directory():
        model, tokenizer = models.from_directory(folder)
        return Subject(f"start ({folder.name})", model, tokenizer)
    model = models.tiny(
        config.model,
        vocabulary=len(run.tokenizer),
        context=config.corpus.record_tokens,
        generator=initial_weights(config.seed),
    )
    return Subject("start (first weights)", model, run.tokenizer)


def refuse_too_large(folder: Path) -> None:
    """Raise `InputError` if the weights in ``folder``, in float32, exceed the free memory."""
    size = sum(f.stat().st_size for pattern in _WEIGHTS for f in folder.glob(pattern))
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        half = (settings.get("dtype") or settings.get("torch_dtype")) in _HALF
    except (OSError, ValueError, AttributeError):
        half = False  # who loads the model says what is wrong with it
    needed, free = size * (2 if half else 1), free_memory()
    if needed > free:
        raise InputError(
            f"The model in {folder} takes {needed / 1e9:.1f} GB in float32 but {free / 1e9:.1f} GB "
            "of memory are free; audit it on a machine with more, or free some."
        )


def free_memory() -> float:
    """Bytes that this machine can still give; infinite if it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        told = next(line for line in lines if line.startswith("MemAvailable"))
        return float(told.split()[1]) * 1024
    except (OSError, ValueError, StopIteration, IndexError):
        pass
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return float("inf")
