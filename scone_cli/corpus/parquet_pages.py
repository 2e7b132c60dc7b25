"""Finds the largest page of a column of a Parquet file, from the headers of its pages: pyarrow tells only sums.

A page is decompressed as a whole, so a small file may ask for GBs. A header is a struct of Thrift's compact protocol
(PageHeader in parquet.thrift); what is taken of it are the bytes of the page without and with compression.
"""

from __future__ import annotations

from typing import Any

import pyarrow.parquet as pq

_SIZE, _PACKED_SIZE = 2, 3  # numbers of fields
_STOP, _BINARY, _LIST, _SET, _STRUCT = 0, 8, 9, 10, 12  # kinds of values
_FIXED = {1: 0, 2: 0, 3: 1, 7: 8}  # bytes of true, false, a byte, a double
_VARINTS = {4, 5, 6}
_AT_ONCE = (
    1 << 12
)  # bytes read of a header, which has the least and the largest text of its page: more if that is too few


def largest_page(content: Any, metadata: pq.FileMetaData, leaf: int) -> int:
    """The bytes of the largest page of a column without compression. `content`: the open file; `leaf`: the column's number.

    0 stands for a file whose headers cannot be read: who reads its rows finds the damage.
    """
    largest = 0
    for group in range(metadata.num_row_groups):
        chunk = metadata.row_group(group).column(leaf)
        at = min(chunk.dictionary_page_offset or chunk.data_page_offset, chunk.data_page_offset)
        end = at + chunk.total_compressed_size
        while at < end:
            header = _header_at(content, at)
            if header is None or header.size < 0 or header.packed_size < 0:
                return 0
            largest = max(largest, header.size)
            at += header.length + header.packed_size
    return largest


def _header_at(content: Any, at: int) -> _Header | None:
    size = _AT_ONCE
    while True:
        content.seek(at)
        data = bytes(content.read(size))
        try:
            return _Header(data)
        except IndexError:
            if len(data) < size:
                return None  # the file ends in it
            size *= 16
        except (KeyError, RecursionError):
            return None


class _Header:
    """The sizes in a header, and its own length. Raises IndexError if `data` ends in it, KeyError if it is none."""

    def __init__(self, data: bytes) -> None:
        self._data, self.length = data, 0
        numbers = self._struct()
        self.size, self.packed_size = numbers[_SIZE], numbers[_PACKED_SIZE]

    def _struct(self) -> dict[int, int]:
        """Read a struct; returns its whole numbers by the numbers of their fields."""
        numbers, field = dict[int, int](), 0
        while (head := self._byte()) != _STOP:
            delta, kind = head >> 4, head & 15
            field = field + delta if delta else self._number()
            if kind in _VARINTS:
                numbers[field] = self._number()
            else:
                self._skip(kind)
        return numbers

    def _skip(self, kind: int) -> None:
        if kind in _VARINTS:
            self._varint()
        elif kind == _BINARY:
            self._jump(self._varint())
        elif kind == _STRUCT:
            self._struct()
        elif kind in (_LIST, _SET):
            head = self._byte()
            for _ in range(head >> 4 if head >> 4 < 15 else self._varint()):
                self._skip(head & 15)
        else:
            self._jump(_FIXED[kind])

    def _number(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)  # zigzag

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    def _byte(self) -> int:
        self.length += 1
        return self._data[self.length - 1]

    def _jump(self, num_bytes: int) -> None:
        self.length += num_bytes
        if self.length > len(self._data):
            raise IndexError
