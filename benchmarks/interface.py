"""How long the explorer takes from a key press to what a person sees change.

A real Chromium on a real JupyterLab; each figure is the median of `KEYS` presses of an arrow key,
from the key event to the change in the page, with a pause after each. The peer, measured in the
same run, is the least that widgets can do: a slider that hands a heat map of 50 × 50 cells another
of some arrays made before. Timings depend on what else the machine does, so its load is a figure.
"""

import os
import statistics
import tempfile
from pathlib import Path

import nbformat
from playwright.sync_api import Locator, Page

from tests.browser.lab_server import LabPage, lab_page, running_chromium, running_lab
from tests.browser.panel_page import CERTIFIED, handle, show_panel

KEYS = 20
REST = 700  # milliseconds for what goes on after the last figure, such as the ROC ceiling

BARE = """\
import itertools, ipywidgets, numpy, plotly.graph_objects
surfaces = itertools.cycle(numpy.random.default_rng(0).random((8, 50, 50)))
figure = plotly.graph_objects.FigureWidget(plotly.graph_objects.Heatmap(z=next(surfaces)))
slider = ipywidgets.FloatLogSlider(min=-1, max=2, step=0.01, readout=False)
slider.observe(lambda _: figure.data[0].update(z=next(surfaces)), names="value")
ipywidgets.VBox([slider, figure])
"""

# Notes, for the last key pressed, after how many milliseconds each kind of change came.
WATCH = """() => {
  const plot = document.querySelector('.js-plotly-plot');
  const card = () => document.querySelector('.wb-epsilon')?.dataset.state;
  const note = name => { seen[name] ??= performance.now() - seen.pressed };
  window.seen = {};
  addEventListener('keydown', event => {
    window.seen = { pressed: event.timeStamp, surface0: plot.data[0].z };
  }, true);
  new MutationObserver(() => {
    if (card() === 'preview') note('preview');
    if (card() === 'certified' && seen.preview !== undefined) note('certified');
  }).observe(document.body, { childList: true, subtree: true });
  plot.on('plotly_afterplot', () => {
    note('ring');
    if (plot.data[0].z !== seen.surface0) note('surface');
  });
}"""


def main() -> dict[str, float]:
    """Milliseconds, and the load average while they were taken."""
    with tempfile.TemporaryDirectory() as folder, running_lab(Path(folder)) as server:
        bare = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(BARE)])
        bare.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
        with running_chromium() as browser:
            with lab_page(browser, server) as page:
                explorer = measured_explorer(page)
            nbformat.write(bare, server.notebooks / "bare.ipynb")
            with lab_page(browser, server) as page:
                opened = page.open_and_run("bare.ipynb")
                opened.wait_for_selector(".js-plotly-plot .main-svg")
                opened.evaluate(WATCH)
                peer = medians(opened, opened.locator(".noUi-handle"), ["surface"])["surface"]
    figures = {}
    for name, value in explorer.items():
        figures |= {name: value, f"{name} | bare slider and heat map": peer}
    return {**figures, "load average": os.getloadavg()[0]}


def measured_explorer(page: LabPage) -> dict[str, float]:
    """The explorer's medians: σ moves the point, steps T also the whole surface."""
    opened = page.open_and_run("01_explore_the_tradeoff.ipynb")
    show_panel(opened)
    opened.wait_for_selector(CERTIFIED)
    opened.evaluate(WATCH)
    sigma = medians(opened, handle(opened, "Noise σ"), ["preview", "ring", "certified"])
    steps = medians(opened, handle(opened, "Steps T"), ["preview", "surface", "certified"])
    return {
        "σ key to previewed ε, ms": sigma["preview"],
        "σ key to ring redrawn, ms": sigma["ring"],
        "σ key to certified ε, ms": sigma["certified"],
        "T key to previewed ε, ms": steps["preview"],
        "T key to surface redrawn, ms": steps["surface"],
    }


def medians(page: Page, slider: Locator, changes: list[str]) -> dict[str, float]:
    """Median milliseconds to each kind of change over `KEYS` presses."""
    page.wait_for_timeout(REST)
    taken: dict[str, list[float]] = {change: [] for change in changes}
    for _ in range(KEYS):
        slider.press("ArrowRight")
        for change in changes:
            page.wait_for_function(f"() => seen.{change} !== undefined")
            taken[change].append(page.evaluate(f"() => seen.{change}"))
        page.wait_for_timeout(REST)
    return {change: statistics.median(times) for change, times in taken.items()}
