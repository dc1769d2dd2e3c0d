"""Numbers as people read them."""

from __future__ import annotations

import math

MISSING = "—"
"""Stands for a number that does not exist."""
MINUS = "\u2212"
MOST_DIGITS = 6
"""After the decimal point; what is smaller is rounding."""


def digits_for(error: float, least: int) -> int:
    """Digits after the decimal point with which an error is seen, and at least so many."""
    seen = -math.floor(math.log10(error)) if math.isfinite(error) and error > 0 else 0
    return max(least, min(seen, MOST_DIGITS))


def numeral(value: float, digits: int) -> str:
    """`1,234.5`; a dash for NaN and infinities."""
    return f"{value:,.{digits}f}".replace("-", MINUS) if math.isfinite(value) else MISSING


def signed(value: float, digits: int) -> str:
    """`+0.031`, with a sign unless it rounds to 0; a dash for NaN and infinities."""
    if not math.isfinite(value):
        return MISSING
    zero = round(value, digits) == 0
    return numeral(0.0, digits) if zero else f"{value:+,.{digits}f}".replace("-", MINUS)


def give_or_take(value: float, error: float, digits: int) -> str:
    """`+0.031 ± 0.004`, unbreakable, without the second part where there is no error."""
    return signed(value, digits) + plus_or_minus(error, digits)


def plus_or_minus(error: float, digits: int) -> str:
    """` ± 0.004`, unbreakable; empty where there is no error."""
    return f"\u00a0±\u00a0{numeral(error, digits)}" if math.isfinite(error) else ""


def percent(value: float, digits: int = 1) -> str:
    """`84.6 %`, unbreakable; `no number` for NaN."""
    return f"{numeral(100 * value, digits)}\u00a0%" if math.isfinite(value) else "no number"


def listed(parts: list[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
