"""How the report of an evaluation writes numbers and names: 16.1%, 42.46 ± 0.38, a and b."""

from __future__ import annotations

from scone_cli.formatting import NOTHING, percent, signed_percent
from scone_cli.report_reading import NOT_SHOWN, Comparison


def how_much(found: Comparison) -> str:
    """The change of the perplexity and its interval: '16.1% lower (95% interval 15.2% to 17.0%)'."""
    change = f"{percent(found.change)} {'lower' if found.nats < 0 else 'higher'}"
    if change.startswith(NOTHING):
        change = "the same"
    if found.interval is None:
        return f"{change} (one document: no interval)"
    low, high = found.interval
    if found.finding == NOT_SHOWN:
        return f"{change} (95% interval {signed_percent(low)} to {signed_percent(high)})"
    ends = sorted((abs(low), abs(high)))
    return f"{change} (95% interval {percent(ends[0])} to {percent(ends[1])})"


# ---- names -------------------------------------------------------------------------------------------------------
