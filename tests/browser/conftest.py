"""A JupyterLab server and a Chromium for the tests of this folder; see `lab_server`."""

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from tests.browser.lab_server import (
    LabPage,
    LabServer,
    find_chromium,
    lab_page,
    running_chromium,
    running_lab,
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark what drives a browser, so that ``-m 'not browser'`` leaves it out."""
    if {"lab", "open_and_run", "chromium"} & set(getattr(item, "fixturenames", ())):
        item.add_marker("browser")


# Both live as long as this folder's tests: Playwright keeps an event loop in the thread of the
# tests, which tests elsewhere should not find there.
@pytest.fixture(scope="package")
def chromium() -> "Iterator[Browser]":
    """A running Chromium; without one, tests are skipped, and fail where ``CI`` is set."""
    if find_chromium() is None:
        reason = "no Chromium or Chrome was found on the path"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    with running_chromium() as browser:
        yield browser


@pytest.fixture(scope="package")
def lab_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabServer]:
    """JupyterLab on a copy of the notebooks."""
    with running_lab(tmp_path_factory.mktemp("lab")) as server:
        yield server


@pytest.fixture
def lab(chromium: "Browser", lab_server: LabServer) -> Iterator[LabPage]:
    """A page 1280 pixels wide; the test fails on whatever goes wrong or leaves the machine."""
    with lab_page(chromium, lab_server) as page:
        yield page
    assert page.problems == []


@pytest.fixture
def open_and_run(lab: LabPage) -> "Callable[[str], Page]":
    """``open_and_run(notebook)`` opens it, runs every cell and returns the Playwright page."""
    return lab.open_and_run
