"""Numbers as a reader wants them: no more digits than are known, with the unit."""

from __future__ import annotations

import math
from collections.abc import Sequence

RESOLVED = 20  # steps into which the digits of an interval cut its width, at least
FEW = 6


def number(value: float, width: float | None = None) -> str:
    """A number with the digits that a width of uncertainty leaves, else three."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite" if value > 0 else "minus infinite"
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if not -4 <= size <= 6:
        return f"{value:.2e}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
    step = width / RESOLVED if width and math.isfinite(width) and width > 0 else 10.0 ** (size - 2)
    decimals = max(math.ceil(-math.log10(step)), 1 - size if size < 0 else 0)
    return f"{value:,.{min(max(decimals, 0), 8)}f}"


def span(low: float, high: float, unit: str | None = None) -> str:
    """The two ends of an interval with as many digits as its width deserves."""
    whole = all(math.isfinite(end) and float(end).is_integer() for end in (low, high))
    told = " to ".join(f"{end:,.0f}" if whole else number(end, high - low) for end in (low, high))
    return with_unit(told, unit)


def with_unit(told: str, unit: str | None) -> str:
    """Text and unit; 1 is no unit, and 1/yr reads per yr."""
    return f"{told} {spelled(unit)}".rstrip()


def spelled(unit: str | None) -> str:
    """A unit in words that can follow a number."""
    if not unit or unit == "1":
        return ""
    if unit.startswith("1/") and not set(unit[2:]) & set("()*· "):
        return " ".join(f"per {part}" for part in unit[2:].split("/"))
    return unit


def place(value: float) -> str:
    """A position on the horizontal axis, such as a year: all its digits and no separators."""
    return f"{float(value):.10g}"


def percent(share: float) -> str:
    """A share as a percentage, honest at both ends."""
    if not math.isfinite(share):
        return "an unknown share"
    if 0 < share < 0.005:
        return "less than 1 %"
    if -0.005 < share <= 0:
        return "0 %"
    if 0.995 < share < 1:
        return "more than 99 %"
    return f"{100 * share:.0f} %"


def listing(words: Sequence[str], last: str = "and", most: int = FEW) -> str:
    """Words in a row; of many the first few and how many more there are."""
    told = list(words)
    if len(told) > most:
        told = [*told[: most - 1], f"{len(words) - most + 1} more"]
    return told[0] if len(told) == 1 else f"{', '.join(told[:-1])} {last} {told[-1]}" if told else ""


def count(number: int, noun: str) -> str:
    """1 measurement, 2 measurements."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def sentence(words: str) -> str:
    """The same with a capital and a full stop."""
    words = words.strip()
    return f"{words[:1].upper()}{words[1:]}{'' if words[-1:] in '.!?:' else '.'}" if words else ""
