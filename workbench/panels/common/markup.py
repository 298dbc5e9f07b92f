"""Pieces of HTML that panels share; no widgets here."""

import html
from pathlib import Path

ASSETS = Path(__file__).parent / "assets"


def style(*sheets: Path) -> str:
    """The style sheet that all panels share, and further ``sheets``, for a panel's first line."""
    paths = (ASSETS / "style.css", *sheets)
    return f"<style>{''.join(path.read_text(encoding='utf-8') for path in paths)}</style>"


def badge(word: str) -> str:
    """A word such as certified or preview in a box, after a number."""
    return f'<span class="wb-badge {word}">{word}</span>'


def card(title: str, value: str, *details: str) -> str:
    """A number with its title and small lines below; all are HTML, an empty line keeps its place.

    >>> card("Step", "3", "of 10")
    '<div class="wb-card"><h4>Step</h4><div class="value">3</div><small>of 10</small></div>'
    """
    lines = "".join(f"<small>{detail or '&nbsp;'}</small>" for detail in details)
    return f'<div class="wb-card"><h4>{title}</h4><div class="value">{value}</div>{lines}</div>'


def status_html(message: str, *, kind: str = "") -> str:
    """A line for what went wrong; ``kind`` such as "Not used" or "Warning" says it in words."""
    lead = f"<b>{html.escape(kind)}:</b> " if kind and message else ""
    line = f"{lead}{html.escape(message)}"
    return f'<div class="wb-status" role="status" aria-live="polite">{line}</div>'


def planned_html(words: str) -> str:
    """What the settings on display would do, before Start; ``words`` are HTML."""
    return f'<div class="wb-status wb-projection">{words}</div>'


def message_html(words: str, *, state: str = "idle") -> str:
    """The box that says what is going on; ``words`` are HTML, ``state`` decides the colour."""
    lead = '<div class="wb-message" role="status" aria-live="polite"'
    return f'{lead} data-state="{state}">{words}</div>'


def refusal_html(sentence: str) -> str:
    """The same box where nothing was started, and the sentence that says why."""
    return message_html(f"<b>Not started.</b> {html.escape(sentence)}", state="refused")
