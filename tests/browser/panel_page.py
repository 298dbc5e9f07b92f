"""What tests and benchmarks do on a panel in a page: find a knob, press its arrows, read ε."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

EPSILON = ".wb-epsilon .value"
CERTIFIED = ".wb-epsilon[data-state=certified]"
STATUS = ".workbench .wb-status[role=status]"
PLANES = ".workbench .js-plotly-plot"  # the first of the explorer's figures


def field(page: "Page", label: str) -> "Locator":
    """The number field of the knob ``label``."""
    return page.locator(f"input[title^='{label}:']")


def handle(page: "Page", label: str) -> "Locator":
    """The slider handle of the knob ``label``, which takes arrow keys."""
    row = page.locator(".widget-hbox").filter(has=field(page, label)).last
    return row.locator(".noUi-handle")


def type_in(page: "Page", label: str, text: str) -> None:
    """Type into a number field and leave it by Enter."""
    field(page, label).fill(text)
    field(page, label).press("Enter")


def show_panel(page: "Page") -> None:
    """Scroll the panel into view, where running all cells has scrolled past it."""
    page.locator(".workbench select").first.scroll_into_view_if_needed()
