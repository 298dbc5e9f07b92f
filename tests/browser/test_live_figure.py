"""The browser's half of a live figure, alone in a page: what it asks, when, and what it then shows.

The kernel and plotly are played by a few lines of JavaScript, and time by Playwright's clock, so
that what takes minutes or happens once in a thousand openings happens here at once.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.lab_server import PATIENCE
from workbench.figures import live

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SCRIPT = Path(live.__file__).parent / "assets" / "live.js"


@pytest.fixture
def page(chromium: "Browser") -> "Iterator[Page]":
    """A page with one view of a figure, which has just come to listen."""
    page = chromium.new_page()
    page.set_default_timeout(PATIENCE * 1000)
    page.goto("about:blank")
    page.clock.install(time=0)
    page.clock.pause_at(1000)  # from here on it moves only where a test says so
    page.evaluate(_STAGE, SCRIPT.read_text("utf-8"))
    yield page
    page.close()


def asked(page: "Page") -> list[int]:
    """The state that each question so far named."""
    return page.evaluate("() => stage.asked")


def say(page: "Page", **message: Any) -> None:
    """The kernel sends a message to every view."""
    page.evaluate("message => stage.say(message)", message)


def whole(page: "Page", number: int, y: float) -> None:
    say(page, number=number, whole={"data": [{"name": "a", "y": [y]}], "layout": {}})


def change(page: "Page", number: int, y: float) -> None:
    say(page, number=number, traces={"a": {"y": [y]}}, layout={})
    page.clock.run_for(50)  # a frame, in which it is drawn


def shown(page: "Page", view: int = 0) -> float | None:
    """The number on display, None while there is no picture."""
    return page.evaluate("view => stage.shown(view)", view)


def note(page: "Page") -> str:
    return page.locator("[role=status]").first.inner_text()


def test_a_lost_question_is_asked_again_and_its_answer_drawn(page: "Page") -> None:
    assert asked(page) == [-1]
    page.clock.run_for(600)
    assert asked(page) == [-1, -1]
    whole(page, 7, 70)
    assert shown(page) == 70
    page.clock.run_for(3_600_000)
    assert asked(page) == [-1, -1], "an answered view is silent"


def test_a_kernel_that_is_busy_is_not_flooded_and_the_person_is_told(page: "Page") -> None:
    assert note(page) == ""
    page.clock.run_for(10_000)
    assert "Waiting for the kernel" in note(page)
    page.clock.run_for(590_000)
    assert 20 < len(asked(page)) < 30, "in ten minutes"
    whole(page, 3, 30)
    assert (shown(page), note(page)) == (30, "")


def test_a_missing_change_is_seen_by_the_next_and_all_of_it_asked_for(page: "Page") -> None:
    whole(page, 1, 10)
    change(page, 2, 20)
    assert shown(page) == 20
    change(page, 4, 40)
    assert asked(page)[1:] == [2]
    assert shown(page) == 20, "half of the news is not shown"
    whole(page, 4, 40)
    change(page, 5, 50)
    assert (shown(page), len(asked(page))) == (50, 2)


def test_one_that_comes_late_does_not_end_the_question_for_the_rest(page: "Page") -> None:
    whole(page, 1, 10)
    change(page, 4, 40)
    change(page, 2, 20)
    assert shown(page) == 20
    before = len(asked(page))
    page.clock.run_for(1000)
    assert len(asked(page)) > before
    whole(page, 4, 40)
    page.clock.run_for(60_000)
    assert (shown(page), asked(page)[-1]) == (40, 2)


def test_an_older_message_is_no_answer(page: "Page") -> None:
    whole(page, 3, 30)
    page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")
    whole(page, 2, 20)
    page.clock.run_for(600)
    assert asked(page) == [-1, 3, 3]


def test_what_comes_twice_or_late_changes_nothing(page: "Page") -> None:
    whole(page, 5, 50)
    for number in (5, 4):
        whole(page, number, -1)
        change(page, number, -1)
    assert (shown(page), len(asked(page))) == (50, 1)


def test_changes_that_come_before_the_first_whole_hurry_the_question(page: "Page") -> None:
    page.clock.run_for(40_000)
    before = len(asked(page))
    change(page, 9, 90)
    assert len(asked(page)) == before + 1
    for number in range(10, 20):
        change(page, number, 1)
    assert len(asked(page)) <= before + 2, "one question, however many changes"
    assert shown(page) is None


def test_a_tab_that_slept_asks_whether_it_is_in_step(page: "Page") -> None:
    whole(page, 2, 20)
    page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")
    assert asked(page) == [-1, 2]
    say(page, number=2, same=True)
    page.clock.run_for(60_000)
    assert asked(page) == [-1, 2]


def test_a_connection_that_was_found_again_asks_too(page: "Page") -> None:
    whole(page, 2, 20)
    page.evaluate("() => stage.restored()")
    assert asked(page) == [-1, 2]


def test_two_views_of_one_figure_keep_in_step(page: "Page") -> None:
    whole(page, 1, 10)
    page.evaluate("() => stage.view()")
    change(page, 2, 20)
    assert (shown(page, 0), shown(page, 1)) == (20, None)
    whole(page, 2, 20)
    change(page, 3, 30)
    assert (shown(page, 0), shown(page, 1)) == (30, 30)


def test_a_kernel_that_ended_is_told_and_not_asked(page: "Page") -> None:
    whole(page, 1, 10)
    page.evaluate("() => stage.end()")
    assert "run the cell again" in note(page)
    page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")
    page.clock.run_for(600_000)
    assert asked(page) == [-1]
    assert shown(page) == 10, "what is drawn stays to be read"


def test_a_view_that_is_closed_asks_no_more(page: "Page") -> None:
    page.evaluate("() => stage.close()")
    page.clock.run_for(600_000)
    page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")
    assert asked(page) == [-1]


# A plotly that keeps what it is given, a model that keeps what it is asked, and a view on both.
_STAGE = """async code => {
  const plotly = {
    react: (el, data, layout) => Object.assign(el, { data, layout }),
    update: (el, style, layout, places) => places.forEach((place, k) => {
      for (const name in style) el.data[place][name] = style[name][k];
    }),
    relayout() {},
    purge: el => { delete el.data },
    Plots: { resize() {} },
  };
  globalThis[Symbol.for("workbench.plotly")] = Promise.withResolvers();
  globalThis[Symbol.for("workbench.plotly")].resolve(() => plotly);
  const hearers = {}, restored = new Set();
  const stage = globalThis.stage = { asked: [] };
  const model = {
    get: name => ({ height: 100, config: {} })[name],
    send: ({ have }) => stage.asked.push(have),
    on: (name, hear) => (hearers[name] ??= new Set()).add(hear),
    off: (name, hear) => hearers[name].delete(hear),
    widget_manager: { restored: {
      connect: hear => restored.add(hear), disconnect: hear => restored.delete(hear) } },
  };
  const tell = (name, message) => [...hearers[name] ?? []].forEach(hear => hear(message));
  stage.say = message => tell("msg:custom", JSON.stringify(message));
  stage.restored = () => restored.forEach(hear => hear());
  stage.shown = view => document.body.children[view].lastChild.data?.[0].y[0] ?? null;
  stage.end = () => {
    document.body.children[0].classList.add("jupyter-widgets-disconnected");
    tell("comm_live_update");
  };
  const module = await import(URL.createObjectURL(new Blob([code], { type: "text/javascript" })));
  stage.view = async () => {
    const el = document.body.appendChild(document.createElement("div"));
    stage.close = await module.default.render({ model, el });
    await new Promise(done => new IntersectionObserver(done).observe(el.lastChild));
  };
  await stage.view();
}"""
