"""Counts of n-grams read piece by piece, and columns of numbers on disk: for more n-grams than fit in memory.

The n-grams of one length keep the order of their file, by (count desc, tokens asc). A row is the place of an n-gram in that
order, from 0, among those within the limits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from scone_cli.arrays import U32, U64
from scone_cli.artifacts.opening import to_read

_NUMBERS = ("count", "docs")
_TOKENS = "tokens"


@dataclass(frozen=True)
class Piece:
    """Neighbouring n-grams of one length: the row of the first, and those columns that were asked for, else empty arrays."""

    begin: int
    size: int
    tokens: U32
    counts: U64
    docs: U32

    @property
    def end(self) -> int:
        """The row after the last."""
        return self.begin + self.size


@dataclass(frozen=True)
class CountFile:
    """The n-grams in `folder/n=<n>.parquet` with `min_count` occurrences in `min_docs` documents, in their order.

    `at_most`: the rows of a piece. A row group (2**20 rows as `count-ngrams` writes them) is in memory at a time.
    """

    folder: Path
    n: int
    min_count: int
    min_docs: int
    at_most: int

    @cached_property
    def num_rows(self) -> int:
        """The number of n-grams within the limits."""
        return sum(piece.size for piece in self.pieces("count"))

    def pieces(self, *columns: str) -> Iterator[Piece]:
        """Read some of the columns `tokens`, `count` and `docs`."""
        wanted = {*columns, *_NUMBERS}
        with pq.ParquetFile(to_read(self.folder / f"n={self.n}.parquet")) as file:
            row = 0
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, [name for name in file.schema_arrow.names if name in wanted])
                numbers = [table.column(name).to_numpy() for name in _NUMBERS]
                kept = np.flatnonzero((numbers[0] >= self.min_count) & (numbers[1] >= self.min_docs))
                counts, docs = (column[kept] for column in numbers)
                tokens = self._tokens(table)[kept] if _TOKENS in columns else np.empty((0, self.n), np.uint32)
                del table, numbers
                for begin in range(0, kept.size, self.at_most):
                    here = slice(begin, min(begin + self.at_most, kept.size))
                    yield Piece(row + begin, here.stop - begin, tokens[here], counts[here], docs[here])
                row += kept.size

    def _tokens(self, table: Any) -> U32:
        lists = table.column(_TOKENS).combine_chunks()
        tokens: U32 = lists.flatten().to_numpy().reshape(-1, self.n)
        return tokens

    def blocks(self, size: int, *columns: str) -> Iterator[Piece]:
        """The same in pieces of `size` rows (the last may be smaller); each block overwrites the arrays of the one before."""
        room, rows = min(size, self.num_rows), 0
        tokens = np.empty((room if _TOKENS in columns else 0, self.n), np.uint32)
        counts, docs, begin = np.empty(room, np.uint64), np.empty(room, np.uint32), 0
        for piece in self.pieces(*columns):
            taken = 0
            while taken < piece.size:
                into = slice(rows, min(rows + piece.size - taken, room))
                source = slice(taken, taken + into.stop - rows)
                counts[into], docs[into] = piece.counts[source], piece.docs[source]
                if _TOKENS in columns:
                    tokens[into] = piece.tokens[source]
                rows, taken = into.stop, source.stop
                if rows == room:
                    yield Piece(begin, rows, tokens, counts, docs)
                    begin, rows = begin + rows, 0
        if rows:
            yield Piece(begin, rows, tokens[:rows], counts[:rows], docs[:rows])


class Column:
    """Numbers [M] in a file of their own, zero at first: slices are read and written, and nothing stays in memory."""

    def __init__(self, path: Path, dtype: npt.DTypeLike, num_rows: int) -> None:
        self._path, self._dtype = path, np.dtype(dtype)
        with path.open("wb") as file:
            file.truncate(num_rows * self._dtype.itemsize)

    def read(self, begin: int, end: int) -> npt.NDArray[Any]:
        """The numbers of rows [begin, end)."""
        found = np.fromfile(self._path, self._dtype, end - begin, offset=begin * self._dtype.itemsize)
        assert found.size == end - begin, f"{self._path} ends too early"
        return found

    def write(self, begin: int, values: npt.NDArray[Any]) -> None:
        """Set the numbers of rows `begin` to `begin` + len(values)."""
        with self._path.open("r+b") as file:
            file.seek(begin * self._dtype.itemsize)
            file.write(np.ascontiguousarray(values, self._dtype).data)

    def remove(self) -> None:
        """Remove the file."""
        self._path.unlink(missing_ok=True)


def count_files(folder: Path, max_n: int, min_count: int, min_docs: int, at_most: int = 1 << 20) -> Sequence[CountFile]:
    """The n-grams of 2, 3, ... `max_n` tokens within the limits."""
    return [CountFile(folder, n, min_count, min_docs, at_most) for n in range(2, max_n + 1)]
