"""``workbench lab`` opens on the first notebook, ready, without a question."""

from tests.browser.lab_server import LabPage
from workbench.lab import FIRST_NOTEBOOK


def test_the_first_notebook_opens_ready_and_without_a_question(lab: LabPage):
    page = lab.open()
    widget = page.evaluate(
        "() => { const { context, sessionContext } = jupyterapp.shell.currentWidget;"
        " return { path: context.path, kernel: sessionContext.session.kernel.name,"
        " name: sessionContext.kernelDisplayName } }"
    )
    assert widget["path"] == FIRST_NOTEBOOK
    assert widget["kernel"] == "python3"
    assert page.locator(".jp-Dialog, .Toastify__toast").count() == 0
    lab.screenshot("lab_opens")


def test_its_cells_run(lab: LabPage):
    lab.open_and_run(FIRST_NOTEBOOK)


def test_the_dark_theme_is_used_and_forgotten(lab: LabPage):
    lab.open()
    lab.use_theme(dark=True)
    lab.screenshot("lab_dark")
    lab.server.reset()
    page = lab.open()
    assert page.locator("body[data-jp-theme-light=true]").count() == 1
