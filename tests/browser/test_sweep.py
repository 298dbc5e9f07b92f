"""A sweep in a real JupyterLab: two by two cells in fast mode, from the notebook to the picture."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.lab_server import LabPage, lab_page, running_lab

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PICTURE = "document.querySelector('.workbench .js-plotly-plot')"
MINUTES = 30 * 60.0  # when it hangs: two workers train four cells beside JupyterLab and Chromium


@pytest.fixture
def fast_lab(
    chromium: "Browser", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LabPage]:
    """A JupyterLab of its own in fast mode; the test fails on whatever goes wrong or leaves."""
    monkeypatch.setenv("WORKBENCH_FAST", "1")
    with running_lab(tmp_path) as server, lab_page(chromium, server) as page:
        yield page
    assert page.problems == []


@pytest.mark.slow
def test_a_sweep_runs_to_its_table_and_picture(fast_lab: LabPage) -> None:
    page = fast_lab.open("04_sweep.ipynb")
    fast_lab.run_all(seconds=MINUTES)
    page.wait_for_selector(".wb-message[data-state=done]")
    assert "4 done of 4 cells" in page.inner_text(".wb-message")
    assert page.locator(".wb-sweep-table tr[data-state=done]").count() == 4
    assert page.locator(".wb-sweep-table b", has_text="lowest").count() == 1

    page.locator(".workbench .js-plotly-plot").scroll_into_view_if_needed()
    fast_lab.wait_for(f"{PICTURE}?.data[0].line.color.length === 4")
    assert page.evaluate(f"{PICTURE}.data[0].type") == "parcoords"
    titles = page.locator(".parcoords .axis-title").all_text_contents()
    assert titles == ["noise σ", "learning rate", "ε of the run", "held-out perplexity"]

    total = page.inner_text(".wb-sweep-cost")
    printed = page.locator(".jp-OutputArea-output", has_text="All of them:").inner_text()
    for terms in ("δ = 1e-05", "PLD, poisson sampling, add or remove one record"):
        assert terms in total
        assert terms in printed
    page.locator(".wb-sweep-table").scroll_into_view_if_needed()
    fast_lab.screenshot("sweep")
