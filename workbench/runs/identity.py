"""Whether a run that goes on trains on the records that it was begun with.

The ledger's terms hold a digest of the corpus: its settings, seed, split, records and tokenizer. A
plain hash would let whoever reads the ledger test guesses of the records, one hash a guess. So it
is an HMAC-SHA256 (RFC 2104) under a key of 256 random bits that stays in the run folder, in
``corpus.key``. The ledger may be published; the key is as confidential as the records.
"""

import hashlib
import hmac
import secrets
from pathlib import Path

from workbench.errors import InputError
from workbench.runs.files import replace_text

KEY = "corpus.key"


def new_key(folder: Path) -> bytes:
    """Write a key of ``folder``'s own and return it."""
    key = secrets.token_bytes(32)
    replace_text(folder / KEY, f"{key.hex()}\n")
    return key


def read_key(folder: Path) -> bytes:
    """The key that `new_key` wrote; `InputError` if it is not there."""
    try:
        key = bytes.fromhex((folder / KEY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        key = b""
    if len(key) != 32:
        raise InputError(
            f"{folder / KEY} cannot be read, without which nobody can tell that the corpus is the "
            "one that the run was begun with; put back a copy, or start a new run."
        )
    return key


def keyed_digest(key: bytes, corpus: str) -> str:
    """What the ledger says of ``corpus``, a hash of all of it."""
    return hmac.new(key, corpus.encode(), hashlib.sha256).hexdigest()
