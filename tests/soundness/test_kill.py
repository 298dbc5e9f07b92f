"""A run killed at any moment leaves a folder that can be read, counted and gone on with."""

import random
from pathlib import Path

import pytest

from workbench.config import RunConfig

from .killing import killed_and_resumed, whole


@pytest.mark.slow
def test_killed_runs_are_readable_counted_and_resumed_exactly(
    config: RunConfig, tmp_path: Path
) -> None:
    """Four kills here; `benchmarks/crashes.py` does fifty."""
    config = config.with_changes({"training.steps": 30, "training.evaluate_every": 3})
    seconds = whole(config, tmp_path / "whole")
    chance = random.Random(0)
    for number in range(4):
        found = killed_and_resumed(
            config, tmp_path / str(number), tmp_path / "whole", after=chance.uniform(0, seconds)
        )
        assert found is None or (found.counted and found.exact)
