"""Text for people: what fits its columns."""

import pytest

from scone_cli.formatting import shortened


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
