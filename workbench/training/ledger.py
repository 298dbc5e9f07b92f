"""What a run has spent, on disk before it is spent.

One JSON object a line, each with the SHA-256 of its own content and of the line before, so that no
line can be changed, dropped or moved unnoticed. A step is written and synced *before* its noisy
gradient touches the weights: a crash in between counts a step too many, never one too few. The
realised batch size is not here: unlike everything below it is not public.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from workbench import privacy
from workbench.config import Accountant, NeighbouringRelation, Sampling
from workbench.errors import InputError
from workbench.privacy import Guarantee

_GENESIS = "0" * 64
History = list[tuple[float, float, int]]


@dataclass(frozen=True)
class Terms:
    """What the whole run's ε is stated under; the ledger's first line."""

    delta: float
    accountant: Accountant
    sampling: Sampling
    neighbouring_relation: NeighbouringRelation
    unit: str
    training_records: int
    expected_batch_size: int

    def guarantee(self, history: History) -> Guarantee:
        """The certified guarantee of a ``history`` of (σ, q, steps) under these terms."""
        return Guarantee(
            epsilon=privacy.compose(history, self.delta, accountant=self.accountant),
            delta=self.delta,
            accountant=self.accountant,
            sampling=self.sampling,
            neighbouring_relation=self.neighbouring_relation,
            unit=self.unit,
        )


class Ledger:
    """Appends to ``path``; use as a context manager.

    >>> import tempfile
    >>> terms = Terms(1e-5, "rdp", "poisson", "add_or_remove_one", "record", 1000, 10)
    >>> path = Path(tempfile.mkdtemp()) / "ledger.jsonl"
    >>> with Ledger(path, terms) as ledger:
    ...     ledger.record_step(noise_multiplier=1.0, sample_rate=0.01, max_grad_norm=1.0)
    >>> read(path).history
    [(1.0, 0.01, 1)]
    """

    def __init__(self, path: Path, terms: Terms) -> None:
        self._file = path.open("x", encoding="utf-8")
        self._head = _GENESIS
        self._steps = 0
        self._append({"terms": vars(terms)})

    def record_step(
        self, *, noise_multiplier: float, sample_rate: float, max_grad_norm: float
    ) -> None:
        """Write one step and return only once it is on the disk."""
        self._steps += 1
        self._append(
            {
                "step": self._steps,
                "noise_multiplier": noise_multiplier,
                "sample_rate": sample_rate,
                "max_grad_norm": max_grad_norm,
            }
        )

    @property
    def head(self) -> str:
        """The hash of the last line, which stands for all of them."""
        return self._head

    def _append(self, content: Mapping[str, Any]) -> None:
        line = _chained(content, self._head)
        self._head = line["hash"]
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._file.close()


@dataclass(frozen=True)
class LedgerRecord:
    """A ledger whose chain holds: terms, and steps as run lengths (σ, q, steps)."""

    terms: Terms
    history: History
    head: str

    @property
    def steps(self) -> int:
        """How many steps were recorded."""
        return sum(steps for _, _, steps in self.history)

    def guarantee(self) -> Guarantee:
        """The certified guarantee of the recorded steps, recomputed."""
        return self.terms.guarantee(self.history)


def read(path: Path) -> LedgerRecord:
    """Read a ledger and check its chain; raise `InputError` at the first line that does not fit.

    A last line without its newline is a step that a crash cut short before the weights moved; it is
    left out. Lines missing from the end can only be seen by whoever knows the head: see `verify`.
    """
    lines = list(_lines(path))
    if not lines or "terms" not in lines[0]:
        raise InputError(f"{path} has no first line with its terms; it is not a whole ledger.")
    head = _GENESIS
    for number, line in enumerate(lines, start=1):
        content = {key: value for key, value in line.items() if key not in ("hash", "previous")}
        if line != _chained(content, head) or line.get("step", 0) != number - 1:
            raise InputError(
                f"Line {number} of {path} does not fit the chain: the ledger was changed after it "
                "was written; do not rely on its ε."
            )
        head = line["hash"]
    pairs = [(line["noise_multiplier"], line["sample_rate"]) for line in lines[1:]]
    history = [(*pair, len(list(run))) for pair, run in groupby(pairs)]
    return LedgerRecord(Terms(**lines[0]["terms"]), history, head)


def verify(run_dir: str | Path) -> Guarantee:
    """Check a run's ledger against its summary and return the ε recomputed from it.

    Raises `InputError` if a line was changed, moved or removed, also from the end of a run that
    finished.
    """
    path = Path(run_dir)
    record = read(path / "ledger.jsonl")
    try:
        summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(f"{path} has no readable summary.json; it is not a run folder.") from None
    expected = summary.get("ledger_head")
    if expected is not None and expected != record.head:
        raise InputError(
            f"{path / 'ledger.jsonl'} does not end where summary.json says: lines are missing or "
            "were added; do not rely on its ε."
        )
    return record.guarantee()


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise InputError(f"Cannot read the ledger {path}; check the run folder.") from None
    whole, _, _ = text.rpartition("\n")
    for number, line in enumerate(whole.split("\n") if whole else [], start=1):
        try:
            value = json.loads(line)
        except json.JSONDecodeError:
            value = None
        if not isinstance(value, dict):
            raise InputError(f"Line {number} of {path} is not a ledger line; it was changed.")
        yield value


def _chained(content: Mapping[str, Any], previous: str) -> dict[str, Any]:
    """``content`` with the hash of the line before and its own."""
    line = {**content, "previous": previous}
    digest = hashlib.sha256(json.dumps(line, sort_keys=True).encode()).hexdigest()
    return {**line, "hash": digest}
