"""Every function that turns a number, a name or raw text into text for people."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from typing import Any, Literal

BLANK = "·"
_SHORT_NAMES = {"\\": r"\\", "\n": r"\n", "\r": r"\r", "\t": r"\t"}


def visible(text: str) -> str:
    """The text with every blank visible and every character that does not print escaped."""
    shown = "".join(map(_visible, text))
    return rf"\u{ord(shown[0]):04x}" + shown[1:] if shown and unicodedata.combining(shown[0]) else shown


def _visible(character: str) -> str:
    code = ord(character)
    if character == " ":
        return BLANK
    if character in _SHORT_NAMES:
        return _SHORT_NAMES[character]
    if 0xDC80 <= code <= 0xDCFF:  # Python's stand-in for a byte that is no UTF-8
        return rf"\x{code - 0xDC00:02x}"
    if character.isprintable() and character != BLANK:
        return character
    return rf"\x{code:02x}" if code < 0x100 else rf"\u{code:04x}" if code < 0x10000 else rf"\U{code:08x}"


def harmless(text: str) -> str:
    """The text with what does not print escaped, and all else as it is: for names, and for what is visible already."""
    return "".join(each if each.isprintable() else _visible(each) for each in text)


def count_text(value: float) -> str:
    """A number of things in at most six characters or so: 12,345 or 12.3M."""
    for size, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if abs(value) >= size:
            return f"{value / size:.1f}{suffix}"
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.3g}"


def bytes_text(value: float) -> str:
    """A number of bytes in binary units: 512 B or 12.3 MiB."""
    for power, suffix in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if abs(value) >= 1024**power:
            return f"{value / 1024**power:,.1f} {suffix}"
    return f"{value:,.0f} B"


def seconds_text(value: float) -> str:
    """A duration: 0.4 s, 75 s, 12:34 or 3:04:05."""
    if value < 100:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    hours, minutes, seconds = int(value) // 3600, int(value) // 60 % 60, int(value) % 60
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


# "text" is prose; "literal" is text of a corpus, escaped by `legible`; "written" is a number with its unit or error that is
# text already; the others are numbers, a "measure" one of any size.
Kind = Literal["text", "literal", "written", "count", "number", "measure", "share"]


def value_text(kind: Kind, value: Any) -> str:
    """A value as it stands in a table: 1,234 or 2.75 or 0.0003 or 85.2%; a dash for None."""
    if value is None:
        return "-"
    if kind == "count":
        return f"{value:,}"
    if kind == "share":
        return f"{100 * value:.1f}%" if value == 0 or abs(value) >= 0.001 else f"{100 * value:.1g}%"
    if kind == "measure":
        return f"{value:.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
    return f"{value:,.2f}" if kind == "number" else str(value)


def short_count(value: float) -> str:
    """A number in at most five characters, for the ticks of an axis: 500, 20k, 1.5M."""
    for size, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


_LARGE = 1e6
NOTHING = "0.0%"
_MOST_NAMES = 4  # in a row; more are counted


def percent(share: float) -> str:
    """A share as a manager reads it: 16.1%, 0.04%."""
    size = abs(100 * share)
    return f"{size:.1f}%" if size >= 0.1 else NOTHING if size < 0.005 else f"{size:.2f}%"


def signed_percent(share: float) -> str:
    """The same with its sign."""
    text = percent(share)
    return text if text == NOTHING else ("\N{MINUS SIGN}" if share < 0 else "+") + text


def signed(value: float, digits: int) -> str:
    """A difference with its sign, and a minus as wide as a plus."""
    return f"{value:+,.{digits}f}".replace("-", "\N{MINUS SIGN}")


def with_error(value: float | None, stderr: float | None) -> str:
    """A value with as many digits as its standard error has a use for: 42.46 ± 0.38."""
    if value is None:
        return "-"
    if not stderr:
        return plain(value)
    if abs(value) >= _LARGE:
        return f"{count_text(value)} ± {count_text(stderr)}"
    digits = min(4, max(0, 1 - math.floor(math.log10(stderr))))
    return f"{value:,.{digits}f} ± {stderr:,.{digits}f}"


def plain(value: float | None) -> str:
    """A value of which no error is known, with four or five digits."""
    if value is None:
        return "-"
    if abs(value) >= _LARGE:
        return count_text(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{4 if abs(value) < 10 else 2}f}"


def days_text(days: float) -> str:
    """A time as long as people plan for: 12 days, 3.4 years."""
    for size, unit in ((365, "years"), (1, "days"), (1 / 24, "hours")):
        if days >= 2 * size:
            return f"{days / size:,.0f} {unit}" if days >= 10 * size else f"{days / size:.2g} {unit}"
    return f"{max(1, round(1440 * days))} minutes"


def dollars(value: float | None) -> str:
    """An amount of any size, with two digits at least: $1,204, $0.0000087."""
    if value is None:
        return "-"
    sign, size = "\N{MINUS SIGN}" if value < 0 else "", abs(value)
    digits = 0 if size >= 100 else 2 if size >= 0.1 or size == 0 else 1 - math.floor(math.log10(size))
    return f"{sign}${size:,.{digits}f}"


def names_of(names: Sequence[str], what: str) -> str:
    """Names in a row; where they are many, how many of what they are, and the first two."""
    return listed(names) if len(names) <= _MOST_NAMES else f"{len(names)} {what} ({names[0]}, {names[1]}, ...)"


def listed(parts: Sequence[str]) -> str:
    """'a, b and c'."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def big(value: float) -> str:
    """A number in words that everybody knows: 3.2 billion."""
    rounded = float(f"{value:.3g}")  # first: 999.6 million is 1 billion
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if rounded >= size:
            return f"{rounded / size:,.6g} {word}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
