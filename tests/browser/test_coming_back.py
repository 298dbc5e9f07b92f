"""A notebook with a run going is closed and opened again: its pictures and buttons still work.

Whatever is opened says something to the kernel, which may lose it: the thread that listened to the
page before has gone with that page. Here one comes back ten times, on three ways.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import nbformat
import pytest

from tests.browser.lab_server import TOKEN, LabPage, LabServer, lab_page, running_lab

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NOTEBOOK = "back.ipynb"
RETURNS = 10
PICTURES = "[...document.querySelectorAll('.js-plotly-plot')]"
CELL = """
from pathlib import Path
from workbench.config import RunConfig
from workbench import panels

Path("lines.txt").write_text("\\n".join(f"line {i} counts {i * i} words" for i in range(100)))
corpus = {"source": "lines.txt", "record": "line", "min_words": 1, "record_tokens": 12}
config = RunConfig.parse({
    "corpus": {**corpus, "public_fraction": 0.2, "heldout_fraction": 0.2},
    "model": {"width": 8, "layers": 1, "heads": 2, "vocabulary": 270},
    "training": {"expected_batch_size": 30, "steps": 100_000, "evaluate_every": 50_000},
    "runtime": {"device": "cpu", "threads": 1},
})
trainer = panels.Trainer(config)
trainer
"""


@pytest.fixture(scope="module")
def lab_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabServer]:
    """JupyterLab in fast mode, with a notebook of one cell whose run outlasts every test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_FAST", "1")
        with running_lab(tmp_path_factory.mktemp("back")) as server:
            notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
            notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python"}
            nbformat.write(notebook, server.notebooks / NOTEBOOK)
            yield server


@pytest.fixture
def running(chromium: "Browser", lab_server: LabServer) -> Iterator[LabPage]:
    """The notebook, saved while its run is going."""
    with lab_page(chromium, lab_server) as lab:
        lab.open_and_run(NOTEBOOK)
        lab.page.locator(".wb-badge.certified").wait_for()
        press(lab, "Start")
        wait_for_state(lab, "running")
        lab.page.evaluate("() => jupyterapp.commands.execute('docmanager:save')")
        yield lab


def press(lab: LabPage, label: str) -> None:
    lab.page.locator(".workbench .widget-button", has_text=label).first.click()


def wait_for_state(lab: LabPage, state: str) -> None:
    lab.page.locator(f".wb-message[data-state={state}]").wait_for()


def come_back(lab: LabPage, way: int) -> LabPage:
    """Leave the notebook and open it again: in a new tab, by reloading, or inside JupyterLab."""
    url = f"{lab.server.url}/lab/tree/{NOTEBOOK}?token={TOKEN}"
    if way == 0:
        context = lab.page.context
        lab.page.close()
        lab = LabPage(context.new_page(), lab.server)
        lab.page.goto(url)
    elif way == 1:
        lab.page.goto("about:blank")
        lab.page.goto(url)
    else:
        lab.page.evaluate("() => jupyterapp.shell.currentWidget.close()")
        lab.page.wait_for_selector(".jp-Notebook", state="detached")
        lab.page.evaluate(
            "path => { jupyterapp.commands.execute('docmanager:open', { path }) }", NOTEBOOK
        )
    wait_for_state(lab, "running")
    return lab


def wait_until_in_step(lab: LabPage) -> None:
    """Pause; then every picture has data, and the newest step on each is the one on the card."""
    press(lab, "Pause")
    wait_for_state(lab, "paused")
    lab.page.locator(".js-plotly-plot").first.scroll_into_view_if_needed()
    lab.wait_for(
        f"{PICTURES}.length === 6 && {PICTURES}.every(p => p.data?.some(t => t.x?.length))"
    )
    for place in range(6):  # what is out of sight is drawn later
        lab.page.locator(".js-plotly-plot").nth(place).scroll_into_view_if_needed()
        lab.wait_for(
            f"{PICTURES}[{place}].data.some(t => t.x?.at(-1) === {_STEP} || {place} === 2)"
        )
    press(lab, "Go on")
    wait_for_state(lab, "running")


_STEP = "Number(document.querySelector('.wb-run-cards .value').textContent.replace(',', ''))"


@pytest.mark.slow
def test_ten_returns_find_every_picture_in_step_and_every_button_alive(running: LabPage) -> None:
    lab = running
    for number in range(RETURNS):
        lab = come_back(lab, number % 3)
        wait_until_in_step(lab)
        assert lab.problems == []
    assert "Unknown subshell_id" not in lab.server.log.read_text("utf-8")


@pytest.mark.slow
def test_after_a_restart_pictures_say_what_to_do(running: LabPage) -> None:
    kernel = "jupyterapp.shell.currentWidget.sessionContext.session.kernel"
    running.page.evaluate(f"() => {{ {kernel}.restart() }}")
    running.page.get_by_text("run the cell again").first.wait_for()
    running.run_all()
    running.page.locator(".wb-badge.certified").wait_for()
    running.wait_for(f"{PICTURES}.length === 6")
    assert running.page.get_by_text("run the cell again").count() == 0
