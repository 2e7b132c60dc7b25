"""Size of a table's files in bytes, computed before the table exists: for size budgets and for the ladder of sizes.

It counts rows and index, not the copy of `vocab.parquet` beside them, which serving does not need.
"""

from __future__ import annotations

import bisect

from scone_cli.errors import BadSetting
from scone_cli.runtime.native_memory import LINE
from scone_cli.table.row_formats import row_bytes
from scone_cli.vocab.index import fewest_lines

PART_BYTES = 256 << 20  # of rows per file: they are one Parquet page, which is in memory while it is written
_PART_OVERHEAD = 1024  # at most: one page header, and the footer of a file with one column
_INDEX_OVERHEAD = 256  # its header
_MOST_PARTS = 100_000  # files of rows are read in the order of their names, which have five digits
_MOST_FGRAMS = 2**32 - 1  # ids are uint32


def table_bytes(num_fgrams: int, dim: int, dtype: str, num_tokens: int) -> int:
    """Bytes of `rows-*.parquet` and `index.bin` for `num_fgrams` f-grams: at most 1 KiB too many per file of rows."""
    width = row_bytes(dtype, dim)
    num_parts = _num_parts(num_fgrams, width)
    of_index = index_bytes(num_fgrams, num_tokens) + _INDEX_OVERHEAD
    return num_fgrams * width + num_parts * _PART_OVERHEAD + of_index


def _num_parts(num_fgrams: int, width: int) -> int:
    return -(-num_fgrams // max(1, PART_BYTES // width))


def check_parts(num_fgrams: int, width: int) -> None:
    """Refuse a table of so many files of rows that their names would have other orders than their numbers.

    Raises:
        BadSetting: there are more.
    """
    if (num_parts := _num_parts(num_fgrams, width)) > _MOST_PARTS:
        raise BadSetting(
            f"{num_fgrams:,} rows of {width:,} bytes are {num_parts:,} files, expected at most {_MOST_PARTS:,}",
            "give a smaller --dtype, or select fewer f-grams",
        )


def index_bytes(num_fgrams: int, num_tokens: int) -> int:
    """Bytes in memory of the index that finds `num_fgrams` f-grams in a text: about 10 per f-gram."""
    return fewest_lines(num_fgrams, num_tokens) * LINE if num_fgrams else 0


def fgrams_within(budget: int, dim: int, dtype: str, num_tokens: int) -> int:
    """Largest number of f-grams whose table takes at most `budget` bytes; 0 if not even one fits."""
    sizes = range(1, _MOST_FGRAMS + 1)
    return bisect.bisect_right(sizes, budget, key=lambda size: table_bytes(size, dim, dtype, num_tokens))
