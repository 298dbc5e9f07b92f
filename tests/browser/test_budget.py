"""The budget panel in a real JupyterLab: schedules by keyboard, ε certified, bad input answered."""

from tests.browser.lab_server import LabPage
from tests.browser.panel_page import CERTIFIED, EPSILON, STATUS, handle, show_panel, type_in

TRACE = "document.querySelector('.workbench .js-plotly-plot').data.find(t => t.name === '%s')"


def test_a_schedule_is_shaped_certified_and_refused_where_it_cannot_be(lab: LabPage) -> None:
    page = lab.open_and_run("02_the_budget_over_time.ipynb")
    show_panel(page)
    page.wait_for_selector(CERTIFIED)
    assert page.inner_text(EPSILON) == "5.088"

    page.locator(".workbench select").first.select_option("linear")
    type_in(page, "σ at the end", "0.7")
    lab.wait_for(f"Math.abs({TRACE % 'σ'}.y.at(-1) - 0.7) < 1e-9")
    lab.wait_for(f"{TRACE % 'ε spent (certified)'}.x.length === 7")
    page.wait_for_selector(CERTIFIED)
    assert 5.5 < float(page.inner_text(EPSILON)) < 6.5
    assert "PLD, poisson sampling, add or remove one record" in page.inner_text(".wb-epsilon")

    handle(page, "σ at the end").press("ArrowRight")
    lab.wait_for(f"{TRACE % 'σ'}.y.at(-1) > 0.7")

    type_in(page, "B at the start", "1e9")
    page.locator(STATUS, has_text="choose a batch no larger than the data set").wait_for()
    type_in(page, "B at the start", "512")
    page.wait_for_selector(CERTIFIED)

    wider = page.evaluate(
        "() => [...document.querySelectorAll('.jp-WindowedPanel-outer, .jp-OutputArea')]"
        ".filter(e => e.scrollWidth > e.clientWidth + 1).length"
    )
    assert wider == 0
    lab.screenshot("budget")
