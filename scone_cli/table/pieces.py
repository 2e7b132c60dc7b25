"""All f-grams in the order of their tokens, cut into pieces, and where the rows of a piece go.

One machine writes each row to its place in the finished files (`InPlace`). Several machines must not: rows of one piece lie
scattered, and a shared folder (NFS) may write back a whole page where only some bytes of it changed, and with it what
another machine had written there before. So there every piece becomes a file of its own (`PieceFiles`), and afterwards each
file of the table is put together by one task (`gather`). That takes twice the disk, and reads and writes every row again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from scone_cli.arrays import I64
from scone_cli.artifacts.publish import beside_of, fsync, write_atomically
from scone_cli.table.row_files import RowFiles
from scone_cli.table.row_formats import Raw

MIB = 1 << 20
PIECE_BYTES = 16 * MIB  # of rows: a crash loses the few pieces under way in each process
_MOST_PARTS = 32  # in a group: a part is 256 MiB of rows


@dataclass(frozen=True)
class Pieces:
    """F-gram ids in the order of their tokens, in pieces of `size`."""

    order: I64
    size: int

    def __len__(self) -> int:
        return (len(self.order) + self.size - 1) // self.size

    def __getitem__(self, piece: int) -> I64:
        return self.order[self.size * piece : self.size * (piece + 1)]


def piece_size(row_bytes: int, at_a_time: int) -> int:
    """F-grams in a piece of about `PIECE_BYTES` of rows: a whole number of batches of `at_a_time`."""
    return at_a_time * max(1, PIECE_BYTES // (row_bytes * at_a_time))


class Store(Protocol):
    """Where rows go; a piece that it has is not computed again."""

    def has(self, piece: int) -> bool:
        """Whether the rows of a piece are there."""

    def write(self, piece: int, ids: I64, raw: Raw) -> None:
        """Write the rows raw[i] of the f-grams ids[i], which are a piece."""


@dataclass(frozen=True)
class InPlace:
    """Rows in their places in the files of the table; `marks` is the folder of the marks of finished pieces of `size`."""

    files: RowFiles
    marks: Path
    size: int

    def has(self, piece: int) -> bool:
        """Whether a piece is marked."""
        return self._mark(piece).exists()

    def write(self, piece: int, ids: I64, raw: Raw) -> None:
        """Write the rows, then the mark."""
        self.files.write(ids, raw)
        write_atomically(self._mark(piece), b"")

    def _mark(self, piece: int) -> Path:
        """The mark of a piece; its name has the piece size, which differs between kinds of device."""
        return self.marks / f"piece-{piece:06d}-of-{self.size}"


@dataclass(frozen=True)
class PieceFiles:
    """A file for each piece of `size`, with its rows of `row_bytes` in the order of their ids."""

    folder: Path
    row_bytes: int
    size: int

    def has(self, piece: int) -> bool:
        """Whether a piece has its file, which appears whole."""
        return self._path(piece).exists()

    def write(self, piece: int, ids: I64, raw: Raw) -> None:
        """Write the rows, sorted."""
        path = self._path(piece)
        beside = beside_of(path)
        raw[np.argsort(ids)].tofile(beside)
        fsync(beside)
        beside.replace(path)

    def read(self, piece: int, first: int, last: int) -> Raw:
        """The rows of the first-th to the last-th smallest id, without the last."""
        offset, size = first * self.row_bytes, (last - first) * self.row_bytes
        return np.fromfile(self._path(piece), np.uint8, size, offset=offset).reshape(-1, self.row_bytes)

    def _path(self, piece: int) -> Path:
        return self.folder / f"piece-{piece:06d}-of-{self.size}.rows"


def part_groups(files: RowFiles, room: int, num_workers: int) -> list[range]:
    """Consecutive files of a table in groups for `gather`, which fit into `room` bytes, and are enough for all workers.

    Larger groups read more of a piece at once.
    """
    fitting = room // (files.rows_per_part * files.row_bytes)
    size = max(1, min(_MOST_PARTS, fitting, -(-files.num_parts // num_workers)))
    parts = range(files.num_parts)
    return [parts[first : first + size] for first in range(0, len(parts), size)]


def gather(pieces: Pieces, store: PieceFiles, files: RowFiles, parts: Sequence[int]) -> None:
    """Put together the files `parts` (consecutive numbers) of a table from all pieces; they are in memory meanwhile."""
    first, last = files.rows_per_part * parts[0], min(files.rows_per_part * (parts[-1] + 1), files.num_rows)
    raw = np.empty((last - first, files.row_bytes), np.uint8)
    for piece in range(len(pieces)):
        ids = pieces[piece]
        begin, inside = int(np.count_nonzero(ids < first)), np.sort(ids[(ids >= first) & (ids < last)])
        if inside.size:
            raw[inside - first] = store.read(piece, begin, begin + inside.size)
    for part in parts:
        begin = files.rows_per_part * part - first
        files.write_part(part, raw[begin : begin + files.rows_per_part])
