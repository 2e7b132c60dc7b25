"""Reads one column of a Parquet or Arrow file, a few rows at a time: of text in `readers.py`, of token ids in `token_files.py`.

Arrow files are those of IPC: streams, as `datasets.save_to_disk` writes them, and files with an index (Feather 2). They are
mapped into memory, so that the rows of a large record batch need no memory of their own; a batch that was compressed does.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from scone_cli.artifacts.opening import to_read
from scone_cli.corpus.formats import PARQUET
from scone_cli.corpus.parquet_pages import largest_page
from scone_cli.errors import BadData

_ROWS = 256
_FILE_MARK = b"ARROW1"


class Rows(NamedTuple):
    """Some rows of one column; `first` is the number of the first row in the file, `low` and `high` are shares of the file."""

    first: int
    values: pa.Array
    low: float
    high: float


class Columns(Protocol):
    """An open file of columns; it is divided into units: row groups, or record batches."""

    schema: pa.Schema
    num_units: int

    def rows(self, column: str, first: int, last: int) -> Iterator[Rows]:
        """The rows of the units first..last. Damage raises `BadData`."""

    def num_values(self, column: str) -> int:
        """The number of values in the lists of a column."""

    def largest_page(self, column: str) -> int:
        """Bytes that must be in memory at once to read a column of text; 0 if that is not known."""


@contextlib.contextmanager
def open_columns(kind: str, path: str, location: str) -> Iterator[Columns]:
    """Open a file of kind PARQUET or ARROW; `location` is its name in messages.

    Raises:
        BadData: it is not such a file, or is damaged.
        OSError: it cannot be opened.
    """
    if kind == PARQUET:
        file = to_read(path)
        yield _Parquet(file, location)
    else:
        with open(path, "rb") as raw:
            yield _Arrow(raw, location)


def columns_of(kind: str, content: BinaryIO, location: str) -> Columns:
    """The columns of an open file that can be sought in; see `open_columns`."""
    return _Parquet(content, location) if kind == PARQUET else _Arrow(content, location)


def column_type(schema: pa.Schema, name: str, location: str) -> pa.DataType:
    """The type of the column `name`, which must exist.

    Raises:
        BadData: several columns have this name.
    """
    places = schema.get_all_field_indices(name)
    if len(places) > 1:
        raise BadData(f"{location}: {len(places)} columns are called '{name}'", "give each column a name of its own")
    return schema.field(places[0]).type


@contextlib.contextmanager
def _damage(location: str, kind: str) -> Iterator[None]:
    """Turn any error of pyarrow about a file into `BadData`."""
    try:
        yield
    except (MemoryError, BadData):
        raise
    except Exception as error:  # damaged pages raise OSError, names with invalid UTF-8 raise UnicodeDecodeError
        cause = " ".join(str(error).split())
        raise BadData(
            f"{location}: not {kind} file, or a damaged one ({cause})", "get or make the file again"
        ) from error


class _Parquet:
    def __init__(self, content: BinaryIO | pa.NativeFile, location: str) -> None:
        self._content, self._location = content, location
        with _damage(location, "a Parquet"):
            # No whole row group is held in memory.
            self._reader = pq.ParquetFile(content, pre_buffer=False, buffer_size=1 << 20)
            self.schema, self.num_units = self._reader.schema_arrow, self._reader.metadata.num_row_groups

    def rows(self, column: str, first: int, last: int) -> Iterator[Rows]:
        metadata = self._reader.metadata
        row, total = sum(metadata.row_group(group).num_rows for group in range(first)), max(1, metadata.num_rows)
        groups = list(range(first, last))
        batches = self._reader.iter_batches(_ROWS, row_groups=groups, columns=[column], use_threads=False)
        while True:
            with _damage(self._location, "a Parquet"):
                batch = next(batches, None)
            if batch is None:
                return
            values = batch.column(column)  # by name: a field of a struct may have the same path
            yield Rows(row, values, row / total, (row + len(values)) / total)
            row += len(values)

    def num_values(self, column: str) -> int:
        metadata, leaf = self._reader.metadata, self._leaf(column)
        return sum(metadata.row_group(group).column(leaf).num_values for group in range(self.num_units))

    def largest_page(self, column: str) -> int:
        with _damage(self._location, "a Parquet"):
            return largest_page(self._content, self._reader.metadata, self._leaf(column))

    def _leaf(self, column: str) -> int:
        metadata, schema = self._reader.metadata, self._reader.schema
        paths = [schema.column(leaf).path for leaf in range(metadata.num_columns)]
        return next(i for i, path in enumerate(paths) if f"{path}.".startswith(f"{column}."))


class _Arrow:
    def __init__(self, content: BinaryIO, location: str) -> None:
        self._location = location
        with _damage(location, "an Arrow"):
            self._content = pa.py_buffer(mmap.mmap(content.fileno(), 0, access=mmap.ACCESS_READ))
            self._is_file = self._content[: len(_FILE_MARK)].to_pybytes() == _FILE_MARK
            if self._is_file:
                file = pa.ipc.open_file(self._content)
                self.schema, self.num_units = file.schema, file.num_record_batches
            else:
                self.schema = pa.ipc.open_stream(self._content).schema
                messages = pa.ipc.MessageReader.open_stream(self._content)
                self.num_units = sum(message.type == "record batch" for message in messages)

    def rows(self, column: str, first: int, last: int) -> Iterator[Rows]:
        row = 0
        for unit, values in enumerate(self._columns(column, last)):
            if unit >= first:
                for start in range(0, len(values), _ROWS):
                    piece = values.slice(start, _ROWS)
                    low, high = start / len(values), (start + len(piece)) / len(values)
                    yield Rows(row + start, piece, (unit + low) / self.num_units, (unit + high) / self.num_units)
            row += len(values)

    def num_values(self, column: str) -> int:
        return sum(len(values.flatten()) for values in self._columns(column, self.num_units))

    def largest_page(self, column: str) -> int:  # noqa: ARG002
        return 0

    def _columns(self, column: str, last: int) -> Iterator[pa.Array]:
        """The column in each of the first `last` record batches; other columns are not decompressed."""
        with _damage(self._location, "an Arrow"):
            options = pa.ipc.IpcReadOptions(use_threads=False, included_fields=[self.schema.get_field_index(column)])
            opened = (pa.ipc.open_file if self._is_file else pa.ipc.open_stream)(self._content, options=options)
        for unit in range(last):
            with _damage(self._location, "an Arrow"):
                batch = opened.get_batch(unit) if self._is_file else opened.read_next_batch()
                values = batch.column(0)
                _check(values)
            yield values


def _check(values: pa.Array) -> None:
    """Raise ArrowInvalid where an offset points outside: pyarrow would read there. Invalid UTF-8 is a bad document, no damage."""
    plain = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary(), pa.string_view(): pa.binary_view()}
    if pa.types.is_dictionary(values.type):
        words = values.dictionary
        words = words.view(plain.get(words.type, words.type))
        values = pa.DictionaryArray.from_arrays(values.indices, words, safe=True)
    values.view(plain.get(values.type, values.type)).validate(full=True)
