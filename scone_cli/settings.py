"""Declaring a stage's settings, parsing quantities such as `8GiB` or `10k`, and finding the recipes shipped with scone."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import field
from fractions import Fraction
from pathlib import Path
from typing import Any

from scone_cli.errors import BadSetting


def setting(default: Any, help: str, *, choices: tuple[str, ...] = (), affects_result: bool = True) -> Any:
    """Declare one field of a stage's config: its default, its help, and whether the artifact depends on its value.

    The command line makes its options from these declarations, so each default is written only here.
    """
    return field(default=default, metadata={"help": help, "choices": choices, "affects_result": affects_result})


def result_settings(config: Any) -> dict[str, Any]:
    """The settings that the artifact depends on, as JSON values: they go into its fingerprint."""
    return {
        item.name: str(value) if isinstance(value := getattr(config, item.name), Path) else value
        for item in dataclasses.fields(config)
        if item.metadata.get("affects_result", True)
    }


def engine_setting() -> Any:
    """The setting `engine`: where the tasks of a stage run."""
    return setting(
        "local",
        "Where to work: `local` is this machine, `ray` the nodes of a Ray cluster that see the same folders; --memory and "
        "--workers are then for each node.",
        choices=("local", "ray"),
        affects_result=False,
    )


def ray_address_setting() -> Any:
    """The setting `ray-address`: which cluster `--engine ray` uses."""
    return setting(
        "auto",
        "HOST:PORT of the Ray cluster; `auto` is RAY_ADDRESS, or the cluster that was started on this machine.",
        affects_result=False,
    )


DEVICES = ("auto", "cpu", "cuda", "mps")
ROW_DTYPES = ("float32", "float16", "bfloat16", "float8_e4m3", "int8", "int4")  # table rows; see `table/row_formats.py`

_BYTES: Mapping[str, int] = {"": 1, "b": 1} | {
    f"{letter}{unit}": base**power
    for power, letter in enumerate("kmgt", start=1)
    for unit, base in (("b", 1000), ("ib", 1024))
}
_COUNTS: Mapping[str, int] = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


class Quantity(str):
    """The type of a setting such as `8GiB` or `10k`: a string; a recipe may also give a plain whole number."""

    __slots__ = ()


def parse_bytes(text: str, option: str = "") -> int:
    """Parse a size such as `2GiB`, `500MB`, `1.5 TiB` or `4096` to bytes, rounded down; `option` is named in errors.

    Raises:
        BadSetting: it is not a size, has an unknown unit, or is 0.
    """
    size = _parse(text, _BYTES)
    if size is None or size < 1:
        raise BadSetting(f"{option} {text!r}: expected a size in bytes, such as 2GiB, 500MB or 4096".strip())
    return int(size)


def parse_count(text: str, option: str = "") -> int:
    """Parse a count such as `1000000`, `1_000_000`, `10k` or `2.5M` to a whole number; `option` is named in errors.

    Raises:
        BadSetting: it is not a whole number, or is 0.
    """
    count = _parse(text, _COUNTS)
    if count is None or count < 1 or count.denominator != 1:
        raise BadSetting(f"{option} {text!r}: expected a whole number of 1 or more, such as 250000, 10k or 1M".strip())
    return int(count)


def _parse(text: str, units: Mapping[str, int]) -> Fraction | None:
    """The exact number, or None if it cannot be parsed. A float would not do: 0.1TB would not be a whole number of bytes."""
    written = re.fullmatch(r"(\d[\d_]*(?:\.\d+)?) ?([a-z]*)", text.strip().lower(), re.ASCII)
    if written is None or written[2] not in units:
        return None
    return Fraction(written[1].replace("_", "")) * units[written[2]]


def shipped() -> Path:
    """The folder of the shipped recipes, scripts and tasks: in the package if installed, beside it in a checkout."""
    package = Path(__file__).parent
    return package / "pipelines" if (package / "pipelines").is_dir() else package.parent / "pipelines"
