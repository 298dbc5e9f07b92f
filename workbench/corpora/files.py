"""Which files a corpus is, and their content as text: one file, a folder or a pattern of names."""

import codecs
import glob
import gzip
import zlib
from collections.abc import Iterable
from pathlib import Path

from workbench.config import CorpusConfig
from workbench.corpora.builtin import CORPORA
from workbench.errors import InputError, shown, usable_path

ENDINGS = (".txt", ".md", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
BOM = "\ufeff"


def files_of(config: CorpusConfig) -> list[Path]:
    """The files of ``config.source``, sorted by name, so that their order is always the same.

    Raises `InputError` if there is none, or one of an unknown kind.
    """
    path = usable_path("corpus.source", config.source)
    if config.source.strip() and path.is_dir():
        found = _within(path)
        if not found:
            raise InputError(
                f"corpus.source {config.source!r} is a folder without a file to read; give one "
                f"with files ending in {_listed(ENDINGS)}."
            )
        _refuse_mixture(config.source, found)
    elif not path.exists() and glob.has_magic(config.source):
        names = glob.glob(str(path), recursive=True)  # noqa: PTH207 - the pattern may be absolute
        found = [file for file in map(Path, sorted(names)) if file.is_file()]
        if not found:
            raise InputError(
                f"corpus.source {config.source!r} is a pattern that no file has; check the path."
            )
    else:
        found = [path]
    for file in found:
        if kind(file) not in ENDINGS:
            raise InputError(
                f"corpus.source {shown(config.source)} is neither a built-in corpus "
                f"({_listed(CORPORA)}) nor a file ending in {_listed(ENDINGS)}, also with .gz "
                f"behind, but {shown(file.name)}; choose one."
            )
        if not file.is_file():
            reason = "it is no file" if file.exists() else "No such file"
            raise InputError(f"Cannot read corpus.source {file}: {reason}; check the path.")
    return found


def kind(path: Path) -> str:
    """A file's ending, without that of its compression: ``.csv`` for ``a.csv.gz``."""
    return (Path(path.stem) if is_compressed(path) else path).suffix.lower()


def content(path: Path) -> bytes:
    """What is in a file, uncompressed; raises `InputError` if it cannot be read."""
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if is_compressed(path) else raw
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise InputError(
            f"corpus.source {path} ends in .gz but is no whole gzip file; copy it again or take "
            "the ending off."
        ) from None
    except OSError as error:
        raise InputError(
            f"Cannot read corpus.source {path}: {error.strerror or error}; check the path."
        ) from None


def text_of(path: Path, encoding: str) -> str:
    """A file's text without the mark that some programs put before it (BOM).

    Raises `InputError` for bytes that are no text in ``encoding``.
    """
    raw = content(path)
    try:
        return str(raw, encoding).removeprefix(BOM)
    except UnicodeError:
        raise InputError(
            f"corpus.source {path} is not {_named(encoding)} text; {_remedy(raw, encoding)}."
        ) from None


def _remedy(raw: bytes, encoding: str) -> str:
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and encoding != "utf-16":
        return "it begins like UTF-16, so set corpus.encoding to 'utf-16'"
    return "set corpus.encoding to what it was written in, such as 'cp1252', or convert it to UTF-8"


def _named(encoding: str) -> str:
    return "UTF-8" if codecs.lookup(encoding).name == "utf-8" else encoding


def is_compressed(path: Path) -> bool:
    """Whether the name says gzip."""
    return path.suffix.lower() == ".gz"


def _within(folder: Path) -> list[Path]:
    """The files of a folder without the marks of programs: ``.DS_Store``, ``_SUCCESS``."""
    try:
        files = [file for file in sorted(folder.iterdir()) if file.is_file()]
    except OSError as error:
        raise InputError(
            f"Cannot read corpus.source {folder}: {error.strerror}; check the path."
        ) from None
    return [file for file in files if not file.name.startswith((".", "_"))]


def _refuse_mixture(source: str, files: Iterable[Path]) -> None:
    kinds = {kind(file): file for file in files}
    if len(kinds) > 1:
        one, other = sorted(file.name for file in kinds.values())[:2]
        raise InputError(
            f"corpus.source {shown(source)} is a folder with files of several kinds, such as "
            f"{one!r} and {other!r}; give a pattern, such as 'folder/*.jsonl'."
        )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
