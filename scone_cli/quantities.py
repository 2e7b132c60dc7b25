"""Quantities as people write and read them, `8GiB` or `12.3M` or `3:04:05`, and the numbers they mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction

from scone_cli.errors import BadSetting

_BYTES: Mapping[str, int] = {"": 1, "b": 1} | {
    f"{letter}{unit}": base**power
    for power, letter in enumerate("kmgt", start=1)
    for unit, base in (("b", 1000), ("ib", 1024))
}
_COUNTS: Mapping[str, int] = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


class Quantity(str):
    """The type of a setting that holds a quantity: a string, which a recipe may also write as a bare whole number."""

    __slots__ = ()


def parse_bytes(text: str, option: str = "") -> int:
    """The bytes that `2GiB`, `500MB`, `1.5 TiB` or `4096` mean, rounded down; `option` names the setting in errors.

    Raises:
        BadSetting: it is not a size, has a unit that is none, or is nothing.
    """
    size = _parse(text, _BYTES)
    if size is None or size < 1:
        raise BadSetting(f"{option} {text!r}: expected a size in bytes, such as 2GiB, 500MB or 4096".strip())
    return int(size)


def parse_count(text: str, option: str = "") -> int:
    """The whole number that `1000000`, `1_000_000`, `10k` or `2.5M` means; `option` names the setting in errors.

    Raises:
        BadSetting: it is not a whole number, or is nothing.
    """
    count = _parse(text, _COUNTS)
    if count is None or count < 1 or count.denominator != 1:
        raise BadSetting(f"{option} {text!r}: expected a whole number of 1 or more, such as 250000, 10k or 1M".strip())
    return int(count)


def _parse(text: str, units: Mapping[str, int]) -> Fraction | None:
    """The exact number, or None: as a float, 0.1TB would not be a whole number of bytes."""
    written = re.fullmatch(r"(\d[\d_]*(?:\.\d+)?) ?([a-z]*)", text.strip().lower(), re.ASCII)
    if written is None or written[2] not in units:
        return None
    return Fraction(written[1].replace("_", "")) * units[written[2]]


# ---- numbers to text -----------------------------------------------------------------------------------------------


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
