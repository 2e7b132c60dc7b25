"""Numbers as text for people: what is no number, or has no end, breaks nothing."""

import inspect
import math
import typing
from pathlib import Path

import pytest

from scone_cli import formatting
from scone_cli.formatting import (
    Kind,
    amount_text,
    cents,
    named_value_text,
    narrow_value_text,
    path_text,
    shortened,
    signed,
    value_text,
    with_error,
)

ODD = (math.nan, math.inf, -math.inf)
NUMBERS = {
    name: function
    for name, function in vars(formatting).items()
    if inspect.isfunction(function)
    and not name.startswith("_")
    and "float" in str(next(iter(inspect.signature(function).parameters.values())).annotation)
}


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("name", NUMBERS)
def test_every_function_of_a_number_takes_what_is_none(name, value):
    more = {"unit": "tokens", "digits": 2, "size": f"{abs(value):.1f}", "stderr": 0.5}
    wanted = inspect.signature(NUMBERS[name]).parameters
    text = NUMBERS[name](value, **{key: each for key, each in more.items() if key in wanted})
    assert ("nan" if math.isnan(value) else "inf") in text
    assert ("-" in text or "\N{MINUS SIGN}" in text) == (value == -math.inf and name != "percent")  # a size


def test_functions_of_numbers_are_all_here():
    assert {"count_text", "bytes_text", "seconds_text", "percent", "with_error", "dollars", "days_text", "big"} <= set(
        NUMBERS
    )


def test_amounts_to_the_cent():
    assert [cents(value) for value in (0.0, 6.6e-8, 0.01, 3.5)] == ["$0.00", "less than a cent", "$0.010", "$3.50"]


@pytest.mark.parametrize("value", ODD)
def test_every_kind_of_value_takes_what_is_no_number(value):
    for kind in typing.get_args(Kind):
        assert f"{abs(value)}" in value_text(kind, value)
    for name in ("x", "bytes", "seconds"):
        assert f"{abs(value)}" in named_value_text(name, value)
        assert f"{abs(value)}" in narrow_value_text(name, value)


@pytest.mark.parametrize("error", ODD)
def test_errors_may_be_no_numbers(error):
    for value in (1.5, 1e7, *ODD):
        assert f"{abs(error)}" in with_error(value, error)
        assert f"{abs(error)}" in with_error(value, error, 2)


def test_what_has_no_end_keeps_its_sign():
    assert signed(-math.inf, "inf%") == "\N{MINUS SIGN}inf%"
    assert signed(math.inf, "inf%") == "+inf%"
    assert (signed(math.nan, "nan%"), signed(0.0, "0.0%")) == ("nan%", "0.0%")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("abcdefgh", "abcdefgh"),
        ("abcdefghi", "abcdefg…"),
        ("裁判所裁", "裁判所裁"),
        ("裁判所裁判", "裁判所…"),
        ("abc裁判所", "abc裁判…"),
    ],
)
def test_what_is_shortened_fits_its_columns(text, expected):
    """Eight columns, of which a Chinese character takes two."""
    assert shortened(text, 8) == expected


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.5, "2 seconds at most"), (15, "15 seconds"), (59, "59 seconds"), (180, "3 minutes")]
)
def test_short_times_have_small_units(seconds, text):
    assert formatting.days_text(seconds / 86400) == text


def test_a_path_is_relative_where_the_current_folder_holds_it(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert path_text(str(tmp_path / "here" / "a" / "b.toml")) == str(Path("a", "b.toml"))
    assert path_text(str(tmp_path / "b.toml")) == str(tmp_path / "b.toml")


def test_one_thing_is_not_in_the_plural():
    assert [amount_text(value, "parts") for value in (0, 1, 2)] == ["0 parts", "1 part", "2 parts"]
    assert amount_text(1, "bytes") == "1 B"
