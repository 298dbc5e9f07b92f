"""Scores of rows of tokens on disk, so that every signal but the first is arithmetic.

One folder a model and dtype, named by the hash of its weights. It holds parts, each written whole
or not at all: ``part-….parquet`` has a row a record with its arrays of tokens, and
``part-….safetensors`` its pooled hidden states. A record is found by the hash of its tokens, which
follow from its text and the tokenizer, so that any set of records can use what others have left.

The cache says what a model makes of private records and is as confidential as they are.
"""

import hashlib
import json
import secrets
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from workbench.audit.per_token import RowScores
from workbench.errors import InputError, usable_path
from workbench.runs.files import replace_text

_FORMAT = 1
_ARRAYS = {"log_p": np.float32, "mean": np.float32, "deviation": np.float32, "first_guess": bool}


def row_digest(row: Sequence[int]) -> str:
    """The hash of a row of tokens."""
    return hashlib.sha256(np.asarray(row, dtype=np.int64).tobytes()).hexdigest()[:32]


class ScoreCache:
    """The scores that one model gave, in ``folder/MODEL-DTYPE``.

    Args:
        folder: of all caches; made if need be.
        model: the hash of the model's weights (`workbench.audit.forward.model_digest`).
        dtype: of log-probabilities.

    Raises `InputError` if the folder cannot be written or holds scores of another model.
    """

    def __init__(self, folder: str | Path, *, model: str, dtype: str = "float32") -> None:
        self.path = usable_path("The cache", folder) / f"{model[:24]}-{dtype}"
        key = {"format": _FORMAT, "model": model, "dtype": dtype}
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not (self.path / "key.json").exists():
                replace_text(self.path / "key.json", json.dumps(key, indent=2) + "\n")
            there = json.loads((self.path / "key.json").read_text(encoding="utf-8"))
        except ValueError:
            there = None
        except OSError as error:
            raise InputError(
                f"Cannot write the cache {self.path}: {error.strerror}; choose another folder."
            ) from None
        if there != key:
            raise InputError(
                f"The cache {self.path} holds scores of another model or format; remove that "
                "folder, or choose another for this audit."
            )

    def read(self, digests: Collection[str], *, hidden: bool) -> dict[str, RowScores]:
        """The records that are there, by the hash of their tokens; unreadable parts are passed by.

        With ``hidden``, only those whose hidden states are there too.
        """
        found: dict[str, RowScores] = {}
        for path in sorted(self.path.glob("part-*.parquet")):
            wanted = digests - found.keys() if isinstance(digests, set) else set(digests)
            if wanted:
                found |= _read_part(path, wanted, hidden=hidden)
        return found

    def add(self, rows: Mapping[str, RowScores]) -> None:
        """Keep these records in a part of their own.

        Raises `InputError` if the disk refuses; what was there before stays.
        """
        name = f"part-{secrets.token_hex(8)}"
        try:
            _write_part(self.path, name, rows)
        except OSError as error:
            for left in self.path.glob(f".{name}*"):
                left.unlink(missing_ok=True)
            raise InputError(
                f"Cannot write the cache {self.path}: {error.strerror or error}; make room there "
                "and start the same command again, which goes on from what is kept."
            ) from None


def _write_part(folder: Path, name: str, rows: Mapping[str, RowScores]) -> None:
    import pyarrow
    import pyarrow.parquet
    from safetensors.numpy import save_file

    pooled = [row.pooled for row in rows.values() if row.pooled is not None]
    if len(pooled) == len(rows):
        partial = folder / f".{name}.safetensors"
        save_file({"pooled": np.stack(pooled)}, partial)
        partial.replace(folder / f"{name}.safetensors")
    counts = [len(row.ids) for row in rows.values()]
    offsets = pyarrow.array(np.concatenate([[0], np.cumsum(counts)]), pyarrow.int32())

    def column(values: list[np.ndarray], dtype: Any) -> pyarrow.ListArray:
        flat = np.concatenate(values).astype(dtype)
        return pyarrow.ListArray.from_arrays(offsets, pyarrow.array(flat))

    columns: dict[str, Any] = {"digest": list(rows)}
    columns["ids"] = column([row.ids for row in rows.values()], np.int32)
    for array, dtype in _ARRAYS.items():
        columns[array] = column([getattr(row, array) for row in rows.values()], dtype)
    partial = folder / f".{name}.parquet"
    # Log-probabilities are random in their low bits: compressing them costs time and saves little.
    pyarrow.parquet.write_table(pyarrow.table(columns), partial, compression="none")
    partial.replace(folder / f"{name}.parquet")  # last: with it the part is whole


def _read_part(path: Path, wanted: set[str], *, hidden: bool) -> dict[str, RowScores]:
    import pyarrow
    import pyarrow.parquet

    with suppress(OSError, ValueError, KeyError, pyarrow.ArrowException):
        names = pyarrow.parquet.read_table(path, columns=["digest"])["digest"].to_pylist()
        if wanted.isdisjoint(names):
            return {}
        pooled = _read_pooled(path.with_suffix(".safetensors"), len(names)) if hidden else None
        if hidden and pooled is None:
            return {}
        table = pyarrow.parquet.read_table(path).combine_chunks()
        lists = {name: table[name].chunk(0) for name in ("ids", *_ARRAYS)}
        ends = lists["ids"].offsets.to_numpy()
        flat = {n: of.values.to_numpy(zero_copy_only=False) for n, of in lists.items()}
        return {
            digest: RowScores(
                **{n: values[ends[i] : ends[i + 1]] for n, values in flat.items()},
                pooled=None if pooled is None else pooled[i],
            )
            for i, digest in enumerate(names)
            if digest in wanted
        }
    return {}


def _read_pooled(path: Path, records: int) -> np.ndarray | None:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    with suppress(OSError, ValueError, KeyError, SafetensorError):
        pooled = load_file(path)["pooled"]
        return pooled if len(pooled) == records else None
    return None
