"""The training notebook in a real JupyterLab: a run started, paused, cancelled and resumed by hand.

That nothing leaves the machine and the console stays clean is what the fixture ``lab`` asserts.
"""

import base64
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.lab_server import LabPage, LabServer, lab_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator

KERNEL = "jupyterapp.shell.currentWidget.sessionContext.session.kernel"


@pytest.fixture(scope="module")
def opened(chromium: "Browser", lab_server: LabServer) -> Iterator[LabPage]:
    """Notebook 03 with the panel on display, all else above it run and nothing below."""
    with lab_page(chromium, lab_server) as page:
        page.open("03_train.ipynb")
        page.page.evaluate(_RUN_UP_TO, "Trainer(")
        page.page.locator(".wb-badge.certified").wait_for()
        yield page


@pytest.fixture
def trainer(opened: LabPage) -> Iterator[LabPage]:
    """The panel; the test fails on whatever goes wrong in the page or leaves the machine."""
    opened.page.locator(".wb-run-cards").scroll_into_view_if_needed()
    yield opened
    assert opened.problems == []


def button(lab: LabPage, label: str) -> "Locator":
    return lab.page.locator(".workbench .widget-button", has_text=label).first


def field(lab: LabPage, label: str) -> "Locator":
    return lab.page.get_by_label(label, exact=True)


def type_in(lab: LabPage, label: str, text: str) -> None:
    field(lab, label).fill(text)
    field(lab, label).press("Enter")


def wait_for_state(lab: LabPage, state: str) -> str:
    """The panel's message once it says ``state``."""
    message = lab.page.locator(f".wb-message[data-state={state}]")
    message.wait_for()
    return message.inner_text()


def comm_messages(lab: LabPage) -> list[bytes]:
    """What widgets send to the kernel from now on, as it comes."""
    sent: list[bytes] = []

    def note(frame: dict[str, Any]) -> None:
        message = base64.b64decode(frame["response"]["payloadData"])
        if b'"comm_msg"' in message:
            sent.append(message)

    session = lab.page.context.new_cdp_session(lab.page)
    session.send("Network.enable")
    session.on("Network.webSocketFrameSent", note)
    return sent


def test_bad_input_is_answered_and_its_field_marked(trainer: LabPage):
    type_in(trainer, "Noise σ", "lots")
    trainer.page.get_by_text("Noise σ is 'lots' but must be a number").wait_for()
    trainer.page.locator(".wb-refused input").wait_for()
    button(trainer, "Start").click()
    assert "Not started." in wait_for_state(trainer, "refused")
    type_in(trainer, "Noise σ", "0.8")
    trainer.page.locator(".wb-badge.certified").wait_for()
    assert trainer.page.locator(".wb-refused").count() == 0


def test_a_run_is_started_watched_paused_and_cancelled(trainer: LabPage):
    page = trainer.page
    type_in(trainer, "Batch B", "64")
    page.get_by_text("q = 64/").wait_for()
    trainer.wait_for("document.querySelectorAll('.js-plotly-plot').length === 6")
    told_to_the_kernel = comm_messages(trainer)
    button(trainer, "Start").click()
    wait_for_state(trainer, "running")
    trainer.wait_for(f"{KERNEL}.status === 'idle'")  # and so free for other cells
    trainer.wait_for(
        "document.querySelectorAll('.js-plotly-plot')[0].data.some(t => t.x.length > 4)"
    )
    button(trainer, "Pause").click()
    wait_for_state(trainer, "paused")
    button(trainer, "Go on").click()
    wait_for_state(trainer, "running")
    button(trainer, "Cancel").click()
    ending = wait_for_state(trainer, "cancelled")
    assert re.search(r"Cancelled after \d+ of 300 steps", ending)
    assert re.search(r"Spent: ε = [\d.]+ at δ = 1e-05 \(PLD, poisson sampling, add", ending)
    page.get_by_text("The model writes, after training").wait_for()
    assert len(told_to_the_kernel) == 4, "only buttons speak; a redraw has no answer"
    trainer.screenshot("trainer")
    page.locator(".js-plotly-plot").last.scroll_into_view_if_needed()  # drawn once it is in sight
    trainer.wait_for(
        "[...document.querySelectorAll('.js-plotly-plot')].at(-1).layout.yaxis.range[1] > 100"
    )


def test_the_cancelled_run_is_shown_and_resumed_from_the_table(trainer: LabPage):
    page = trainer.page
    page.get_by_text("Past runs: show beside this one, or resume").click()
    row = page.locator(".wb-run-table tbody tr").first
    assert "cancelled" in row.inner_text()
    row.locator("input").check()
    trainer.wait_for(
        "document.querySelectorAll('.js-plotly-plot')[0].data.find(t => t.name === 'A').x.length"
    )
    trainer.screenshot("trainer_past")
    row.get_by_role("button", name="Resume").click()
    wait_for_state(trainer, "running")
    trainer.wait_for("Number(document.querySelector('.wb-run-cards .value').textContent) > 1")
    button(trainer, "Cancel").click()
    wait_for_state(trainer, "cancelled")
    page.get_by_text("Past runs: show beside this one, or resume").click()


def test_a_cell_that_awaits_the_run_leaves_the_buttons_alive(trainer: LabPage):
    button(trainer, "Start").click()
    wait_for_state(trainer, "running")
    trainer.page.evaluate(_RUN_UP_TO, "await run.until_end()")
    trainer.wait_for(f"{KERNEL}.status === 'busy'")
    button(trainer, "Cancel").click()
    wait_for_state(trainer, "cancelled")
    trainer.wait_for(f"{KERNEL}.status === 'idle'")


def test_nothing_scrolls_sideways_or_is_cut_off(trainer: LabPage):
    wider = trainer.page.evaluate(
        "() => [...document.querySelectorAll('.jp-WindowedPanel-outer, .jp-OutputArea,"
        " .workbench, .wb-card, .wb-card *, .wb-message, .widget-button, .widget-label')]"
        ".filter(e => e.clientWidth && e.scrollWidth > e.clientWidth + 1)"
        ".map(e => e.textContent.slice(0, 40))"
    )
    assert wider == []


def test_the_dark_theme_has_its_own_colours(trainer: LabPage):
    trainer.use_theme(dark=True)
    trainer.screenshot("trainer_dark")
    ink = trainer.page.evaluate(
        "() => getComputedStyle(document.querySelector('.wb-run-cards .value')).color"
    )
    trainer.use_theme(dark=False)
    assert min(int(channel) for channel in re.findall(r"\d+", ink)[:3]) > 200


# Runs the cells above the first one that contains a text, and that one.
_RUN_UP_TO = """async text => {
  const notebook = jupyterapp.shell.currentWidget.content;
  const run = command => jupyterapp.commands.execute(`notebook:${command}`);
  const place = notebook.widgets.findIndex(
    cell => cell.model.type === 'code' && cell.model.sharedModel.source.includes(text));
  const done = notebook.widgets.some(cell => cell.model.executionCount);
  notebook.activeCellIndex = place;
  if (!done) await run('run-all-above');
  notebook.activeCellIndex = place;
  run('run-cell');
}"""
