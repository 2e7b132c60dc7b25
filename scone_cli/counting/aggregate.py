"""Kernels that count the n-grams of one bucket for all n, and sort the frequent ones: the reduce step of counting.

An n-gram's key is its prefix's row and its last token: 64 bits, exact for every n. For each n there are three passes. First,
every key raises its counter in a small filter. Second, keys whose counter stays below the minimum are dropped, because they
cannot be frequent. Third, the few distinct keys that are left are counted exactly in a hash table that stays in the cache.
Only records whose prefix is frequent go on to n + 1. Buckets and records are those of `partition`; a bucket that is larger than
memory is dealt into parts first (`again`).
"""

# numba infers the types of kernels.
# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

import numpy as np

from scone_cli.counting.partition import I64, Records, flag_place
from scone_cli.counting.sort import Ngrams, radix_order
from scone_cli.runtime.kernel_cache import kernel

_NONE = np.uint32(0xFFFFFFFF)
_EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)  # marks an empty slot: no row is so large, so no key has this value
_MIX = np.uint64(0x9E3779B97F4A7C15)
_29 = np.uint64(29)
_32 = np.uint64(32)
_64 = 64
_ONE = np.uint64(1)
_MOST = np.uint8(255)  # the largest value of a filter counter
_FIRST_SLOTS_BITS = 11
_SMALL_DIGIT_BITS = 8  # one bucket has only a few thousand keys to sort
_LEAST_FILTER_BITS = 8
_MOST_FILTER_BITS = 22  # 4 MiB: larger would not fit any cache


@kernel(inline="always")
def _hash(key):
    return (key ^ (key >> _29)) * _MIX


@kernel(inline="always")
def _raise_counter(counters, key, shift, by):
    at = _hash(key) >> shift
    counters[at] += np.uint8(counters[at] != _MOST) & by


@kernel()
def _begin(records, max_n, begins, ends, keys, live, counters, shift):
    """Write the 2-gram key of every record of a bucket, whose segments are [begins[s], ends[s]); returns the number of keys.

    A live record is row << 32 | document. Documents are numbered from 1 in the order of the records.
    """
    column, mask = flag_place(records, max_n)
    top = 8 * records.itemsize - 1
    doc = np.uint32(0)
    size = 0
    for segment in range(begins.size):
        for i in range(begins[segment], ends[segment]):
            doc += np.uint32(records[i, column] >> top)
            key = np.uint64(records[i, 0] & mask) << _32 | np.uint64(records[i, 1])
            keys[size], live[size] = key, np.uint64(i) << _32 | np.uint64(doc)
            _raise_counter(counters, key, shift, np.uint8(1))
            size += 1
    return size


@kernel()
def _sift(keys, live, num_live, counters, shift, least):
    """Keep the keys that may be frequent; returns their number."""
    kept = 0
    for j in range(num_live):
        key = keys[j]
        keys[kept], live[kept] = key, live[j]
        kept += counters[_hash(key) >> shift] >= least
    return kept


@kernel()
def _rehash(entry_keys, used, size):
    """Build a hash table of `size` slots (a power of two) from the keys of the entries."""
    slots, entries = np.full(size, _EMPTY, np.uint64), np.empty(size, np.uint32)
    mask, shift = np.uint64(size - 1), np.uint64(_64 - np.int64(np.log2(size) + 0.5))
    for entry in range(used):
        at = _hash(entry_keys[entry]) >> shift
        while slots[at] != _EMPTY:
            at = (at + _ONE) & mask
        slots[at], entries[at] = entry_keys[entry], entry
    return slots, entries


@kernel()
def _longer(array, used):
    longer = np.zeros(4 * array.size, array.dtype)
    longer[:used] = array[:used]
    return longer


@kernel()
def _tally_while_room(keys, live, begin, end, entry_of, slots, entries, entry_keys, counts, docs, last_doc, used):
    """Count keys [begin, end) until the entries are full; returns where it stopped, and the number of entries."""
    mask, shift = np.uint64(slots.size - 1), np.uint64(_64 - np.int64(np.log2(slots.size) + 0.5))
    for j in range(begin, end):
        key = keys[j]
        at = _hash(key) >> shift
        while slots[at] != key and slots[at] != _EMPTY:
            at = (at + _ONE) & mask
        if slots[at] == key:
            entry = entries[at]
        else:
            if used == entry_keys.size:
                return j, used
            entry = np.uint32(used)
            slots[at], entries[at] = key, entry
            entry_keys[entry] = key
            used += 1
        counts[entry] += _ONE
        doc = np.uint32(live[j])
        docs[entry] += np.uint32(last_doc[entry] != doc)
        last_doc[entry] = doc
        entry_of[j] = entry
    return end, used


@kernel()
def _tally(keys, live, num_live, entry_of, table):
    """Count every key exactly, and the documents that hold it; sets entry_of[j] to the entry of keys[j].

    `table` is (slots, entries, entry_keys, counts, docs, last_doc, used). Returns the table, which may have grown.
    """
    slots, entries, entry_keys, counts, docs, last_doc, used = table
    begin = 0
    while True:
        begin, used = _tally_while_room(
            keys, live, begin, num_live, entry_of, slots, entries, entry_keys, counts, docs, last_doc, used
        )
        if begin == num_live:
            return slots, entries, entry_keys, counts, docs, last_doc, used
        slots, entries = _rehash(entry_keys, used, 4 * slots.size)
        entry_keys, counts = _longer(entry_keys, used), _longer(counts, used)
        docs, last_doc = _longer(docs, used), _longer(last_doc, used)


@kernel()
def _empty_table():
    """An empty hash table, half full when its entries are used up. Documents are numbered from 1, so 0 means none."""
    size = 1 << (_FIRST_SLOTS_BITS - 1)
    slots, entries = np.full(2 * size, _EMPTY, np.uint64), np.empty(2 * size, np.uint32)
    return (
        slots,
        entries,
        np.zeros(size, np.uint64),
        np.zeros(size, np.uint64),
        np.zeros(size, np.uint32),
        np.zeros(size, np.uint32),
        0,
    )


@kernel()
def _keep(table, n, min_count, min_docs, found, end):
    """Append the frequent entries of a table to `found` from row `end` on, sorted by their tokens.

    Returns `found`, its new end, and the row of every entry (NONE if it is not frequent). The rows of prefixes are in the
    order of their tokens, so sorting by key sorts by tokens.
    """
    _, _, entry_keys, counts, docs, _, used = table
    spelled, found_counts, found_docs, lengths = found
    frequent = np.empty(used, np.uint32)
    kept = 0
    for entry in range(used):
        if counts[entry] >= min_count and docs[entry] >= min_docs:
            frequent[kept] = entry
            kept += 1
    spelled, found_counts = _room_for_rows(spelled, end, kept), _room_for(found_counts, end, kept)
    found_docs, lengths = _room_for(found_docs, end, kept), _room_for(lengths, end, kept)
    rows = np.full(used, _NONE, np.uint32)
    row = end
    for at in radix_order(entry_keys[frequent[:kept]], _SMALL_DIGIT_BITS):
        entry = frequent[at]
        rows[entry] = row
        prefix, token = np.uint32(entry_keys[entry] >> _32), np.uint32(entry_keys[entry])
        if n == 2:
            spelled[row, 0] = prefix
        else:
            for k in range(n - 1):
                spelled[row, k] = spelled[prefix, k]
        spelled[row, n - 1] = token
        found_counts[row], found_docs[row], lengths[row] = counts[entry], docs[entry], n
        row += 1
    return (spelled, found_counts, found_docs, lengths), row, rows


@kernel()
def _room_for_rows(rows, end, more):
    if end + more <= rows.shape[0]:
        return rows
    longer = np.empty((2 * (end + more), rows.shape[1]), rows.dtype)
    longer[:end] = rows[:end]
    return longer


@kernel()
def _room_for(array, end, more):
    """Grow the array if it has no room for `more` values after its first `end`."""
    if end + more <= array.size:
        return array
    longer = np.empty(2 * (end + more), array.dtype)
    longer[:end] = array[:end]
    return longer


@kernel()
def _extend(records, n, rows, entry_of, live, num_live, keys, counters, shift):
    """Extend frequent n-grams by one token to the candidates of length n + 1; returns the number of candidates."""
    pad = records.dtype.type(~records.dtype.type(0))
    kept = 0
    for j in range(num_live):
        record = live[j]
        prefix, token = rows[entry_of[j]], records[record >> _32, n]
        key = np.uint64(prefix) << _32 | np.uint64(token)
        keys[kept], live[kept] = key, record
        keep = np.uint8(prefix != _NONE) & np.uint8(token != pad)
        _raise_counter(counters, key, shift, keep)
        kept += int(keep)
    return kept


@kernel()
def _filter_bits(num_keys):
    bits = _LEAST_FILTER_BITS
    while bits < _MOST_FILTER_BITS and 1 << bits < 2 * num_keys:
        bits += 1
    return bits


@kernel()
def _count_buckets(records, bounds, max_n, min_count, min_docs):
    num_buckets = bounds.shape[1] - 1
    widest = 0
    for bucket in range(num_buckets):
        widest = max(widest, (bounds[:, bucket + 1] - bounds[:, bucket]).sum())
    keys, live = np.empty(widest, np.uint64), np.empty(widest, np.uint64)
    entry_of = np.empty(widest, np.uint32)
    all_counters = np.empty(1 << _filter_bits(widest), np.uint8)
    least = np.uint8(min(min_count, 255))
    found, end = _nothing_found(1 << 16, max_n), 0
    for bucket in range(num_buckets):
        begins, ends = bounds[:, bucket], bounds[:, bucket + 1]
        bits = _filter_bits((ends - begins).sum())
        counters, shift = all_counters[: 1 << bits], np.uint64(_64 - bits)
        counters[:] = 0
        num_live = _begin(records, max_n, begins, ends, keys, live, counters, shift)
        for n in range(2, max_n + 1):
            num_live = _sift(keys, live, num_live, counters, shift, least)
            table = _tally(keys, live, num_live, entry_of, _empty_table())
            found, end, rows = _keep(table, n, min_count, min_docs, found, end)
            if n < max_n:
                counters[:] = 0
                num_live = _extend(records, n, rows, entry_of, live, num_live, keys, counters, shift)
    spelled, counts, docs, lengths = found
    return spelled[:end], counts[:end], docs[:end], lengths[:end]


@kernel()
def _nothing_found(room, max_n):
    """Empty result arrays with room for `room` n-grams: tokens, counts, documents and lengths."""
    return (
        np.empty((room, max_n), np.uint32),
        np.empty(room, np.uint64),
        np.empty(room, np.uint32),
        np.empty(room, np.uint8),
    )


# ---- what others call ---------------------------------------------------------------------------------------------


def count_buckets(records: Records, bounds: I64, max_n: int, min_count: int, min_docs: int) -> list[Ngrams]:
    """Count buckets in memory: for n = 2..max_n the n-grams with at least `min_count` occurrences in `min_docs` documents.

    `bounds` [shards, buckets + 1]: bucket b holds the records bounds[s, b]..bounds[s, b + 1] of every shard s. N-grams are
    returned bucket by bucket, and sorted by tokens within each bucket, as `in_order` requires.
    """
    return _by_length(_count_buckets(records, bounds, max_n, min_count, min_docs), max_n)


def _by_length(found: Any, max_n: int) -> list[Ngrams]:
    spelled, counts, docs, lengths = found
    rows = [np.flatnonzero(lengths == n) for n in range(2, max_n + 1)]
    return [Ngrams(spelled[own, :n], counts[own], docs[own]) for n, own in enumerate(rows, 2)]
