"""Fifty runs killed with ``kill -9`` at random moments: what is left, and whether it goes on.

A kill before there is a folder leaves nothing to lose and is tried again. The peer of each figure
is the number of kills that left a folder: all of them should do.
"""

import random
import tempfile
from pathlib import Path

from tests.soundness.killing import Found, killed_and_resumed, whole
from workbench.config import RunConfig

KILLS = 50


def config(folder: Path) -> RunConfig:
    """Sixty steps of a model of two thousand parameters, saved after every third."""
    source = folder / "lines.txt"
    source.write_text("\n".join(f"line {i} counts {i * i} words" for i in range(200)), "utf-8")
    return RunConfig.parse(
        {
            "corpus": {
                "source": str(source),
                "record": "line",
                "min_words": 1,
                "record_tokens": 12,
            },
            "model": {"width": 8, "layers": 1, "heads": 2, "vocabulary": 270},
            "training": {"expected_batch_size": 30, "steps": 60, "evaluate_every": 3},
            "runtime": {"device": "cpu", "threads": 1},
        }
    )


def main() -> dict[str, float]:
    """Counts of runs."""
    chance, found = random.Random(0), list[Found]()
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent)
        run = config(folder)
        seconds = whole(run, folder / "whole")
        kills = 0
        while len(found) < KILLS:
            one = killed_and_resumed(
                run, folder / str(kills), folder / "whole", after=chance.uniform(0, seconds)
            )
            kills += 1
            if one is not None:
                found.append(one)
    killed = "killed runs that had begun"
    ahead = sum(one.recorded_steps > one.saved_steps for one in found)
    return {
        "kills": kills,
        "folders read back": len(found),
        f"folders read back | {killed}": len(found),
        "ledger has the steps of the weights on disk": sum(one.counted for one in found),
        f"ledger has the steps of the weights on disk | {killed}": len(found),
        "resumed to the same weights, bit for bit": sum(one.exact for one in found),
        f"resumed to the same weights, bit for bit | {killed}": len(found),
        "ledger ahead of the weights on disk": ahead,
        "median steps ahead": sorted(one.recorded_steps - one.saved_steps for one in found)[
            len(found) // 2
        ],
    }
