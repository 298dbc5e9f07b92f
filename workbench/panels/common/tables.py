"""Data frames in a notebook, with a caption that says what they hold."""

import html

import pandas as pd
from IPython.display import HTML


def table(frame: pd.DataFrame, caption: str) -> HTML:
    """``frame`` as a notebook shows it, with ``caption`` above, which also names it when read out.

    >>> "<caption>Two numbers</caption>" in table(pd.DataFrame({"a": [1, 2]}), "Two numbers").data
    True
    """
    head, mark, rest = frame.to_html(border=0).partition(">")
    rest = rest.replace("<th></th>", "<td></td>")  # a heading without words is none
    return HTML(f"{head}{mark}<caption>{html.escape(caption)}</caption>{rest}")
