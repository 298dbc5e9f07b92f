"""Every notebook for who sees no picture and holds no mouse: names, values, order of the keys."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.lab_server import NOTEBOOKS, LabPage, LabServer, running_lab

if TYPE_CHECKING:
    pass

CONTROLS = {
    *("button", "checkbox", "combobox", "link", "listbox", "menuitem", "radio", "slider"),
    *("progressbar", "searchbox", "spinbutton", "switch", "tab", "textbox"),
}
PICTURES = {
    *("figure", "image", "img", "graphics-document", "graphics-object", "graphics-symbol"),
    *("canvas", "SvgRoot"),
}
NAMED = {*CONTROLS, *PICTURES, "table", "region", "group"}


@pytest.fixture(scope="module")
def lab_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabServer]:
    """JupyterLab in fast mode."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_FAST", "1")
        with running_lab(tmp_path_factory.mktemp("names")) as server:
            yield server


def show(lab: LabPage, notebook: str) -> None:
    """Run the cells that train nothing, and wait until each panel has named what is in it."""
    lab.open(notebook)
    lab.page.evaluate(_RUN_WHAT_TRAINS_NOTHING)
    lab.wait_for("document.querySelectorAll('.workbench:not([role=region])').length === 0")
    pictures = "[...document.querySelectorAll('.workbench .js-plotly-plot')]"
    lab.wait_for(f"{pictures}.every(picture => picture.role === 'figure')")


def in_outputs(lab: LabPage) -> list[dict[str, Any]]:
    """The nodes of Chromium's accessibility tree below the outputs of cells."""
    session = lab.page.context.new_cdp_session(lab.page)
    session.send("DOM.enable")
    session.send("Accessibility.enable")
    document = session.send("DOM.getDocument", {"depth": -1})["root"]
    found = session.send(
        "DOM.querySelectorAll", {"nodeId": document["nodeId"], "selector": ".jp-OutputArea-output"}
    )
    roots = {
        session.send("DOM.describeNode", {"nodeId": node})["node"]["backendNodeId"]
        for node in found["nodeIds"]
    }
    nodes = {node["nodeId"]: node for node in session.send("Accessibility.getFullAXTree")["nodes"]}
    reached, waiting = [], [n for n in nodes.values() if n.get("backendDOMNodeId") in roots]
    while waiting:
        node = waiting.pop()
        reached.append(node)
        waiting += [nodes[child] for child in node.get("childIds", ()) if child in nodes]
    return [node for node in reached if not node["ignored"]]


def told(node: dict[str, Any]) -> tuple[str, str]:
    """Role and name of a node, as they are said."""
    return node["role"]["value"], node.get("name", {}).get("value", "").strip()


@pytest.mark.parametrize("notebook", sorted(path.name for path in NOTEBOOKS.glob("*.ipynb")))
def test_every_control_and_every_picture_has_a_name(lab: LabPage, notebook: str) -> None:
    show(lab, notebook)
    said = [told(node) for node in in_outputs(lab)]
    for fold in lab.page.locator(".jupyter-widget-Collapse-header").all():
        fold.press("Enter")
        fold.and_(lab.page.locator("[aria-expanded=true]")).wait_for()
        said += [told(node) for node in in_outputs(lab)]
    assert [(role, name) for role, name in said if role in NAMED and not name] == []
    assert any(role in NAMED for role, _ in said)
    icons = [name for role, name in said if role in CONTROLS and "\uf000" <= name[:1] < "\uf900"]
    assert icons == []
    assert lab.page.evaluate(_OUT_OF_ORDER) == []


def test_a_control_without_a_name_is_found(lab: LabPage) -> None:
    show(lab, "02_the_budget_over_time.ipynb")
    lab.page.evaluate(
        "() => document.querySelector('.workbench').insertAdjacentHTML('beforeend',"
        " '<svg><circle r=3 /></svg><div role=slider tabindex=0></div>')"
    )
    said = [told(node) for node in in_outputs(lab)]
    assert ("slider", "") in said
    assert any(role in PICTURES and not name for role, name in said)


def test_a_slider_says_its_value_and_a_picture_what_it_shows_now(lab: LabPage) -> None:
    show(lab, "01_explore_the_tradeoff.ipynb")
    page = lab.page
    slider = page.get_by_role("slider", name="Noise σ")
    slider.and_(page.locator("[aria-valuetext='0.8']")).wait_for()
    slider.press("ArrowRight")
    slider.and_(page.locator("[aria-valuetext='0.8263']")).wait_for()
    planes = page.get_by_role("figure", name="Two maps of noise multiplier σ")
    planes.and_(page.locator("[aria-label*='σ = 0.8263 and']")).wait_for()
    page.get_by_role("group", name="Hold").get_by_role("button", name="off").wait_for()
    page.get_by_role("button", name="off", pressed=True).wait_for()
    page.get_by_role("button", name="Copy these settings", expanded=False).press("Enter")
    page.get_by_role("button", name="Copy these settings", expanded=True).wait_for()


_RUN_WHAT_TRAINS_NOTHING = """async () => {
  const notebook = jupyterapp.shell.currentWidget.content;
  for (const [place, cell] of notebook.widgets.entries()) {
    const tags = cell.model.getMetadata("tags") ?? [];
    if (cell.model.type !== "code" || tags.includes("skip-execution")) continue;
    notebook.activeCellIndex = place;
    await jupyterapp.commands.execute("notebook:run-cell");
  }
}"""

# Neighbours in a box of which the second stands neither below the first nor to the right of it, and
# whatever would be reached by Tab before its turn.
_OUT_OF_ORDER = """() => {
  const wrong = [...document.querySelectorAll(".workbench [tabindex]")]
    .filter(e => e.tabIndex > 0).map(e => e.outerHTML.slice(0, 80));
  for (const box of document.querySelectorAll(".workbench .widget-box, .workbench.widget-box")) {
    const seen = [...box.children].filter(e => e.getClientRects().length);
    seen.slice(1).forEach((second, place) => {
      const a = seen[place].getBoundingClientRect(), b = second.getBoundingClientRect();
      if (b.top < a.bottom - 4 && b.left < a.right - 4) wrong.push(second.outerHTML.slice(0, 80));
    });
  }
  return wrong;
}"""
