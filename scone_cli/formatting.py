"""Every function that turns a number, a name or raw text into text for people.

All of them write values that are not finite as `nan`, `inf` or `-inf`.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

BLANK = "·"
_SHORT_NAMES = {"\\": r"\\", "\n": r"\n", "\r": r"\r", "\t": r"\t"}


def visible(text: str) -> str:
    """The text with every blank shown as `·` and every non-printing character escaped."""
    shown = "".join(map(_visible, text))
    return rf"\u{ord(shown[0]):04x}" + shown[1:] if shown and unicodedata.combining(shown[0]) else shown


def _visible(character: str) -> str:
    code = ord(character)
    if character == " ":
        return BLANK
    if character in _SHORT_NAMES:
        return _SHORT_NAMES[character]
    if 0xDC80 <= code <= 0xDCFF:  # the surrogate with which Python represents an invalid UTF-8 byte
        return rf"\x{code - 0xDC00:02x}"
    if character.isprintable() and character != BLANK:
        return character
    return rf"\x{code:02x}" if code < 0x100 else rf"\u{code:04x}" if code < 0x10000 else rf"\U{code:08x}"


def harmless(text: str) -> str:
    """The text with non-printing characters escaped and blanks unchanged: for names and messages on a terminal or page."""
    return "".join(each if each.isprintable() else _visible(each) for each in text)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question with the known word that is most similar to a misspelt one; empty if none is similar."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean '{near[0]}'?" if near else ""


def path_text(path: str) -> str:
    """An absolute path, written relative to the current folder if it lies in that folder."""
    relative = os.path.relpath(path)
    return path if relative.startswith(os.pardir) else relative


def count_text(value: float, full_below: float = 10_000) -> str:
    """A number of things in at most five characters: 1.5, 500, 9,876, 12.3k, 1.5M."""
    if abs(value) < full_below:
        return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"
    if not math.isfinite(value):
        return f"{value}"
    rounded = float(f"{value:.3g}")  # round before the unit is chosen: 999,600 is 1M
    if abs(rounded) >= 1e15:
        return power_text(value)
    sizes = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
    size, suffix = next(each for each in sizes if abs(rounded) >= each[0])
    return f"{rounded / size:.3g}{suffix}"


def power_text(value: float) -> str:
    """A number of FLOPs in scientific notation: 2.73e13."""
    return f"{value:.2e}".replace("e+", "e")


def bytes_text(value: float) -> str:
    """A number of bytes in binary units: 512 B or 12.3 MiB."""
    if not math.isfinite(value):
        return f"{value}"
    for power, suffix in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if abs(value) >= 1024**power:
            return f"{value / 1024**power:,.1f} {suffix}"
    return f"{value:,.0f} B"


def seconds_text(value: float) -> str:
    """A duration: 0.4 s, 75 s, 12:34 or 3:04:05."""
    if value < 100:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    if not math.isfinite(value):
        return f"{value}"
    hours, minutes, seconds = int(value) // 3600, int(value) // 60 % 60, int(value) % 60
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


# "text" is prose. "literal" is text of a corpus, escaped by `visible`. "written" is a number that was already formatted with
# its unit or error. The others are numbers; a "measure" may have any size.
Kind = Literal["text", "literal", "written", "count", "number", "measure", "share"]


def value_text(kind: Kind, value: Any) -> str:
    """The text of a value in a table cell: 1,234 or 2.75 or 0.0003 or 85.2%; a dash for None."""
    if value is None:
        return "-"
    if kind == "count":
        return f"{value:,.0f}"
    if kind == "share":
        return f"{100 * value:.1f}%" if value == 0 or abs(value) >= 0.001 else f"{100 * value:.1g}%"
    if kind == "measure":
        return f"{value:.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
    return f"{value:,.2f}" if kind == "number" else str(value)


def amount_text(value: float, unit: str) -> str:
    """An amount of work in its unit: 12.3M tokens, 4.5 MiB."""
    return (
        bytes_text(value)
        if is_bytes(unit)
        else f"{count_text(value)} {unit if value != 1 else singular(unit)}".rstrip()
    )


def singular(unit: str) -> str:
    """The singular of a unit: 'token' for `tokens`."""
    return unit.removesuffix("s")


def is_bytes(unit: str) -> bool:
    """Whether a unit of work is bytes, which are shown as KiB, MiB and so on."""
    return unit in {"B", "bytes"}


def label(name: str) -> str:
    """The readable label of a result's name: 'held-out tokens' for `held_out_tokens`."""
    return (
        re.sub(r"(?<![a-z])(held|non|training)_(?=out|embedding|only)", r"\1-", name)
        .replace("fgram", "f-gram")
        .replace("ngram", "n-gram")
        .replace("_", " ")
    )


def _flops_text(value: float) -> str:
    return power_text(value) if abs(value) >= 1e12 else f"{value:,.0f}"  # nobody reads more than 12 digits


_BY_NAME: Mapping[str, Callable[[float], str]] = {
    r"\bbytes( ram| disk| of .*)?$": bytes_text,
    r"\bseconds$": seconds_text,
    r"\bflops$": _flops_text,
}


def named_value_text(name: str, value: Any) -> str:
    """The text of a result's value, in the unit (bytes, seconds or FLOPs) that the end of its name tells."""
    if isinstance(value, list | tuple):
        return ", ".join(named_value_text(name, item) for item in value) or "none"
    if value is None or isinstance(value, bool):
        return {None: "-", True: "yes", False: "no"}[value]
    if not isinstance(value, int | float):
        return "\n".join(map(harmless, str(value).split("\n")))  # names and texts keep their line breaks
    for pattern, as_text in _BY_NAME.items():
        if re.search(pattern, name.replace("_", " "), re.IGNORECASE):
            return as_text(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}" if abs(value) < 1e6 else f"{value:,.0f}"


def narrow_value_text(name: str, value: Any) -> str:
    """The text of a result's value in a narrow table: at most three digits, such as 12.3k or 126 MiB, if it is large."""
    text = named_value_text(name, value)
    if re.fullmatch(r"[\d,]{3,}\.\d .iB", text):
        number, unit = text.replace(",", "").split()
        return f"{float(number):.0f} {unit}"
    return count_text(value) if isinstance(value, int) and text == f"{value:,}" and abs(value) >= 10_000 else text


def with_same_decimals(texts: Sequence[str]) -> list[str]:
    """Pad numbers with zeros to the same number of decimals; none gets more than the six digits of `named_value_text`."""
    is_plain = [re.fullmatch(r"-?[\d,]+(\.\d+)?", text) is not None for text in texts]
    decimals = [len(text.partition(".")[2]) for text in texts]
    most = max((each for each, plain in zip(decimals, is_plain, strict=True) if plain), default=0)
    padded = []
    for text, each, plain in zip(texts, decimals, is_plain, strict=True):
        room = min(most - each, 6 - sum(map(str.isdigit, text))) if plain else 0
        padded.append(f"{text if each else text + '.'}{'0' * room}" if room > 0 else text)
    return padded


def shortened(text: str, most: int) -> str:
    """The text, cut to at most `most` terminal columns; a Chinese character takes two."""
    from rich.cells import cell_len, set_cell_size  # noqa: PLC0415 - not for `scone --help`

    return text if cell_len(text) <= most else set_cell_size(text, most - 1).rstrip(" ") + "…"


def term_text(term: str) -> str:
    """The text of a term in a table cell, cut to 40 columns."""
    return shortened(harmless(term), 40)


_LARGE = 1e6
NOTHING = "0.0%"
_MOST_NAMES = 4  # names listed in a message; a longer list is shortened to its length and two names


def percent(share: float) -> str:
    """A share in percent, rounded for a summary: 16.1%, 0.04%."""
    size = abs(100 * share)
    return f"{size:.1f}%" if size >= 0.1 else NOTHING if size < 0.005 else f"{size:.2f}%"


def signed_percent(share: float) -> str:
    """A difference of shares in percent, with its sign: +16.1%."""
    return signed(share, percent(share))


def signed(value: float, size: str) -> str:
    """A difference with its sign, except if it rounds to zero; `size` is its absolute value as text.

    The minus sign is U+2212, as wide as the plus sign.
    """
    is_nothing = not any(digit in size.partition(" ")[0] for digit in "123456789")  # without the standard error
    return (
        size
        if math.isnan(value) or (is_nothing and math.isfinite(value))
        else ("\N{MINUS SIGN}" if value < 0 else "+") + size
    )


def signed_number(value: float, digits: int) -> str:
    """A difference with its sign and `digits` decimals."""
    return signed(value, f"{abs(value):,.{digits}f}")


def with_error(value: float | None, stderr: float | None, digits: int | None = None) -> str:
    """A value and its standard error, 42.46 ± 0.38, with `digits` decimals; by default the error has two digits."""
    if value is None:
        return "-"
    if digits is None:
        if not stderr:
            return plain(value)
        if not (math.isfinite(value) and math.isfinite(stderr)):
            return f"{plain(value)} ± {plain(stderr)}"
        if abs(value) >= _LARGE:
            return f"{count_text(value)} ± {count_text(stderr)}"
        digits = min(4, max(0, 1 - math.floor(math.log10(stderr))))
    return f"{value:,.{digits}f}" + ("" if stderr is None else f" ± {stderr:,.{digits}f}")


def plain(value: float | None) -> str:
    """A value without a standard error, with four or five digits."""
    if value is None:
        return "-"
    if abs(value) >= _LARGE:
        return count_text(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{4 if abs(value) < 10 else 2}f}"


def days_text(days: float) -> str:
    """A time span in its largest fitting unit, from seconds to years: 12 days, 3.4 years."""
    if not math.isfinite(days):
        return f"{days}"
    for size, unit in ((365, "years"), (1, "days"), (1 / 24, "hours"), (1 / 1440, "minutes"), (1 / 86400, "seconds")):
        if days >= 2 * size:
            return f"{days / size:,.0f} {unit}" if days >= 10 * size else f"{days / size:.2g} {unit}"
    return "2 seconds at most"


def dollars(value: float | None) -> str:
    """An amount of money with at least two digits: $1,204, $0.0000087."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return f"{value}"
    sign, size = "\N{MINUS SIGN}" if value < 0 else "", abs(value)
    digits = 0 if size >= 100 else 2 if size >= 0.1 or size == 0 else 1 - math.floor(math.log10(size))
    return f"{sign}${size:,.{digits}f}"


def cents(value: float) -> str:
    """An amount of money of 0 or more, to the cent: $1,204, $3.50, 'less than a cent'."""
    return "less than a cent" if 0 < value < 0.01 else dollars(value)


def names_of(names: Sequence[str], what: str) -> str:
    """A list of names; a long one is shortened: '12 files (a.txt, b.txt, ...)'."""
    return listed(names) if len(names) <= _MOST_NAMES else f"{len(names)} {what} ({names[0]}, {names[1]}, ...)"


def listed(parts: Sequence[str]) -> str:
    """A list in words: 'a, b and c'."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def big(value: float) -> str:
    """A number in words: 3.2 billion."""
    if not math.isfinite(value):
        return f"{value}"
    rounded = float(f"{value:.3g}")  # round before the word is chosen: 999.6 million is 1 billion
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if rounded >= size:
            return f"{rounded / size:,.6g} {word}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
