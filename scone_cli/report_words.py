"""How the report of an evaluation writes numbers and names: 16.1%, 42.46 ± 0.38, a and b."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scone_cli.quantities import count_text
from scone_cli.report_reading import NOT_SHOWN, Comparison

_LARGE = 1e6
_NOTHING = "0.0%"
_MOST_NAMES = 4  # in a row; more are counted


def percent(share: float) -> str:
    """A share as a manager reads it: 16.1%, 0.04%."""
    size = abs(100 * share)
    return f"{size:.1f}%" if size >= 0.1 else _NOTHING if size < 0.005 else f"{size:.2f}%"


def signed_percent(share: float) -> str:
    """The same with its sign."""
    text = percent(share)
    return text if text == _NOTHING else ("\N{MINUS SIGN}" if share < 0 else "+") + text


def signed(value: float, digits: int) -> str:
    """A difference with its sign, and a minus as wide as a plus."""
    return f"{value:+,.{digits}f}".replace("-", "\N{MINUS SIGN}")


def how_much(found: Comparison) -> str:
    """The change of the perplexity and its interval: '16.1% lower (95% interval 15.2% to 17.0%)'."""
    change = f"{percent(found.change)} {'lower' if found.nats < 0 else 'higher'}"
    if change.startswith(_NOTHING):
        change = "the same"
    if found.interval is None:
        return f"{change} (one document: no interval)"
    low, high = found.interval
    if found.finding == NOT_SHOWN:
        return f"{change} (95% interval {signed_percent(low)} to {signed_percent(high)})"
    ends = sorted((abs(low), abs(high)))
    return f"{change} (95% interval {percent(ends[0])} to {percent(ends[1])})"


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


# ---- names -------------------------------------------------------------------------------------------------------


def names_of(names: Sequence[str], what: str) -> str:
    """Names in a row; where they are many, how many of what they are, and the first two."""
    return listed(names) if len(names) <= _MOST_NAMES else f"{len(names)} {what} ({names[0]}, {names[1]}, ...)"


def listed(parts: Sequence[str]) -> str:
    """'a, b and c'."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
