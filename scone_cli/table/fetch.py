"""Fetching rows of a table from memory, from mapped files or from the disk.

Rows in memory are copied with prefetching: while one row is copied, the next few are loaded into the CPU cache. Rows that
may be on the disk are first read from the page cache, one by one and without waiting. The rows that are missing there are
then requested all together: the disk works on all of them at once, and reads each page once for all ids that need it.
"""

# numba infers the types of kernels.
# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import carray, types

from scone_cli.arrays import U8, U32
from scone_cli.errors import StorageFailure
from scone_cli.runtime.kernel_cache import kernel
from scone_cli.runtime.native_memory import LINE, Addressed, copy, pointer, prefetch
from scone_cli.table.stored_file import StoredFile
from scone_cli.vocab.index import NONE

_NONE = np.uint32(NONE)
_AHEAD = 12  # rows that are prefetched at a time
_MOST_LINES = 16  # cache lines prefetched per row; the CPU prefetches the rest by itself once the row is being copied
_NOWAIT = getattr(os, "RWF_NOWAIT", 0)
_WILL_NEED = getattr(os, "POSIX_FADV_WILLNEED", 0)
CAN_READ_WITHOUT_WAITING = bool(_NOWAIT)

_c_preadv2 = types.ExternalFunction(
    "preadv2", types.intp(types.int32, types.intp, types.int32, types.intp, types.int32)
)
_c_pread = types.ExternalFunction("pread", types.intp(types.int32, types.intp, types.intp, types.intp))
_c_fadvise = types.ExternalFunction("posix_fadvise", types.int32(types.int32, types.intp, types.intp, types.int32))

# The kernels take the address of a `_ROWS` record, followed by its `_PART` records in memory: passing an array to a kernel
# costs more per call than copying a row.
_ROWS = np.dtype([(name, np.int64) for name in ("num_rows", "row_bytes", "rows_per_part", "num_parts")])
# A file of rows: the address of its first row (if in memory or mapped), its descriptor, the offset of its rows in bytes.
_PART = np.dtype([(name, np.int64) for name in ("address", "descriptor", "start")])
_ROWS_BYTES = _ROWS.itemsize


@kernel(inline="always")
def _rows_at(address):
    rows = carray(pointer(np.uint64(address)), (1,), _ROWS)[0]
    return rows, carray(pointer(np.uint64(address) + np.uint64(_ROWS_BYTES)), (rows.num_parts,), _PART)


@kernel(inline="always")
def _address(rows, parts, row):
    part = row // rows.rows_per_part
    return np.uint64(parts[part].address + (row - part * rows.rows_per_part) * rows.row_bytes)


@kernel(inline="always")
def _copy_row(rows, parts, row, out):
    """Copy one row to the address `out`."""
    copy(np.uint64(out), _address(rows, parts, row), np.uint64(rows.row_bytes))


@kernel(nogil=False)  # releasing the GIL would take longer than the copy, except where the disk is read
def gather_one(address, row, out):
    """Copy the row of a single id, as `gather` does: the fast path for decoding one stream."""
    rows, parts = _rows_at(address)
    if row < rows.num_rows:
        _copy_row(rows, parts, row, out)
        return False
    return row != NONE


@kernel()
def gather(address, ids, first, end, out):
    """Copy the rows of ids[first:end] to memory; the row of ids[i] goes to `out` + i * row_bytes.

    The place of an id that is NONE is left unchanged. Returns whether an id is outside the table.
    """
    rows, parts = _rows_at(address)
    num_rows, row_bytes = np.uint32(rows.num_rows), rows.row_bytes
    lines = min(-(-row_bytes // LINE), _MOST_LINES)
    is_foreign, ahead = False, first
    for i in range(first, end):
        while ahead < min(i + _AHEAD, end):
            if ids[ahead] < num_rows:
                start = _address(rows, parts, np.int64(ids[ahead]))
                for line in range(lines):
                    prefetch(start + np.uint64(LINE * line))
            ahead += 1
        if ids[i] < num_rows:
            _copy_row(rows, parts, np.int64(ids[i]), out + i * row_bytes)
        elif ids[i] != _NONE:
            is_foreign = True
    return is_foreign


@kernel()
def read_cached(address, ids, out, missing):
    """Read the rows that are in the page cache, as `gather` does; write the positions of the others into `missing`.

    Returns the number of missing rows, or -1 if an id is outside the table.
    """
    rows, parts = _rows_at(address)
    row_bytes, count = rows.row_bytes, 0
    vector = np.empty(2, np.int64)
    for i in range(ids.size):
        if ids[i] == _NONE:
            continue
        row = np.int64(ids[i])
        if row >= rows.num_rows:
            return -1
        part = row // rows.rows_per_part
        at = parts[part].start + (row - part * rows.rows_per_part) * row_bytes
        vector[0], vector[1] = out + i * row_bytes, row_bytes
        if _c_preadv2(parts[part].descriptor, vector.ctypes.data, 1, at, _NOWAIT) != row_bytes:
            missing[count] = i
            count += 1
    return count


@kernel()
def read_missing(address, ids, out, missing):
    """Read the rows at the positions `missing` from the disk: request all of them, then wait for each.

    Returns the position of the first row that could not be read, or -1.
    """
    rows, parts = _rows_at(address)
    row_bytes = rows.row_bytes
    for is_waiting in (False, True):
        for i in missing:
            row = np.int64(ids[i])
            part = row // rows.rows_per_part
            descriptor = parts[part].descriptor
            at = parts[part].start + (row - part * rows.rows_per_part) * row_bytes
            if not is_waiting:
                _c_fadvise(descriptor, at, row_bytes, _WILL_NEED)
            elif _c_pread(descriptor, out + i * row_bytes, row_bytes, at) != row_bytes:
                return i
    return -1


def described(num_rows: int, row_bytes: int, rows_per_part: int, parts: Sequence[tuple[int, int, int]]) -> U8:
    """Build the record of a table's rows whose address the kernels take: see `_ROWS` and `_PART`."""
    rows = np.array([(num_rows, row_bytes, max(1, rows_per_part), len(parts))], _ROWS)
    return np.concatenate([rows.view(np.uint8), np.array(parts, _PART).view(np.uint8)])


# ---- where rows lie ----------------------------------------------------------------------------------------------

_CHUNK = 256  # rows per timed copy: at most so many are read page by page from the disk before that is noticed
_CAREFUL = 64  # reads in a row without a missing page, after which rows are copied from the mapped files again
_SLOW = (50e-6, 3e-6)  # seconds per call and per row: a copy that takes longer has read the disk


@dataclass(frozen=True)
class Part:
    """The rows of one file; they begin at its byte `start`."""

    file: StoredFile
    start: int
    num_rows: int


class RowsInMemory(Addressed):
    """All rows of a table in memory, read once, in huge pages if the system has them."""

    def __init__(self, parts: Sequence[Part], row_bytes: int) -> None:
        num_rows = sum(part.num_rows for part in parts)
        self._rows = large_pages(num_rows * row_bytes)
        start = 0
        for part in parts:
            end = start + part.num_rows * row_bytes
            part.file.read_into(self._rows[start:end], part.start)
            start = end
        self._num_rows = num_rows
        self._described = described(num_rows, row_bytes, num_rows, [(int(self._rows.ctypes.data), -1, 0)])
        self._address = int(self._described.ctypes.data)

    def read(self, ids: U32, out: int) -> None:
        """Copy the rows of `ids` to memory from the address `out` on; the place of an id that is NONE is left unchanged.

        Raises:
            IndexError: an id is outside the table.
        """
        one = ids.size == 1
        if gather_one(self._address, ids.item(), out) if one else gather(self._address, ids, 0, ids.size, out):
            raise foreign(ids, self._num_rows)

    def compile(self) -> None:
        """Compile the kernels, or load them from the disk, so that the first `read` does not have to."""
        _compile_gathering(self._address)


class RowsInFiles(Addressed):
    """Rows of a table that stay in their files.

    While the page cache has every row that is asked for, rows are copied from the mapped files. A copy that takes longer
    than memory alone can explain has read the disk, one page after the other. The next reads are then careful
    (`read_cached`, then `read_missing`) until no row has been missing for a while. Files that cannot be mapped are always
    read carefully.
    """

    def __init__(self, parts: Sequence[Part], row_bytes: int) -> None:
        self._parts, self._row_bytes = parts, row_bytes
        self._is_mapped = all(part.file.can_be_mapped for part in parts)
        begins = [int(part.file.bytes.ctypes.data) if self._is_mapped else 0 for part in parts]
        places = [(at + part.start, part.file.descriptor, part.start) for at, part in zip(begins, parts, strict=True)]
        self._num_rows = sum(part.num_rows for part in parts)
        self._described = described(self._num_rows, row_bytes, parts[0].num_rows if parts else 0, places)
        self._address = int(self._described.ctypes.data)
        self._careful = _CAREFUL if CAN_READ_WITHOUT_WAITING else 0  # number of careful reads still to do

    def read(self, ids: U32, out: int) -> None:
        """Copy the rows of `ids` to memory from the address `out` on; the place of an id that is NONE is left unchanged.

        Raises:
            IndexError: an id is outside the table.
            DamagedArtifact: a file has become shorter since it was opened.
            StorageFailure: the disk fails.
        """
        for first in range(0, ids.size, _CHUNK):
            end = min(first + _CHUNK, ids.size)
            if self._careful or not self._is_mapped:
                self._read_carefully(ids[first:end], out + first * self._row_bytes)
                continue
            started = time.perf_counter()
            one = ids.size == 1
            if gather_one(self._address, ids.item(), out) if one else gather(self._address, ids, first, end, out):
                raise foreign(ids, self._num_rows)
            if CAN_READ_WITHOUT_WAITING and time.perf_counter() - started > _SLOW[0] + _SLOW[1] * (end - first):
                self._careful = _CAREFUL

    def compile(self) -> None:
        """Compile the kernels, or load them from the disk: see `RowsInMemory.compile`."""
        _compile_gathering(self._address)
        if CAN_READ_WITHOUT_WAITING:
            places = np.empty(0, np.int64)
            read_cached(self._address, np.empty(0, np.uint32), 0, places)
            read_missing(self._address, np.empty(0, np.uint32), 0, places)

    def _read_carefully(self, ids: U32, out: int) -> None:
        missing = np.empty(ids.size, np.int64)
        count = read_cached(self._address, ids, out, missing)
        if count < 0:
            raise foreign(ids, self._num_rows)
        self._careful = _CAREFUL if count else max(0, self._careful - 1)  # threads may race here: harmless
        missing = missing[:count]
        while missing.size:
            failed = read_missing(self._address, ids, out, missing)
            if failed < 0:
                return
            self._read_one(int(ids[failed]), out + failed * self._row_bytes)  # the read may have been partial
            missing = missing[missing > failed]

    def _read_one(self, row: int, out: int) -> None:
        number, row = divmod(row, self._parts[0].num_rows)
        memory = np.ctypeslib.as_array((ctypes.c_uint8 * self._row_bytes).from_address(out))
        self._parts[number].file.read_into(memory, self._parts[number].start + row * self._row_bytes)


def _compile_gathering(address: int) -> None:
    gather_one(address, NONE, 0)
    gather(address, np.empty(0, np.uint32), 0, 0, 0)


def foreign(ids: U32, num_rows: int) -> IndexError:
    """The error for an id that is outside the table."""
    return IndexError(f"f-gram {ids[ids != _NONE].max()}: the table has {num_rows} rows")


def large_pages(size: int) -> U8:
    """Allocate memory in huge pages if the system has them: random reads then need no page-table walks.

    Raises:
        StorageFailure: there is not so much memory.
    """
    try:
        memory = mmap.mmap(-1, max(1, size))
    except OSError as error:
        raise StorageFailure(
            f"no room for {size:,} bytes in memory ({error.strerror})", "use placement mmap"
        ) from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without huge pages
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)[:size]
