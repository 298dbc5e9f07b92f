"""Run the benchmarks and print every figure beside its peers.

    python -m benchmarks                  all of them
    python -m benchmarks startup surface  these

A benchmark is a module here with ``main() -> dict[str, float]``. A key names a figure and its unit;
``"figure | peer"`` is the same quantity of something else, measured in the same run, and the table
then shows peer ÷ figure. What was measured, where and with which versions goes to
``benchmarks/out/<module>.json``.
"""

import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from pkgutil import iter_modules
from typing import get_type_hints

FOLDER = Path(__file__).parent
OUT = FOLDER / "out"
PACKAGES = ("dp-accounting", "jupyterlab", "numpy", "opacus", "scipy", "torch", "transformers")


def benchmarks() -> Iterator[tuple[str, Callable[[], dict[str, float]]]]:
    """Every benchmark's name with its ``main``."""
    for module in sorted(info.name for info in iter_modules([str(FOLDER)])):
        if module == "__main__":
            continue
        main = getattr(import_module(f"benchmarks.{module}"), "main", None)
        if main is not None and get_type_hints(main).get("return") == dict[str, float]:
            yield module, main


def rows(figures: dict[str, float]) -> Iterator[tuple[str, str, str, str]]:
    """Figure, value, peer and ratio of a benchmark's result, as text."""
    for name, value in figures.items():
        if " | " in name:
            continue
        yield name, f"{value:.4g}", "", ""
        for key, peer_value in figures.items():
            figure, bar, peer = key.partition(" | ")
            if bar and figure == name:
                yield "", f"{peer_value:.4g}", peer, f"{peer_value / value:.3g}×"


def table(figures: dict[str, float]) -> str:
    """A benchmark's result as aligned columns."""
    lines = [("figure", "value", "peer", "peer ÷ figure"), *rows(figures)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def machine() -> dict[str, str | int]:
    """What the figures were measured on."""
    return {
        "system": platform.platform(),
        "processor": platform.machine(),
        "cores": os.cpu_count() or 0,
        "python": platform.python_version(),
    }


def main(wanted: list[str]) -> None:
    """Run the benchmarks named, or all, one after another."""
    available = dict(benchmarks())
    if unknown := set(wanted) - set(available):
        sys.exit(
            f"{', '.join(sorted(unknown))}: no such benchmark; there are {', '.join(available)}."
        )
    OUT.mkdir(exist_ok=True)
    for name in wanted or available:
        print(f"\n{name}", flush=True)
        figures = available[name]()
        print(table(figures), flush=True)
        record = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "versions": {package: version(package) for package in PACKAGES},
            "figures": figures,
        }
        text = json.dumps(record, indent=2, ensure_ascii=False)
        (OUT / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
