"""How many bytes the files of a table take, known before there is a table: what a budget and a ladder are worked out from.

Rows and index are meant; the copy of `vocab.parquet` that lies beside them is not needed to serve a table.
"""

from __future__ import annotations

import bisect

from scone_cli.runtime.native_memory import LINE
from scone_cli.table.row_formats import row_bytes
from scone_cli.vocab.index import fewest_lines

PART_BYTES = 256 << 20  # of rows in one file, which are one page: in memory while it is written
_PART_OVERHEAD = 1024  # at most: one page header, and the footer of a file with one column
_INDEX_OVERHEAD = 256  # what is said before it
_MOST_FGRAMS = 2**32 - 1  # ids are uint32


def table_bytes(num_fgrams: int, dim: int, dtype: str, num_tokens: int) -> int:
    """Bytes of the `rows-*.parquet` and `index.bin` of so many f-grams of a vocabulary: up to 1 KiB a file of rows too many."""
    width = row_bytes(dtype, dim)
    num_parts = -(-num_fgrams // max(1, PART_BYTES // width))
    of_index = index_bytes(num_fgrams, num_tokens) + _INDEX_OVERHEAD
    return num_fgrams * width + num_parts * _PART_OVERHEAD + of_index


def index_bytes(num_fgrams: int, num_tokens: int) -> int:
    """Bytes of the index that finds so many f-grams in a text, in memory: about 10 each."""
    return fewest_lines(num_fgrams, num_tokens) * LINE if num_fgrams else 0


def fgrams_within(budget: int, dim: int, dtype: str, num_tokens: int) -> int:
    """The most f-grams whose table takes at most `budget` bytes; 0 if not even one fits."""
    sizes = range(1, _MOST_FGRAMS + 1)
    return bisect.bisect_right(sizes, budget, key=lambda size: table_bytes(size, dim, dtype, num_tokens))
