"""Whether a run's folder holds together: ledger, summary, checkpoint and weights.

The ledger alone says what was spent. It holds the hash of every ``state.json`` that was saved, the
state the hashes of its tensors, the summary the hash of the ledger's last line. So nothing that
counts can be edited by itself. Whoever rewrites all of it can forge it: that is the reader's trust
in the owner, not something a hash can give.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import InputError
from workbench.privacy import Guarantee
from workbench.runs.files import located, sha256
from workbench.runs.folder import LEDGER, STATE, SUMMARY, WEIGHTS, checkpoints, read_summary
from workbench.runs.ledger import LedgerRecord
from workbench.runs.ledger import read as read_ledger
from workbench.runs.planted import read_planted

FORMAT = 2  # of ``state.json``; without a number it is 1, which nothing in the ledger vouches for
TENSORS = "optimizer.safetensors"


def verify(run_dir: str | Path) -> Guarantee:
    """Check a run's ledger against its summary and weights and return the ε recomputed from it.

    Raises `InputError` if a line was changed, moved or removed, also from the end of a run that
    finished or has saved its weights since; if these weights are another run's or anything saved
    with them was changed; if its canaries are not those that were planted; or if the summary states
    another ε. A run may be going on meanwhile.
    """
    path = located(run_dir)
    summary, saved = read_summary(path), _newest_saved(path / "checkpoints")
    record = read_ledger(path / LEDGER)
    read_planted(path, record.planted)
    with _unless_gone_on(path, summary):
        refuse_other_end(path, summary, record)
    if saved is not None:
        _refuse_foreign(*saved, record)
    guarantee = record.guarantee()
    with _unless_gone_on(path, summary):
        _refuse_other_guarantee(path, summary, guarantee)
    return guarantee


@contextmanager
def _unless_gone_on(path: Path, summary: dict[str, Any]) -> Iterator[None]:
    """Let what ``summary`` says against the ledger count only if it says so still."""
    try:
        yield
    except InputError:
        if read_summary(path) == summary:  # else a run has gone on between the two
            raise


def refuse_other_end(path: Path, summary: dict[str, Any], ledger: LedgerRecord) -> None:
    """Raise `InputError` unless ``ledger`` ends where the summary of an ended run says."""
    if summary.get("ledger_head") not in (None, ledger.head):
        raise InputError(
            f"{path / LEDGER} does not end where {SUMMARY} says: lines are missing or were added; "
            "do not rely on its ε."
        )


def _refuse_other_guarantee(path: Path, summary: dict[str, Any], guarantee: Guarantee) -> None:
    """Panels show what the summary states; it has none while a run goes, or accounting failed."""
    stated = summary.get("guarantee")
    if stated is None:
        return
    now = guarantee.as_dict()
    if not (isinstance(stated, dict) and stated.keys() == now.keys()) or not all(
        _as_stated(stated[name], now[name]) for name in now
    ):
        raise InputError(
            f"{path / SUMMARY} states another guarantee than its ledger comes to, which is "
            f"{guarantee}; rely on the ledger's alone."
        )


def _as_stated(stated: Any, now: Any) -> bool:
    """Whether the two agree; another version of an accountant may differ in the fifth digit."""
    if isinstance(stated, float | int) and isinstance(now, float):
        return math.isclose(stated, now, rel_tol=1e-4)
    return stated == now


@dataclass(frozen=True)
class SavedState:
    """A checkpoint's ``state.json``: its values and the hash of its bytes."""

    values: Mapping[str, Any]
    sha256: str


def refuse_foreign(checkpoint: Path, ledger: LedgerRecord) -> Mapping[str, Any]:
    """The state of ``checkpoint``; `InputError` unless ``ledger`` is the one it was saved beside.

    Also if its state or its tensors are not what was saved, or another version wrote it.
    """
    state = _saved_state(checkpoint)
    _refuse_foreign(checkpoint, state, ledger)
    return state.values


def _refuse_foreign(checkpoint: Path, state: SavedState, ledger: LedgerRecord) -> None:
    foreign = state.values["position"]["ledger_head"] not in ledger.heads
    vouched = ledger.terms.corpus_digest is not None  # since when the ledger holds these hashes
    if foreign or (vouched and state.sha256 not in ledger.saved):
        raise InputError(
            f"The checkpoint {checkpoint} does not belong to the ledger beside it: the ledger was "
            f"cut, {STATE} was changed, or the weights are another run's; put back what was there, "
            "or start a new run."
        )


def _newest_saved(folder: Path) -> tuple[Path, SavedState] | None:
    """The newest checkpoint and its state."""
    while found := checkpoints(folder)[-1:]:
        try:
            return found[0], _saved_state(found[0])
        except InputError:
            if found[0].exists():  # else a newer one has replaced it
                raise
    return None


def _saved_state(checkpoint: Path) -> SavedState:
    """What ``state.json`` says, after the tensors beside it were found to be those it names."""
    try:
        text = (checkpoint / STATE).read_bytes()
        values = json.loads(text)
        form, _ = values.get("format", 1), values["position"]["ledger_head"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(checkpoint, error) from None
    if form not in (1, FORMAT):
        raise InputError(
            f"The checkpoint {checkpoint} was written by another version of the workbench (format "
            f"{form!r}, this one reads {FORMAT}); use the version that summary.json names."
        )
    hashes = {WEIGHTS: "weights_sha256", TENSORS: "optimizer_sha256"}
    try:
        for name in hashes if form == FORMAT else [WEIGHTS]:
            if sha256(checkpoint / name) != values[hashes[name]]:
                raise InputError(
                    f"{checkpoint / name} is not what was saved there, so the ledger does not tell "
                    "what its weights have spent; put back what was there, or start a new run."
                )
    except (OSError, KeyError) as error:
        raise damaged(checkpoint, error) from None
    return SavedState(values, hashlib.sha256(text).hexdigest())


def damaged(checkpoint: Path, error: Exception) -> InputError:
    """What to say of a checkpoint of which a file is missing or unreadable."""
    reason = f"it has no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
    return InputError(
        f"The checkpoint {checkpoint} is damaged ({reason[:200]}); put back a copy, or move that "
        "folder elsewhere to go on from what was before it, with all that was spent still counted."
    )
