"""Sizes and counts as people write and read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from messages import names, refusal

from scone_cli.errors import BadSetting
from scone_cli.formatting import bytes_text, count_text, seconds_text
from scone_cli.settings import parse_bytes, parse_count


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4096", 4096),
        ("1_000", 1000),
        ("7B", 7),
        ("500MB", 500_000_000),
        ("500mb", 500_000_000),
        ("2GiB", 2 << 30),
        (" 1.5 TiB ", 3 << 39),
        ("0.1TB", 100_000_000_000),
        ("1kB", 1000),
        ("1KiB", 1024),
        ("1.0005KiB", 1024),
    ],
)
def test_bytes(text, expected):
    assert parse_bytes(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1000000", 10**6), ("1_000_000", 10**6), ("10k", 10_000), ("2.5M", 2_500_000), ("1g", 10**9)],
)
def test_counts(text, expected):
    assert parse_count(text) == expected


@given(st.integers(1, 10**15))
def test_a_bare_number_is_itself(number):
    assert parse_bytes(str(number)) == parse_count(f"{number:_}") == number


@pytest.mark.parametrize(
    "text", ["", "0", "0GiB", "0.5", "-1", "8G", "GiB", "1e9", "8 gigs", "1,000", "nan", "٣", "1.GiB"]
)
def test_what_is_no_size(text):
    with pytest.raises(BadSetting) as caught:
        parse_bytes(text, "--memory")
    assert names(caught.value.message, "--memory", repr(text), "2GiB", "500MB", "4096")


@pytest.mark.parametrize("text", ["", "0", "1.5", "1.0001k", "-1", "1KiB", "k", "many"])
def test_what_is_no_count(text):
    with refusal(BadSetting, "whole number", "1") as caught:
        parse_count(text)
    assert caught.value.message.startswith(repr(text))


def test_numbers_can_be_read():
    assert [count_text(n) for n in (0, 7, 12_345, 0.5, 12_345_678, 2.5e9)] == [
        *("0", "7", "12.3k", "0.5", "12.3M", "2.5G"),
    ]
    assert [bytes_text(n) for n in (0, 1023, 1536, 5 * 2**30)] == ["0 B", "1,023 B", "1.5 KiB", "5.0 GiB"]
    assert [seconds_text(n) for n in (0.25, 75, 754, 11045)] == ["0.2 s", "75 s", "12:34", "3:04:05"]
