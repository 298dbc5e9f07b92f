"""Configurations to start from: the article's table, published runs, and the laptop run.

Every number is read from `data/`, where each row names its source.

>>> [preset.group for preset in presets()][:1]
['This workbench']
>>> find("vaultgemma").steps
100000
"""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from workbench.config import RunConfig
from workbench.errors import InputError

LAPTOP_RECORDS = 18_792  # training paragraphs of the default corpus, seed 0
LAPTOP_PARAMETERS = 140_000  # the default model, rounded
_PACKAGE = Path(__file__).parent


@dataclass(frozen=True)
class Preset:
    """A DP-SGD configuration by name; ``source`` and ``note`` say where its numbers come from.

    ``claimed_epsilon`` is what the source states, not what this workbench computes.
    """

    name: str
    title: str
    group: str
    noise_multiplier: float
    max_grad_norm: float
    expected_batch_size: int
    dataset_size: int
    steps: int
    delta: float
    n_params: float
    record_tokens: int
    claimed_epsilon: float | None
    source: str
    note: str = ""


def data_file(name: str) -> Path:
    """Path of a file under `data/`, from a checkout or from an installed package."""
    installed = _PACKAGE / "_data" / name
    return installed if installed.exists() else _PACKAGE.parent / "data" / name


def rows(name: str) -> list[dict[str, str]]:
    """A CSV file under `data/` as one dictionary per row, values as text.

    Raises `InputError` if there is no such file.
    """
    path = data_file(name)
    if not path.is_file():
        raise InputError(f"There is no data file {name}; choose one under data/.")
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@cache
def article_claims() -> dict[str, float]:
    """The article's numerical claims by name; where each stands is in `article/claims.csv`."""
    return {row["name"]: float(row["value"]) for row in rows("article/claims.csv")}


@cache
def presets() -> tuple[Preset, ...]:
    """All presets, the workbench's own run first."""
    return (_laptop(), *_article_rows(), *_published())


def find(name: str) -> Preset:
    """The preset called ``name``; raises `InputError` if there is none."""
    for preset in presets():
        if preset.name == name:
            return preset
    known = ", ".join(preset.name for preset in presets())
    raise InputError(f"There is no preset {name!r}; choose one of {known}.")


def _laptop() -> Preset:
    config = RunConfig()
    assert config.privacy.noise_multiplier is not None
    assert config.training.steps is not None
    return Preset(
        name="laptop",
        title="My laptop run",
        group="This workbench",
        noise_multiplier=config.privacy.noise_multiplier,
        max_grad_norm=config.privacy.max_grad_norm,
        expected_batch_size=config.training.expected_batch_size,
        dataset_size=LAPTOP_RECORDS,
        steps=config.training.steps,
        delta=config.privacy.delta,
        n_params=LAPTOP_PARAMETERS,
        record_tokens=config.corpus.record_tokens,
        claimed_epsilon=None,
        source="The default run configuration",
        note="parameters rounded",
    )


def _article_rows() -> tuple[Preset, ...]:
    claims = article_claims()
    record_tokens = int(claims["table_setting_record_tokens"])
    records = round(claims["table_setting_tokens"] / record_tokens)
    return tuple(
        Preset(
            name=f"article_{row['model'].lower()}_epsilon_{float(row['target_epsilon']):g}",
            title=f"Article’s table: {row['model']}, ε {float(row['target_epsilon']):g}",
            group="The article",
            noise_multiplier=float(row["noise_multiplier"]),
            max_grad_norm=1.0,
            expected_batch_size=int(row["expected_batch_size"]),
            dataset_size=records,
            steps=round(records / int(row["expected_batch_size"])),
            delta=claims["table_setting_delta"],
            n_params=float(row["n_params"]),
            record_tokens=record_tokens,
            claimed_epsilon=float(row["target_epsilon"]),
            source=row["source"],
            note="10 billion tokens as records of 512, one epoch, the smallest batch of the row",
        )
        for row in rows("article/noise_and_batch.csv")
    )


def _published() -> tuple[Preset, ...]:
    return tuple(
        Preset(
            name=row["name"],
            title=row["title"],
            group="Published",
            noise_multiplier=float(row["noise_multiplier"]),
            max_grad_norm=float(row["max_grad_norm"]),
            expected_batch_size=int(row["expected_batch_size"]),
            dataset_size=int(row["dataset_size"]),
            steps=int(row["steps"]),
            delta=float(row["delta"]),
            n_params=float(row["n_params"]),
            record_tokens=int(row["record_tokens"] or 1),
            claimed_epsilon=float(row["stated_epsilon"]),
            source=row["source"],
            note=row["note"],
        )
        for row in rows("published/configurations.csv")
    )
