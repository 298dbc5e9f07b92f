"""What stands in a model's folder, looked at before anything of it is loaded.

Only weights and settings are taken from a folder. A folder that brings code of its own is refused
by its settings alone, so that no library comes to ask whether the code should run, or looks for it
elsewhere; and what is refused here is refused in words of training, not of a library's loader.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import logging

from workbench.errors import InputError, shown

_SETTINGS = ("config.json", "tokenizer_config.json", "generation_config.json")
_ATTENTION = (None, "eager", "sdpa", "flex_attention")
_LARGEST_SETTINGS = 10**8  # bytes; a vocabulary of a million words written out takes a tenth


def model_settings(path: Path) -> PretrainedConfig:
    """The architecture of the model in ``path``, whose folder holds nothing that cannot be trained.

    Raises `InputError` for code of its own, quantized weights, an attention that trains nowhere, an
    adapter without its model, and for settings that are not there or not readable.
    """
    settings = {name: _read(path, name) for name in _SETTINGS}
    if settings["config.json"] is None:
        has_adapter = (path / "adapter_config.json").exists()
        what = "an adapter without its model" if has_adapter else "no config.json"
        raise InputError(
            f"model.source {shown(str(path))} is not a causal language model: it holds {what}; "
            f"{'merge the adapter into its model and' if has_adapter else ''} save the model there "
            "with save_pretrained.".replace("  ", " ")
        )
    if (path / "adapter_config.json").exists():
        raise InputError(
            f"model.source {shown(str(path))} holds an adapter beside its model; merge the adapter "
            "into the model and save that, or take adapter_config.json away."
        )
    for name, values in settings.items():
        _refuse_own_code(path, name, values or {}, settings["config.json"])
    _refuse_untrainable(path, settings["config.json"])
    with nothing_from_outside():
        return AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)


@contextmanager
def nothing_from_outside() -> Iterator[None]:
    """Let `transformers` look nothing up on the network, and write no advice to the terminal."""
    before, verbosity = constants.HF_HUB_OFFLINE, logging.get_verbosity()
    constants.HF_HUB_OFFLINE = True
    logging.set_verbosity_error()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        logging.set_verbosity(verbosity)


def _read(path: Path, name: str) -> dict[str, Any] | None:
    """A file of settings; None if there is none."""
    file = path / name
    try:
        if not file.exists():
            return None
        if file.stat().st_size > _LARGEST_SETTINGS:
            raise ValueError("it is too large")
        values = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise InputError(
            f"model.source {shown(str(path))} is not a causal language model: its {name} cannot be "
            f"read ({reason}); save the model there with save_pretrained."
        ) from None
    return values


def _refuse_own_code(
    path: Path, name: str, values: dict[str, Any], config: dict[str, Any] | None
) -> None:
    if not any("auto_map" in part or "custom_pipelines" in part for part in _parts(values)):
        return
    family = (config or {}).get("model_type")
    known = isinstance(family, str) and family in CONFIG_MAPPING
    remedy = (
        f"transformers has {family!r} of its own, so remove auto_map from that file if your "
        "weights fit it"
        if known
        else "give a model of an architecture that transformers has itself"
    )
    raise InputError(
        f"model.source {shown(str(path))} has code of its own (auto_map in {name}), and such code "
        f"is never run here; {remedy}."
    )


def _refuse_untrainable(path: Path, config: dict[str, Any]) -> None:
    for part in _parts(config):
        for name in ("attn_implementation", "_attn_implementation"):
            asked = part.get(name)
            if asked not in _ATTENTION and not isinstance(asked, dict):
                raise InputError(
                    f"model.source {shown(str(path))} asks for {name} {shown(asked)} in its "
                    "config.json, which is not for training in float32; set it to 'sdpa' or "
                    "'eager' there."
                )
        for name in ("quantization_config", "compression_config"):
            if part.get(name):
                asked = part[name]
                method = asked.get("quant_method") if isinstance(asked, dict) else None
                raise InputError(
                    f"model.source {shown(str(path))} holds quantized weights ({name} in its "
                    f"config.json: {shown(method or 'no method named')}), which cannot be trained; "
                    "save the model there without quantization."
                )


def _parts(values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The settings and those within them: a model of several has one for each."""
    yield values
    for value in values.values():
        if isinstance(value, dict):
            yield from _parts(value)
