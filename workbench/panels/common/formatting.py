"""Numbers as a person writes and reads them; no widgets here.

>>> number("Records N", "19,000"), written(1e-5), written_reading(0.05841)
(19000.0, '1e-5', '0.0584')
"""

import math
import re

from workbench.errors import InputError
from workbench.privacy.written import written_epsilon

_THOUSANDS = re.compile(r"(?<=\d)[, ](?=\d{3}(?!\d))")  # 19,000 but not 1,5


def number(label: str, text: str) -> float:
    """The finite number that ``text`` writes; raises `InputError` naming ``label``."""
    try:
        value = float(_THOUSANDS.sub("", text))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(
            f"{label} is {text!r} but must be a number; type one such as 0.5, 19,000 or 1e-5."
        )
    return value


def written(value: float, *, whole: bool = False) -> str:
    """A number as a person writes it: 19 000 as 19,000, small and huge ones with an exponent."""
    if whole and abs(value) < 1e8:
        return f"{value:,.0f}"
    text = f"{value:.4g}"
    return text.replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")


def written_reading(value: float) -> str:
    """Three significant digits; a dash for a value that is not there."""
    if not math.isfinite(value):
        return "–"
    return f"{value:,.0f}" if 1000 <= value < 1e6 else f"{value:#.3g}".rstrip(".")


def shown_epsilon(epsilon: float) -> str:
    """A certified ε as a guarantee writes it; a dash for one that is not known."""
    return "–" if math.isnan(epsilon) else written_epsilon(epsilon)


def three_digits(value: float) -> str:
    """A large number, its digits after the third replaced by zeros: 20,123 as 20,100."""
    digits = 2 - math.floor(math.log10(max(value, 1)))
    return f"{round(value, min(0, digits)):,.0f}"


def counted(count: int, name: str) -> str:
    """So many of something: 1 cell, 2 cells."""
    return f"{count:,} {name}" if count == 1 else f"{count:,} {name}s"


def duration(seconds: float, *, rough: bool = False) -> str:
    """Seconds as a person says them; ``rough`` leaves out what an estimate cannot know."""
    if seconds < 60:
        return f"{math.ceil(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    if rough and minutes >= 3:
        return f"{round(seconds / 60)} min"
    return f"{minutes} min {rest:02} s"
