"""A ledger's terms and its lines, made and changed as someone with an editor might."""

import hashlib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from workbench.runs.ledger import Terms

_KNOWN: dict[str, Any] = {
    "delta": 1e-5,
    "accountant": "rdp",
    "sampling": "poisson",
    "neighbouring_relation": "add_or_remove_one",
    "unit": "record",
    "training_records": 1000,
    "expected_batch_size": 20,
}


def terms(**changes: Any) -> Terms:
    """Terms whose other fields, if there are any, say nothing in particular."""
    named = {field.name: _KNOWN.get(field.name, "0" * 64) for field in fields(Terms)}
    return Terms(**{**named, **changes})


def lines(path: Path) -> list[dict[str, Any]]:
    """What the lines of a ledger say, without their hashes."""
    found = [json.loads(text) for text in path.read_text("utf-8").splitlines()]
    return [{k: v for k, v in line.items() if k not in ("hash", "previous")} for line in found]


def rewrite(path: Path, contents: list[dict[str, Any]]) -> str:
    """Write a ledger whose hashes fit, and return the last: whoever can write it can do so."""
    previous, written = "0" * 64, []
    for content in contents:
        line = {**content, "previous": previous}
        previous = hashlib.sha256(json.dumps(line, sort_keys=True).encode()).hexdigest()
        written.append(json.dumps({**line, "hash": previous}) + "\n")
    path.write_text("".join(written), "utf-8")
    return previous
