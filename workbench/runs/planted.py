"""The canaries of a run as its folder keeps them: what they say, and which of them are in.

``canaries.json`` is written with the ledger's first lines, before any step, and the ledger holds
its hash. So nobody can choose other coins once scores are known. It is as confidential as the
records until the audit is done. Its salt keeps a published ledger from confirming guesses of it.
"""

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np

from workbench.config import CanaryKind
from workbench.errors import InputError

CANARIES = "canaries.json"
_FORMAT = 1


@dataclass(frozen=True, eq=False)
class Planted:
    """Canaries in a fixed order, each included by a fair coin of its own.

    Attributes:
        kind: what they are.
        repeats: how many records each is in the training set, if it is in.
        rows: (canaries,) the tokens of each, without padding.
        learnt_from: (canaries,) the first token of each that has a loss.
        scored_from: (canaries,) the first token of each that the audit scores.
        before: (canaries,) log-likelihood of the scored tokens before training, nats.
        included: (canaries,) the coins.
    """

    kind: CanaryKind
    repeats: int
    rows: tuple[tuple[int, ...], ...]
    learnt_from: np.ndarray
    scored_from: np.ndarray
    before: np.ndarray
    included: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def unit(self) -> str:
        """What one coin decides about."""
        return "record" if self.repeats == 1 else f"group of {self.repeats} copies"

    def to_json(self) -> str:
        """Text for ``canaries.json``, with a salt of its own."""
        values = {
            "format": _FORMAT,
            "kind": self.kind,
            "repeats": self.repeats,
            "rows": self.rows,
            "learnt_from": self.learnt_from.tolist(),
            "scored_from": self.scored_from.tolist(),
            "before": self.before.tolist(),
            "included": self.included.astype(int).tolist(),
            "salt": secrets.token_hex(32),
        }
        return json.dumps(values) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote; raises `ValueError` or `KeyError` for anything else."""
        values = json.loads(text)
        if values["format"] != _FORMAT or values["kind"] not in get_args(CanaryKind):
            raise ValueError("written by another version")
        columns = {
            name: np.array(values[name], dtype)
            for name, dtype in (
                ("learnt_from", np.int64),
                ("scored_from", np.int64),
                ("before", float),
                ("included", bool),
            )
        }
        rows = tuple(tuple(row) for row in values["rows"])
        if {len(column) for column in columns.values()} != {len(rows)}:
            raise ValueError("its columns differ in length")
        return cls(values["kind"], values["repeats"], rows, **columns)


@dataclass(frozen=True)
class PlantedLine:
    """What the ledger says of a run's canaries: how many, of what kind, and their file's hash."""

    count: int
    kind: str
    repeats: int
    sha256: str


def planted_line(planted: Planted, text: str) -> dict[str, Any]:
    """The ledger's line for ``text``, the file that holds ``planted``."""
    return {
        "canaries": len(planted),
        "kind": planted.kind,
        "repeats": planted.repeats,
        "canaries_sha256": hashlib.sha256(text.encode()).hexdigest(),
    }


def line_of(line: Mapping[str, Any]) -> PlantedLine:
    """The ledger's line, read."""
    names = ("canaries", "kind", "repeats", "canaries_sha256")
    return PlantedLine(*(line[name] for name in names))


def read_planted(run_dir: Path, line: PlantedLine | None) -> Planted | None:
    """The canaries of a run, or None if its ledger has no line of any.

    Raises `InputError` unless the file beside the ledger is the one that was written before the
    first step.
    """
    if line is None:
        return None
    path = run_dir / CANARIES
    try:
        content = path.read_bytes()
    except OSError:
        raise InputError(
            f"{path} cannot be read, in which the ledger's {line.count} canaries stand; put back "
            "a copy."
        ) from None
    if hashlib.sha256(content).hexdigest() != line.sha256:
        raise InputError(
            f"{path} is not what was written before the first step, so that no audit can rely on "
            "its coins; put back what was there."
        )
    try:
        return Planted.from_json(content.decode())
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} cannot be read by this version ({' '.join(str(error).split())}); use the "
            "version that summary.json names."
        ) from None
