"""What tests of panels that train have in common."""

from collections.abc import Iterator

import pytest

from tests.panels.waiting import PATIENCE
from workbench.config import RunConfig
from workbench.panels.run import job


@pytest.fixture
def no_run_left_behind() -> Iterator[None]:
    """Cancel whatever is still training after the test, and wait for its end."""
    yield
    latest = job.latest()
    if latest is not None:
        latest.cancel()
        assert latest.wait(PATIENCE).ended


@pytest.fixture
def endless(config: RunConfig) -> RunConfig:
    """More steps than any test waits for."""
    return config.with_changes({"training.steps": 100_000, "training.evaluate_every": 50_000})
