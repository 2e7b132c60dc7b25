"""Writing the files of rows of a new table: they have their full size from the start and are filled in any order.

F-grams are computed in the order of their tokens, where neighbours share prefixes, but rows lie in the order of ids. So
each row is written directly to its place in the finished file: no copy of the table has to be sorted, and the disk never
holds more than the table. The bytes around the rows in a Parquet file depend only on the number and the width of the
rows, so they are written first. This module does not know what is in a row; `table.py` reads finished tables.
"""

# numba infers the types of kernels.
# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numba import types

from scone_cli.arrays import I64
from scone_cli.artifacts.opening import to_read
from scone_cli.artifacts.publish import beside_of, fsync
from scone_cli.artifacts.schemas import table_schema
from scone_cli.runtime.kernel_cache import kernel
from scone_cli.table.row_formats import Raw
from scone_cli.table.sizes import PART_BYTES

_LARGEST_FRAME = 1 << 16  # bytes: a write of Parquet that is longer than this is rows
# The system call `pwrite` with addresses as numbers: called from Python, writing a row would cost twice as much.
_pwrite = types.ExternalFunction("pwrite", types.int64(types.int32, types.uintp, types.uintp, types.int64))


@dataclass(frozen=True)
class RowFiles:
    """The `rows-*.parquet` files in a folder: `num_rows` rows of `row_bytes`, at most `part_bytes` of rows per file."""

    folder: Path
    num_rows: int
    row_bytes: int
    part_bytes: int = PART_BYTES

    @property
    def rows_per_part(self) -> int:
        """Rows in one file; the last may have fewer."""
        return max(1, self.part_bytes // self.row_bytes)

    @property
    def num_parts(self) -> int:
        """The number of files."""
        return -(-self.num_rows // self.rows_per_part)

    def write_part(self, number: int, raw: Raw) -> None:
        """Write a whole file with its rows [rows, row_bytes]; it is on the disk before it appears."""
        head, tail = _frame(len(raw), self.row_bytes)
        path = self._path(number)
        beside = beside_of(path)
        with beside.open("wb") as file:
            file.write(head)
            file.write(np.ascontiguousarray(raw).data)
            file.write(tail)
        fsync(beside)
        beside.replace(path)

    def create(self) -> None:
        """Create the missing files: valid Parquet, every row zeros, disk space allocated at once.

        Raises:
            OSError: the disk has too little space.
        """
        for number, first in enumerate(range(0, self.num_rows, self.rows_per_part)):
            path, rows = self._path(number), min(self.rows_per_part, self.num_rows - first)
            if path.exists():
                continue
            head, tail = _frame(rows, self.row_bytes)
            size = len(head) + rows * self.row_bytes + len(tail)
            beside = beside_of(path)
            with beside.open("wb") as file:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, size)
                else:
                    file.truncate(size)
                os.pwrite(file.fileno(), head, 0)
                os.pwrite(file.fileno(), tail, size - len(tail))
            beside.replace(path)

    def write(self, ids: I64, raw: Raw) -> None:
        """Write the rows of some f-grams [len(ids), row_bytes] to their places in the files.

        Raises:
            OSError: the disk fails.
        """
        order = np.argsort(ids)
        ids = ids[order]
        for path, first, last in self._parts(ids):
            lines = order[first:last]
            places = self._start(path) + ids[first:last] % self.rows_per_part * self.row_bytes
            with path.open("r+b", buffering=0) as file:
                done = 0
                while (done := done + _write(file.fileno(), raw, lines[done:], places[done:])) < len(lines):
                    file.seek(int(places[done]))
                    rest = raw[lines[done]].tobytes()
                    while rest:  # retry: the call may have been interrupted, or this one raises the error
                        rest = rest[file.write(rest) or 0 :]
                    done += 1

    def read(self, ids: I64) -> Raw:
        """Read the rows of some f-grams as bytes [len(ids), row_bytes]; ids must ascend."""
        raw = np.empty((len(ids), self.row_bytes), np.uint8)
        for path, first, last in self._parts(ids):
            start = self._start(path)
            with path.open("rb") as file:
                for at in range(first, last):
                    file.seek(start + int(ids[at]) % self.rows_per_part * self.row_bytes)
                    file.readinto(raw[at].data)
        return raw

    def _parts(self, ids: I64) -> Iterator[tuple[Path, int, int]]:
        """The files that hold the rows `ids` (ascending); for each file the range of positions in `ids`."""
        numbers, begins = np.unique(ids // self.rows_per_part, return_index=True)
        ends = [*begins.tolist(), len(ids)][1:]
        for number, first, last in zip(numbers.tolist(), begins.tolist(), ends, strict=True):
            yield self._path(number), first, last

    def _path(self, number: int) -> Path:
        return self.folder / f"rows-{number:05d}.parquet"

    def _start(self, path: Path) -> int:
        """Offset of the first row in a file, in bytes."""
        column = pq.read_metadata(to_read(path)).row_group(0).column(0)
        return int(column.data_page_offset + column.total_compressed_size - column.num_values * self.row_bytes)


@functools.lru_cache(maxsize=2)  # all files but the last have the same
def _frame(rows: int, row_bytes: int) -> tuple[bytes, bytes]:
    """The bytes that Parquet writes before and after `rows` rows of `row_bytes` in a file."""
    schema, size = table_schema(row_bytes), rows * row_bytes
    zeros = pa.py_buffer(np.zeros(size, np.uint8))  # pages that are never written take no memory
    array = pa.FixedSizeBinaryArray.from_buffers(pa.binary(row_bytes), rows, [None, zeros])
    sink = _Sink()
    with pq.ParquetWriter(
        pa.PythonFile(sink, "w"),
        schema,
        compression="none",
        use_dictionary=False,
        write_statistics=False,
        data_page_size=max(size, 1),
        max_rows_per_page=rows,
        write_batch_size=rows,
    ) as writer:
        writer.write_table(pa.Table.from_arrays([array], schema=schema), rows)
    del writer
    pa.default_memory_pool().release_unused()  # Arrow's memory, which it would keep until the end
    whole = sink.written
    # The rows are the third write: after the magic number and the header of the one page.
    assert len(whole) > 3
    assert whole[2][0] == size
    return b"".join(each for _, each in whole[:2]), b"".join(each for _, each in whole[3:])


@kernel()
def _write(file, raw, lines, places):
    """Write each raw[lines[i]] at offset places[i] of an open file; returns how many were written before the first failure."""
    size = raw.shape[1]
    for i in range(lines.size):
        if _pwrite(np.int32(file), raw[lines[i]].ctypes.data, np.uintp(size), places[i]) != size:
            return i
    return lines.size


class _Sink:
    """A file object that records every write: its length, and its content unless it is long (the rows)."""

    closed = False

    def __init__(self) -> None:
        self.written: list[tuple[int, bytes]] = []

    def write(self, data: bytes) -> int:
        self.written.append((len(data), bytes(data) if len(data) <= _LARGEST_FRAME else b""))
        return len(data)

    def flush(self) -> None:
        pass

    def tell(self) -> int:
        return sum(size for size, _ in self.written)

    def close(self) -> None:
        self.closed = True
