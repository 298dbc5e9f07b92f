"""What somebody probably meant who wrote a field's name that is none.

Names come from other libraries (``sigma``, ``batch_size``), with other marks (``max-steps``,
``noiseMultiplier``), or without their section.
"""

import re
from collections.abc import Collection
from difflib import get_close_matches

_ELSEWHERE = {
    "sigma": "noise_multiplier",
    "noise": "noise_multiplier",
    "epsilon": "target_epsilon",
    "eps": "target_epsilon",
    "clip": "max_grad_norm",
    "clip_norm": "max_grad_norm",
    "clipping_norm": "max_grad_norm",
    "l2_norm_clip": "max_grad_norm",
    "max_per_sample_grad_norm": "max_grad_norm",
    "batch": "expected_batch_size",
    "batch_size": "expected_batch_size",
    "micro_batch_size": "physical_batch_size",
    "max_physical_batch_size": "physical_batch_size",
    "lr": "learning_rate",
    "max_steps": "steps",
    "num_steps": "steps",
    "num_train_epochs": "epochs",
    "num_epochs": "epochs",
    "max_length": "record_tokens",
    "max_seq_length": "record_tokens",
    "text_column": "text_field",
    "sep": "delimiter",
    "hidden_size": "width",
    "n_layer": "layers",
    "vocab_size": "vocabulary",
}
_NEAR = 0.75  # how alike two names must be, from 0 to 1


def likely(typed: str, known: Collection[str]) -> str:
    """The one of the dotted names ``known`` that ``typed`` probably stands for; empty if none.

    >>> likely("noise-multiplier", ["privacy.delta", "privacy.noise_multiplier"])
    'privacy.noise_multiplier'
    """
    plain = _plain(typed)
    ends: dict[str, str] = {}
    for name in known:
        ends.setdefault(name.rpartition(".")[2], name)
    end = plain.rpartition(".")[2]
    if plain in known:
        return plain
    same_section = f"{plain.rpartition('.')[0]}.{_ELSEWHERE.get(end, end)}"
    if same_section in known:
        return same_section
    for candidate in (end, _ELSEWHERE.get(end, "")):
        if candidate in ends:
            return ends[candidate]
    near = get_close_matches(plain, known, 1, _NEAR)
    if near:
        return near[0]
    near = get_close_matches(end, ends, 1, _NEAR)
    return ends[near[0]] if near else ""


def _plain(typed: str) -> str:
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", typed.strip())
    return re.sub(r"[\s-]+", "_", words).lower()
