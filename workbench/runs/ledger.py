"""What a run has spent, on disk before it is spent.

One JSON object a line, each with the SHA-256 of its own content and of the line before, so that no
line can be changed, dropped or moved unnoticed. A step is written and synced *before* its noisy
gradient touches the weights: a crash in between counts a step too many, never one too few. The
realised batch size is not here: unlike everything below it is not public.

Four more kinds of line stand among the steps: the terms (first), the hash of ``canaries.json``
(second, where canaries were planted), where a run went on after an end or a crash, and the hash of
each checkpoint's ``state.json``, so that no number in it can be edited.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, Self

from workbench import privacy
from workbench.config import Accountant, NeighbouringRelation, Sampling
from workbench.errors import InputError
from workbench.privacy import Guarantee, PrivacyTerms
from workbench.privacy.schedule import History
from workbench.runs.lock import hold
from workbench.runs.planted import PlantedLine, line_of

_GENESIS = "0" * 64
_STEP = ("noise_multiplier", "sample_rate", "max_grad_norm")
_Step = tuple[float, float, float]


@dataclass(frozen=True)
class Terms:
    """What the whole run's ε is stated under; the ledger's first line.

    ``corpus_digest`` is a keyed hash (see `workbench.runs.identity`); ledgers written before there
    was one have none.
    """

    delta: float
    accountant: Accountant
    sampling: Sampling
    neighbouring_relation: NeighbouringRelation
    unit: str
    training_records: int
    expected_batch_size: int
    corpus_digest: str | None = None

    @property
    def privacy(self) -> PrivacyTerms:
        """Those of them that a guarantee states."""
        return PrivacyTerms(
            delta=self.delta,
            accountant=self.accountant,
            sampling=self.sampling,
            neighbouring_relation=self.neighbouring_relation,
            unit=self.unit,
        )

    def guarantee(self, history: History) -> Guarantee:
        """The certified guarantee of a ``history`` of (σ, q, steps); see `privacy.guarantee`."""
        return privacy.guarantee(history, self.privacy)


class Ledger:
    """Appends to ``path``, which one process at a time may hold; use as a context manager.

    >>> import tempfile
    >>> terms = Terms(1e-5, "rdp", "poisson", "add_or_remove_one", "record", 1000, 10)
    >>> path = Path(tempfile.mkdtemp()) / "ledger.jsonl"
    >>> with Ledger(path, terms) as ledger:
    ...     ledger.record_step(noise_multiplier=1.0, sample_rate=0.01, max_grad_norm=1.0)
    >>> read(path).history
    [(1.0, 0.01, 1)]
    """

    def __init__(self, path: Path, terms: Terms) -> None:
        self._open(path, "xb")
        try:
            self._append({"terms": vars(terms)})
        except BaseException:
            self.close()
            raise

    def _open(self, path: Path, mode: Literal["xb", "r+b"]) -> None:
        self._path, self._lock = path, hold(path.parent)
        try:
            # Unbuffered: what could not be written must not follow later, when the file is closed.
            self._file = path.open(mode, buffering=0)
        except BaseException:
            self._lock.release()
            raise
        self._head, self._steps, self._end = _GENESIS, 0, 0
        self._repeated: list[_Step] = []

    @classmethod
    def resumed(cls, path: Path, *, recorded: int, same_noise: bool, head: str) -> Self:
        """Go on with the ledger at ``path``, in which nothing is written before `go_on`.

        ``recorded`` is how many lines of steps the ledger had when those weights were saved. What
        it holds beyond was prepared for weights that were lost. Where their batches and noise are
        drawn again alike (``same_noise``) these steps are the same releases and are not counted
        twice; with new noise they are, because both may have been seen. ``head`` is that of the
        ledger which all of this was worked out from. Raises `InputError` if the ledger does not
        hold, has another head by now, or is in use.
        """
        ledger = cls.__new__(cls)
        try:
            ledger._open(path, "r+b")
        except OSError as error:
            raise InputError(
                f"Cannot write the ledger {path}: {error.strerror}; let this user write there."
            ) from None
        try:
            record = read(path)  # only now, when nobody else can add to it
            if record.head != head:
                raise InputError(
                    f"{path.parent} was still being written when it was read; resume it once more."
                )
            # A line that a crash cut short belongs to a step that never reached the weights.
            ledger._end = path.read_bytes().rfind(b"\n") + 1
            ledger._file.truncate(ledger._end)
            ledger._file.seek(0, os.SEEK_END)
        except BaseException:
            ledger.close()
            raise
        ledger._head, ledger._steps = record.head, record.steps
        ledger._repeated = list(record.every_step[recorded:]) if same_noise else []
        return ledger

    def go_on(self, *, step: int, same_noise: bool) -> None:
        """Write that the run goes on, with weights that have taken ``step`` steps."""
        self._append({"resumed_at": step, "same_noise": same_noise})

    def planting(self, line: Mapping[str, Any]) -> None:
        """Write which canaries are in, by the hash of their file; before the first step."""
        self._append(line)

    def saving(self, state_sha256: str, *, step: int) -> None:
        """Write the hash of the state that a checkpoint is about to be saved with."""
        self._append({"saved_at": step, "state_sha256": state_sha256})

    def record_step(
        self, *, noise_multiplier: float, sample_rate: float, max_grad_norm: float
    ) -> None:
        """Write one step and return only once it is on the disk.

        A step that the ledger holds already from before a crash is compared instead.
        """
        step = (noise_multiplier, sample_rate, max_grad_norm)
        if self._repeated:
            self._refuse_if_gone()
            recorded = self._repeated.pop(0)
            if recorded != step:
                raise InputError(
                    f"A step that was lost is to be taken again with {self._named(step)}, but the "
                    f"ledger has it with {self._named(recorded)}; put config.yaml and the packages "
                    "back as they were, or start a new run."
                )
            return
        self._append({"step": self._steps + 1, **dict(zip(_STEP, step, strict=True))})
        self._steps += 1

    @property
    def head(self) -> str:
        """The hash of the last line, which stands for all of them."""
        return self._head

    @property
    def recorded(self) -> int:
        """How many steps stand in it for the weights as they are now."""
        return self._steps - len(self._repeated)

    @property
    def is_ahead(self) -> bool:
        """Whether it holds steps that the weights as they are now have not taken."""
        return bool(self._repeated)

    @staticmethod
    def _named(step: _Step) -> str:
        return ", ".join(f"{name} {value:g}" for name, value in zip(_STEP, step, strict=True))

    def _append(self, content: Mapping[str, Any]) -> None:
        """Write a line whole and have it on the disk, or leave the file as it was and raise."""
        self._refuse_if_gone()
        line = _chained(content, self._head)
        text = f"{json.dumps(line)}\n".encode()
        try:
            rest = text
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except BaseException:
            with suppress(OSError):
                self._file.truncate(self._end)
                self._file.seek(self._end)
            raise
        self._end += len(text)
        self._head = line["hash"]

    def _refuse_if_gone(self) -> None:
        """A step that is written into a file without a name is recorded nowhere."""
        try:
            there, own = self._path.stat(), os.fstat(self._file.fileno())
            same = os.path.samestat(there, own) and there.st_size == self._end
        except FileNotFoundError:
            same = False
        if not same:
            raise InputError(
                f"{self._path} was removed, replaced or changed while this run was writing it, so "
                "the run stops before a step that nobody would count; put the file back as it was "
                "and resume, or start a new run."
            )

    def close(self) -> None:
        """Let other processes write."""
        self._file.close()
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class LedgerRecord:
    """A ledger whose chain holds: its terms, each step as (σ, q, C), and the hash of its last line.

    ``heads`` are the hashes of all its lines. ``resumed_at`` are the steps from which the run went
    on after an end or a crash; ``renewed_at`` says how many steps had been recorded each time that
    this was with new noise. ``saved`` are the hashes of the states that were saved, and ``planted``
    is the line of the canaries, if there are any.
    """

    terms: Terms
    every_step: tuple[_Step, ...]
    resumed_at: tuple[int, ...]
    renewed_at: tuple[int, ...]
    heads: tuple[str, ...]
    saved: tuple[str, ...] = ()
    planted: PlantedLine | None = None

    @property
    def head(self) -> str:
        """The hash of the last line, which stands for all of them."""
        return self.heads[-1]

    @property
    def history(self) -> History:
        """The steps as run lengths (σ, q, steps)."""
        return self.first(self.steps)

    def first(self, count: int) -> History:
        """The first ``count`` steps as run lengths."""
        pairs = groupby(self.every_step[:count], key=lambda step: step[:2])
        return [(sigma, rate, len(list(run))) for (sigma, rate), run in pairs]

    @property
    def steps(self) -> int:
        """How many steps were recorded."""
        return len(self.every_step)

    def guarantee(self) -> Guarantee:
        """The certified guarantee of the recorded steps, recomputed."""
        return self.terms.guarantee(self.history)


def read(path: Path) -> LedgerRecord:
    """Read a ledger and check its chain; raise `InputError` at the first line that does not fit.

    A last line without its newline is a step that a crash cut short before the weights moved; it is
    left out. Lines missing from the end can only be seen by whoever knows a later hash: see
    `workbench.runs.verify.verify`.
    """
    lines = list(_lines(path))
    if not lines or "terms" not in lines[0]:
        raise InputError(
            f"{path} has no first line with its terms, so it is not whole; put back a copy, "
            "or start a new run."
        )
    heads, steps, resumed, renewed, saved = [_GENESIS], [], [], [], []
    planted: PlantedLine | None = None
    for number, line in enumerate(lines, start=1):
        content = {key: value for key, value in line.items() if key not in ("hash", "previous")}
        if "step" in line:
            steps.append(line)
        elif "resumed_at" in line:
            resumed.append(line["resumed_at"])
            if not line.get("same_noise"):
                renewed.append(len(steps))
        elif "saved_at" in line:
            saved.append(str(line.get("state_sha256")))
        misplaced = (
            ("step" in line and line["step"] != len(steps))
            or (number > 1 and "terms" in line)
            or (number != 2 and "canaries" in line)
        )
        if line != _chained(content, heads[-1]) or misplaced:
            raise InputError(
                f"Line {number} of {path} does not fit the chain: the ledger was changed after it "
                "was written; do not rely on its ε."
            )
        if "canaries" in line:
            planted = line_of(line)
        heads.append(line["hash"])
    every_step = tuple((line[_STEP[0]], line[_STEP[1]], line[_STEP[2]]) for line in steps)
    try:
        terms = Terms(**lines[0]["terms"])
    except TypeError:
        raise InputError(
            f"{path} states its terms in words this version does not know; read it with the "
            "version in summary.json."
        ) from None
    return LedgerRecord(
        terms, every_step, tuple(resumed), tuple(renewed), tuple(heads[1:]), tuple(saved), planted
    )


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
            raise InputError(
                f"Line {number} of {path} is not a ledger line, so the file was changed; do "
                "not rely on its ε."
            )
        yield value


def _chained(content: Mapping[str, Any], previous: str) -> dict[str, Any]:
    """``content`` with the hash of the line before and its own."""
    line = {**content, "previous": previous}
    digest = hashlib.sha256(json.dumps(line, sort_keys=True).encode()).hexdigest()
    return {**line, "hash": digest}
