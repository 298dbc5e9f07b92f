"""How certified numbers are written: never smaller than they are.

>>> written_epsilon(5.04173), written_delta(1.0004e-5)
('5.042', '1.01e-05')
"""

import math
from decimal import ROUND_CEILING, Context, Decimal

_SLACK = Decimal("1e-9")  # of the last digit: less than this above a number is that number
_NORMAL = 1e-300


def rounded_up(value: float, digits: int) -> float:
    """``value`` to so many significant digits, never smaller by more than 1e-9 of the last one."""
    if not (math.isfinite(value) and value > 0):
        return value
    return float(_rounded_up(value, digits))


def written_epsilon(epsilon: float) -> str:
    """ε to four digits, rounded up, as everything that is called certified is written."""
    if epsilon in (0, math.inf):
        return "∞" if epsilon else "0"
    if 0 < epsilon < _NORMAL:  # a float there has fewer digits than are written
        return f"{_rounded_up(epsilon, 4):.3e}"
    return f"{rounded_up(epsilon, 4):#.4g}".rstrip(".")


def written_delta(delta: float) -> str:
    """δ to three digits, rounded up: more δ is promised than was accounted, never less."""
    return f"{_rounded_up(delta, 3):.2e}" if 0 < delta < _NORMAL else f"{rounded_up(delta, 3):.3g}"


def _rounded_up(value: float, digits: int) -> Decimal:
    exact = Decimal(value)
    unit = Decimal(1).scaleb(exact.adjusted() - digits + 1)
    return (exact / unit - _SLACK).to_integral_value(ROUND_CEILING, Context(prec=digits + 2)) * unit
