"""How long the audit panel takes from a key press to the redrawn counts and curve.

A real Chromium on a real JupyterLab, with 10,000 members and 10,000 others under each of two
models. The peer is the same press on a bare slider and heat map, as in `benchmarks.interface`.
"""

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat

from benchmarks.interface import BARE, WATCH, medians
from tests.browser.lab_server import lab_page, running_chromium, running_lab

if TYPE_CHECKING:
    from workbench.panels.audit.panel import Auditor

RECORDS = 20_000
CELLS = ["from benchmarks.threshold import auditor\n\nauditor()"]
# Notes after how many milliseconds the counts and the ring have changed.
WATCH_COUNTS = """() => {
  const note = name => { seen[name] ??= performance.now() - seen.pressed };
  const card = () => document.querySelector('.wb-audit-cards')?.textContent;
  window.seen = {};
  addEventListener('keydown', event => {
    window.seen = { pressed: event.timeStamp, before: card() };
  }, true);
  new MutationObserver(() => { if (card() !== seen.before) note('counts') })
    .observe(document.body, { childList: true, subtree: true });
  document.querySelector('.js-plotly-plot').on('plotly_afterplot', () => note('ring'));
}"""


def main() -> dict[str, float]:
    """Milliseconds, and the load average while they were taken."""
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])  # the kernel runs `auditor`
    with tempfile.TemporaryDirectory() as folder, running_lab(Path(folder)) as server:
        for name, cells in (("threshold", CELLS), ("bare", [BARE])):
            book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
            book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
            nbformat.write(book, server.notebooks / f"{name}.ipynb")
        with running_chromium() as browser:
            with lab_page(browser, server) as lab:
                page = lab.open_and_run("threshold.ipynb")
                page.locator(".js-plotly-plot").first.scroll_into_view_if_needed()
                page.wait_for_selector(".js-plotly-plot .main-svg")
                page.evaluate(WATCH_COUNTS)
                row = page.locator(".widget-hbox", has=page.locator("input[title^='Threshold:']"))
                own = medians(page, row.last.locator(".noUi-handle"), ["counts", "ring"])
            with lab_page(browser, server) as lab:
                page = lab.open_and_run("bare.ipynb")
                page.wait_for_selector(".js-plotly-plot .main-svg")
                page.evaluate(WATCH)
                peer = medians(page, page.locator(".noUi-handle"), ["surface"])["surface"]
    figures: dict[str, float] = {}
    for name, value in own.items():
        figures[f"threshold key to {name} redrawn, ms"] = value
        figures[f"threshold key to {name} redrawn, ms | bare slider and heat map"] = peer
    return {**figures, "load average": os.getloadavg()[0]}


def auditor() -> "Auditor":
    """Run in the notebook: the panel with two models and so many drawn scores each."""
    from tests.panels.audit.made import made_run
    from workbench.panels import Auditor

    panel = Auditor(folders=[])
    panel.findings.show(
        [made_run(private=private, leak=leak, records=RECORDS) for private, leak in _MODELS]
    )
    panel.findings.view.signal.value = "loss"
    return panel


_MODELS = ((False, 0.5), (True, 0.0))
