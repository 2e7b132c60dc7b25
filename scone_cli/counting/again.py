"""Counts a bucket that is larger than memory: it is dealt again, by three tokens, into parts that are counted alone.

One pair of tokens may begin 1% of all records, and at a trillion tokens every bucket has some 244M. A bucket is read once,
in pieces. Its n-grams of two tokens are counted exactly in a table. At the same time the records are dealt into parts by
their first three tokens, on disk. All occurrences of a longer n-gram are in one part, so `aggregate.count_buckets` counts
the part for n >= 3: a prefix is frequent in the part if the n-gram is. Should a part be too large still, because one
n-gram of three tokens repeats so often, the part is dealt again by four tokens, and so on.
"""

# numba infers the types of kernels.
# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from scone_cli.counting.aggregate import count_buckets
from scone_cli.counting.partition import I64, U32, Records, flag_place
from scone_cli.counting.sort import Ngrams
from scone_cli.errors import BadData
from scone_cli.runtime.kernel_cache import kernel

_NONE = np.uint32(0xFFFFFFFF)
_MIX = np.uint64(0x9FB21C651E98DF25)  # odd, and none of the multipliers of buckets and of their tables
_32 = np.uint64(32)
_64 = 64
_ONE = np.uint64(1)
_PART_RECORDS = 100_000  # so that the tables that count a part fit the L2 cache
_MOST_BITS = 12
_FIRST_ENTRIES = 1 << 10
_MOST_ROWS = 0xFFFFFFFF  # of n-grams in one bucket


@kernel(inline="always")
def _hash(record, mask, length):
    mixed = np.uint64(record[0] & mask) * _MIX
    for k in range(1, length):
        mixed = ((mixed ^ (mixed >> _32)) + np.uint64(record[k])) * _MIX
    return mixed ^ (mixed >> _32)


# ---- counting the n-grams of one length exactly, piece by piece --------------------------------------------------


@kernel()
def _tally_while_room(records, max_n, length, begin, doc, table):
    """Count records [begin, …) until the entries are full; returns where it stopped, the document, the number of entries."""
    slots, grams, counts, docs, last_doc, used = table
    column, first = flag_place(records, max_n)
    top = 8 * records.itemsize - 1
    pad = records.dtype.type(~records.dtype.type(0))
    mask = np.uint64(slots.size - 1)
    for i in range(begin, records.shape[0]):
        if records[i, length - 1] == pad:  # too short
            doc += np.uint32(records[i, column] >> top)
            continue
        at = _hash(records[i], first, length) & mask
        while slots[at] != _NONE:
            entry, same = slots[at], True
            for k in range(length):
                same &= grams[entry, k] == (records[i, k] & first if k == 0 else records[i, k])
            if same:
                break
            at = (at + _ONE) & mask
        if slots[at] == _NONE:
            if used == counts.size:
                return i, doc, used
            slots[at] = used
            for k in range(length):
                grams[used, k] = records[i, k] & first if k == 0 else records[i, k]
            used += 1
        doc += np.uint32(records[i, column] >> top)
        entry = slots[at]
        counts[entry] += _ONE
        docs[entry] += np.uint32(last_doc[entry] != doc)
        last_doc[entry] = doc
    return records.shape[0], doc, used


@kernel()
def _slots_of(grams, used, size):
    """Places of the entries in a hash table of `size` slots (a power of two)."""
    slots, mask = np.full(size, _NONE, np.uint32), np.uint64(size - 1)
    for entry in range(used):
        at = _hash(grams[entry], _NONE, grams.shape[1]) & mask
        while slots[at] != _NONE:
            at = (at + _ONE) & mask
        slots[at] = entry
    return slots


class _Table:
    """The n-grams of one length, with their occurrences and documents."""

    def __init__(self, length: int) -> None:
        self.length, self._used, self._doc = length, 0, np.uint32(0)
        self._columns: list[Any] = [np.zeros((_FIRST_ENTRIES, length), np.uint32), np.zeros(_FIRST_ENTRIES, np.uint64)]
        self._columns += [np.zeros(_FIRST_ENTRIES, np.uint32), np.zeros(_FIRST_ENTRIES, np.uint32)]
        self._slots = np.full(2 * _FIRST_ENTRIES, _NONE, np.uint32)

    def add(self, records: Records, max_n: int) -> None:
        """Count the n-grams of a piece.

        Raises:
            BadData: there are more n-grams than rows.
        """
        begin = 0
        while True:
            table = (self._slots, *self._columns, self._used)
            begin, doc, self._used = _tally_while_room(records, max_n, self.length, begin, self._doc, table)
            self._doc = np.uint32(doc)
            if begin == len(records):
                return
            if 2 * self._used > _MOST_ROWS:
                raise BadData(
                    f"more than {self._used:,} different n-grams of one bucket begin with the same few tokens: their rows "
                    f"have 32 bits, expected at most {_MOST_ROWS:,}",
                    "leave these tokens out with --exclude-tokens, or count a part of the corpus",
                )
            self._columns = [np.concatenate([column, np.zeros_like(column)]) for column in self._columns]
            self._slots = _slots_of(self._columns[0], self._used, 2 * self._slots.size)

    def frequent(self, min_count: int, min_docs: int) -> Ngrams:
        grams, counts, docs, _ = (column[: self._used] for column in self._columns)
        kept = np.flatnonzero((counts >= min_count) & (docs >= min_docs))
        kept = kept[np.lexsort(grams[kept].T[::-1])]
        return Ngrams(grams[kept], counts[kept], docs[kept])


# ---- dealing -----------------------------------------------------------------------------------------------------


@kernel()
def _choose(records, max_n, length, bits, doc, where, docs, offsets):
    """The part and the document of every record, and the offsets of the parts; records without a last token get no part."""
    column, first = flag_place(records, max_n)
    top = 8 * records.itemsize - 1
    pad = records.dtype.type(~records.dtype.type(0))
    shift = np.uint64(_64 - bits)
    for i in range(records.shape[0]):
        doc += np.uint32(records[i, column] >> top)
        docs[i], where[i] = doc, _NONE
        if records[i, length - 1] != pad:
            where[i] = _hash(records[i], first, length) * _MIX >> shift
            offsets[where[i] + 1] += 1
    for after in range(1, offsets.size):
        offsets[after] += offsets[after - 1]
    return doc


@kernel()
def _scatter(records, max_n, where, docs, last_doc, ends, dealt):
    column, first = flag_place(records, max_n)
    top = 8 * records.itemsize - 1
    for i in range(records.shape[0]):
        part = where[i]
        if part == _NONE:
            continue
        at = ends[part]
        ends[part] = at + 1
        for k in range(records.shape[1]):
            dealt[at, k] = records[i, k]
        flag = np.uint32(last_doc[part] != docs[i]) << top
        last_doc[part] = docs[i]
        dealt[at, column] = flag | (np.uint32(records[i, 0] & first) if column == 0 else np.uint32(0))


class _Dealer:
    """Deals pieces of a bucket, in order, into 2**bits parts by their first `length` tokens, as `partition.Dealer` does."""

    def __init__(self, length: int, max_n: int, bits: int) -> None:
        self._shape, self._doc, self._last_doc = (length, max_n, bits), np.uint32(0), np.zeros(1 << bits, np.uint32)

    def deal(self, records: Records) -> tuple[Records, I64]:
        """The records of a piece, part after part, and the offsets of the parts [2**bits + 1]."""
        length, max_n, bits = self._shape
        where, docs = np.empty(len(records), np.uint32), np.empty(len(records), np.uint32)
        offsets = np.zeros((1 << bits) + 1, np.int64)
        self._doc = np.uint32(_choose(records, max_n, length, bits, self._doc, where, docs, offsets))
        dealt = np.empty((int(offsets[-1]), records.shape[1]), records.dtype)
        _scatter(records, max_n, where, docs, self._last_doc, offsets[:-1].copy(), dealt)
        return dealt, offsets


# ---- what others call ---------------------------------------------------------------------------------------------

Segments = Sequence[tuple[Path, I64]]  # files of records, and where in them each part begins


@dataclass(frozen=True)
class Files:
    """How records are read and written: a group of parts as a whole, or one part in pieces; and the most that a group has."""

    read: Callable[[Segments, int], tuple[Records, I64]]
    pieces: Callable[[Segments], Iterable[Records]]
    folder: Path
    most: int


def count_again(
    files: Files, segments: Segments, max_n: int, min_count: int, min_docs: int, length: int = 2
) -> Iterator[list[Ngrams]]:
    """Count one bucket whose n-grams of `length` tokens and more are all in it: lists of n-grams of 2 to `max_n` tokens.

    An n-gram is in one of the lists only. Those with the same first two tokens may be in many of them, in any order.
    """
    num_records = sum(int(offsets[-1] - offsets[0]) for _, offsets in segments)
    bits = min(max(1, math.ceil(math.log2(num_records / min(_PART_RECORDS, files.most)))), _MOST_BITS)
    table, dealer = _Table(length), _Dealer(length + 1, max_n, bits)
    dealt: list[tuple[Path, I64]] = []
    try:
        for number, records in enumerate(files.pieces(segments)):
            table.add(records, max_n)
            if length < max_n:
                path = files.folder / f"again-{length}-{number}"
                some, offsets = dealer.deal(records)
                some.tofile(path)
                dealt.append((path, offsets))
        yield _with_none(table.frequent(min_count, min_docs), max_n)
        del table
        sizes = np.sum([np.diff(offsets) for _, offsets in dealt], axis=0) if dealt else np.zeros(0, np.int64)
        for first, last in _ranges(sizes, files.most):
            inside = [(path, offsets[first : last + 1]) for path, offsets in dealt]
            if sizes[first:last].sum() > files.most:
                yield from count_again(files, inside, max_n, min_count, min_docs, length + 1)
                continue
            levels = count_buckets(*files.read(inside, int(sizes[first:last].sum())), max_n, min_count, min_docs)
            yield [ngrams if n > length else ngrams[_NOTHING] for n, ngrams in enumerate(levels, 2)]
    finally:
        for path, _ in dealt:
            path.unlink(missing_ok=True)


_NOTHING: U32 = np.empty(0, np.uint32)


def nothing(max_n: int) -> list[Ngrams]:
    """No n-grams, of 2 to `max_n` tokens."""
    counts, docs = np.empty(0, np.uint64), np.empty(0, np.uint32)
    return [Ngrams(np.empty((0, n), np.uint32), counts, docs) for n in range(2, max_n + 1)]


def _with_none(ngrams: Ngrams, max_n: int) -> list[Ngrams]:
    """N-grams of one length, and none of the other lengths."""
    return [ngrams if n == ngrams.tokens.shape[1] else each for n, each in enumerate(nothing(max_n), 2)]


def _ranges(sizes: npt.NDArray[np.int64], most: int) -> Iterator[tuple[int, int]]:
    """Ranges of parts with at most `most` records together, or of one part that has more; empty ones are left out."""
    first, size = 0, 0
    for part, records in enumerate([*sizes.tolist(), most + 1]):
        if size + records > most:
            if size:
                yield first, part
            first, size = part, 0
        size += records
