"""Kernels that deal the positions of a text into buckets by their first two tokens: the map step of counting.

A *record* holds the K tokens that begin at a position, and a flag. All n-grams that begin with the same two tokens are in
the same bucket. So each bucket can be counted alone for n = 2..K, and the corpus is read only once.
"""

# numba infers the types of kernels.
# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scone_cli.runtime.kernel_cache import kernel

U8 = npt.NDArray[np.uint8]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
Tokens = npt.NDArray[np.uint16] | U32
Records = npt.NDArray[np.uint16] | U32
# The firsts and lasts of segments of documents, ascending, and the number of the document of each.
Segments = tuple[I64, I64, U32]

_NONE = np.uint32(0xFFFFFFFF)
# Odd, and not the multiplier of the tables inside a bucket: the keys of one bucket share the high bits of this product.
_MIX = np.uint64(0xD6E8FEB86659FD93)
_32 = np.uint64(32)
_64 = 64
_ONE = np.uint64(1)


@kernel(inline="always")
def flag_place(records, max_n):
    """Where a record keeps its flag: in the highest bit of the returned column; also returns the mask of a first token."""
    ones = records.dtype.type(~records.dtype.type(0))
    if records.shape[1] == max_n:
        return 0, ones >> 1
    return max_n, ones


# ---- dealing -----------------------------------------------------------------------------------------------------


@kernel()
def _split_runs(tokens, firsts, lasts, doc_of, excluded):
    """Cut segments [first, last) at excluded tokens; returns the runs between them, and the document of each run."""
    num_runs = firsts.size
    for segment in range(firsts.size):
        for i in range(firsts[segment], lasts[segment]):
            num_runs += excluded[tokens[i]]
    run_firsts, run_lasts = np.empty(num_runs, np.int64), np.empty(num_runs, np.int64)
    docs = np.empty(num_runs, np.uint32)
    run = 0
    for segment in range(firsts.size):
        first = firsts[segment]
        for i in range(firsts[segment], lasts[segment] + 1):
            if i == lasts[segment] or excluded[tokens[i]]:
                run_firsts[run], run_lasts[run], docs[run] = first, i, doc_of[segment]
                run += 1
                first = i + 1
    return run_firsts, run_lasts, docs


@kernel()
def _choose(tokens, firsts, lasts, begin, end, bits, where, offsets):
    """Compute the bucket of every position in [begin, end) that has a next token in its run, and the buckets' offsets."""
    shift = np.uint64(_64 - bits)
    for run in range(firsts.size):
        for i in range(max(firsts[run], begin), min(lasts[run] - 1, end)):
            bucket = (np.uint64(tokens[i]) << _32 | np.uint64(tokens[i + 1])) * _MIX >> shift
            where[i - begin] = bucket
            offsets[bucket + _ONE] += 1
    for after in range(1, offsets.size):
        offsets[after] += offsets[after - 1]


@kernel()
def _scatter(tokens, firsts, lasts, docs, begin, end, where, last_doc, ends, records, width):
    column, _ = flag_place(records, width)
    top = 8 * records.itemsize - 1
    pad = records.dtype.type(~records.dtype.type(0))
    for run in range(firsts.size):
        doc = docs[run]
        for i in range(max(firsts[run], begin), min(lasts[run] - 1, end)):
            bucket = where[i - begin]
            at = ends[bucket]
            ends[bucket] = at + 1
            if i + width > lasts[run]:
                for k in range(width):
                    records[at, k] = tokens[i + k] if i + k < lasts[run] else pad
            elif width == 5:  # the usual width, unrolled: a third faster
                records[at, 0] = tokens[i]
                records[at, 1] = tokens[i + 1]
                records[at, 2] = tokens[i + 2]
                records[at, 3] = tokens[i + 3]
                records[at, 4] = tokens[i + 4]
            else:
                for k in range(width):
                    records[at, k] = tokens[i + k]
            flag = np.uint32(last_doc[bucket] != doc) << top
            last_doc[bucket] = doc
            records[at, column] = flag | (tokens[i] if column == 0 else 0)


@dataclass
class Dealer:
    """Deals the positions of one shard of documents into 2**bits buckets, a block of positions at a time.

    The flag of a record says that it is the first record of its document in its bucket. Nothing else marks where a document
    begins, so the blocks of a shard must be read in order.
    """

    tokens: Tokens
    runs: tuple[I64, I64, U32]
    max_n: int
    bits: int
    last_doc: U32

    @classmethod
    def of(cls, tokens: Tokens, segments: Segments, excluded: U8, max_n: int, bits: int) -> Dealer:
        """A dealer for the documents whose segments are tokens[first:last].

        No n-gram crosses the end of a segment or contains an id t with excluded[t] set.
        """
        runs = _split_runs(tokens, *segments, excluded) if excluded.any() else segments
        return cls(tokens, runs, max_n, bits, np.full(1 << bits, _NONE, np.uint32))

    def deal(self, begin: int, end: int, where: U32, records: Records) -> I64:
        """Fill `records` [>= end - begin, columns of `plan.record_layout`] with the positions in [begin, end).

        `where` [>= end - begin] is a scratch buffer. Returns offsets [2**bits + 1]: bucket b has the records
        offsets[b]..offsets[b + 1].
        """
        firsts, lasts, docs = self.runs
        low = np.searchsorted(lasts, begin, side="right")
        high = np.searchsorted(firsts, end, side="left")
        firsts, lasts, docs = firsts[low:high], lasts[low:high], docs[low:high]
        offsets = np.zeros((1 << self.bits) + 1, np.int64)
        _choose(self.tokens, firsts, lasts, begin, end, self.bits, where, offsets)
        _scatter(
            self.tokens, firsts, lasts, docs, begin, end, where, self.last_doc, offsets[:-1].copy(), records, self.max_n
        )
        return offsets


@kernel()
def _count_tokens(tokens, firsts, lasts, doc_of, counts, docs):
    last_doc = np.full(counts.size, _NONE, np.uint32)
    for segment in range(firsts.size):
        for i in range(firsts[segment], lasts[segment]):
            token = tokens[i]
            counts[token] += _ONE
            docs[token] += np.uint32(last_doc[token] != doc_of[segment])
            last_doc[token] = doc_of[segment]


def count_tokens(tokens: Tokens, segments: Segments, num_tokens: int) -> tuple[U64, U32]:
    """Count the occurrences and the distinct documents of every token id in the segments of documents: two [V]."""
    counts, docs = np.zeros(num_tokens, np.uint64), np.zeros(num_tokens, np.uint32)
    _count_tokens(tokens, *segments, counts, docs)
    return counts, docs
