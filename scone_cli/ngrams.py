"""Kernels over token ids: counting frequent n-grams, the index of the f-grams, and longest-suffix matching.

All of it rests on one fact: an n-gram is (its prefix, its last token). With a 32-bit id for the prefix, `prefix << 32 |
token` is an exact 64-bit key for every n. Counting gives prefixes their lexicographic rank, so that key order is token
order; the index gives them a *node*: node t < num_tokens is the single token t, node num_tokens + i is f-gram i.

This module knows no files; `scone_cli.counting` drives the counting kernels over shards and buckets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

U8 = npt.NDArray[np.uint8]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

NONE = 0xFFFFFFFF  # no f-gram, no frequent n-gram
_NONE = np.uint32(NONE)
_EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)  # no key: its prefix would be NONE
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: spreads consecutive ids over the high bits
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_29 = np.uint64(29)
_ONE = np.uint64(1)
_SLOTS_PER_KEY = 4 / 3  # 12 bytes a slot, so 16 bytes an f-gram


# ---- hashing -----------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True, inline="always")
def _hash(key):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 - compiled: numba infers the types
    mixed = (key ^ (key >> _29)) * _MIX
    return (mixed ^ (mixed >> _32)) * _MIX


@njit(nogil=True, cache=True, inline="always")
def _slot(key, capacity):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Map a key to [0, capacity) by its hash's high half: any capacity will do, not just powers of two."""
    return ((_hash(key) >> _32) * capacity) >> _32


@njit(nogil=True, cache=True, inline="always")
def _lookup(slots, values, key):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    capacity = np.uint64(slots.size)
    at = _slot(key, capacity)
    while True:
        found = slots[at]
        if found == key:
            return values[at]
        if found == _EMPTY:
            return _NONE
        at += _ONE
        if at == capacity:
            at = np.uint64(0)


@njit(nogil=True, cache=True)
def _insert(slots, values, keys, first_value):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Insert keys[i] -> first_value + i; returns the number of keys that were already there."""
    capacity = np.uint64(slots.size)
    repeated = 0
    for i in range(keys.size):
        at = _slot(keys[i], capacity)
        while slots[at] != _EMPTY and slots[at] != keys[i]:
            at += _ONE
            if at == capacity:
                at = np.uint64(0)
        repeated += slots[at] == keys[i]
        slots[at] = keys[i]
        values[at] = np.uint32(first_value + i)
    return repeated


def num_slots(num_keys: int) -> int:
    """Slots, of 12 bytes each, of the hash table of so many keys: three quarters full."""
    return int(num_keys * _SLOTS_PER_KEY) + 8


def hash_table(keys: U64) -> tuple[U64, U32]:
    """An open-addressing table from each key to its position in `keys`: (slots, values).

    Raises:
        ValueError: a key is there twice.
    """
    capacity = num_slots(keys.size)
    slots = np.full(capacity, _EMPTY, np.uint64)
    values = np.zeros(capacity, np.uint32)
    if _insert(slots, values, keys, 0):
        raise ValueError("the same n-gram twice")
    return slots, values


# ---- counting ----------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True)
def _partition(tokens, starts, prefixes, n, num_buckets):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Scatter the candidate keys of one shard into buckets, in order of position; returns keys, documents, offsets."""
    offsets = np.zeros(num_buckets + 1, np.int64)
    buckets = np.uint64(num_buckets)
    for scatter in range(2):
        if scatter == 1:
            for bucket in range(num_buckets):
                offsets[bucket + 1] += offsets[bucket]
            keys = np.empty(offsets[num_buckets], np.uint64)
            docs = np.empty(offsets[num_buckets], np.uint32)
            ends = offsets.copy()
        for doc in range(starts.size - 1):
            for i in range(starts[doc] + 1, starts[doc + 1]):
                if prefixes[i - 1] == _NONE or (n > 2 and prefixes[i] == _NONE):
                    continue  # its prefix or its suffix is not frequent, so neither is it
                key = np.uint64(prefixes[i - 1]) << _32 | np.uint64(tokens[i])
                bucket = _slot(key, buckets)
                if scatter == 1:
                    keys[ends[bucket]] = key
                    docs[ends[bucket]] = doc
                    ends[bucket] += 1
                else:
                    offsets[bucket + _ONE] += 1
    return keys, docs, offsets


@njit(nogil=True, cache=True)
def _combine(keys, docs, offsets):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Count equal keys bucket by bucket, in place: keys, counts, distinct documents, and the new offsets."""
    widest = 0
    for bucket in range(offsets.size - 1):
        widest = max(widest, offsets[bucket + 1] - offsets[bucket])
    slots = np.empty(2 * widest + 8, np.uint64)
    where = np.empty(2 * widest + 8, np.int64)
    counts = np.zeros(keys.size, np.uint64)
    num_docs = np.zeros(keys.size, np.uint32)
    last_doc = np.empty(keys.size, np.uint32)
    new_offsets = np.zeros(offsets.size, np.int64)
    end = 0
    for bucket in range(offsets.size - 1):
        capacity = np.uint64(2 * (offsets[bucket + 1] - offsets[bucket]) + 8)
        slots[:capacity] = _EMPTY
        for i in range(offsets[bucket], offsets[bucket + 1]):
            key = keys[i]
            at = (_hash(key) & _LOW) * capacity >> _32  # the low half: the high half is the same in the whole bucket
            while slots[at] != _EMPTY and slots[at] != key:
                at += _ONE
                if at == capacity:
                    at = np.uint64(0)
            if slots[at] == _EMPTY:
                slots[at] = key
                where[at] = end
                keys[end] = key  # end <= i: never overwrites a key that is still to be read
                last_doc[end] = _NONE
                end += 1
            entry = where[at]
            counts[entry] += _ONE
            if last_doc[entry] != docs[i]:  # documents come in order, so one comparison counts distinct ones
                last_doc[entry] = docs[i]
                num_docs[entry] += 1
        new_offsets[bucket + 1] = end
    return keys[:end], counts[:end], num_docs[:end], new_offsets


@njit(nogil=True, cache=True)
def _merge(keys, counts, docs, min_count):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Sum equal keys; keep those with at least `min_count`."""
    capacity = np.uint64(2 * keys.size + 8)
    slots = np.full(capacity, _EMPTY, np.uint64)
    where = np.empty(capacity, np.int64)
    end = 0
    for i in range(keys.size):
        at = (_hash(keys[i]) & _LOW) * capacity >> _32
        while slots[at] != _EMPTY and slots[at] != keys[i]:
            at += _ONE
            if at == capacity:
                at = np.uint64(0)
        if slots[at] == _EMPTY:
            slots[at] = keys[i]
            where[at] = end
            keys[end], counts[end], docs[end] = keys[i], counts[i], docs[i]
            end += 1
        else:
            counts[where[at]] += counts[i]
            docs[where[at]] += docs[i]
    kept = 0
    for i in range(end):
        if counts[i] >= min_count:
            keys[kept], counts[kept], docs[kept] = keys[i], counts[i], docs[i]
            kept += 1
    return keys[:kept], counts[:kept], docs[:kept]


@njit(nogil=True, cache=True)
def _relabel(tokens, starts, prefixes, n, slots, values):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """For each position the id of the frequent n-gram that ends there, or NONE."""
    ids = np.full(tokens.size, _NONE, np.uint32)
    for doc in range(starts.size - 1):
        for i in range(starts[doc] + 1, starts[doc + 1]):
            if prefixes[i - 1] != _NONE and (n == 2 or prefixes[i] != _NONE):
                ids[i] = _lookup(slots, values, np.uint64(prefixes[i - 1]) << _32 | np.uint64(tokens[i]))
    return ids


@dataclass(frozen=True)
class BucketCounts:
    """Counts grouped in buckets by key hash: bucket b is [offsets[b], offsets[b + 1]) of the three columns."""

    keys: U64
    counts: U64
    docs: U32
    offsets: I64


def count_shard(tokens: U32, starts: I64, prefixes: U32, n: int, num_buckets: int) -> BucketCounts:
    """Count the candidate n-grams of one shard of documents.

    `prefixes[i]` is the id of the frequent (n-1)-gram ending at position i, or NONE (for n = 2: the token itself);
    documents are [starts[d], starts[d + 1]). No n-gram crosses a document boundary. Linear in the tokens.
    """
    keys, docs, offsets = _partition(tokens, starts, prefixes, n, num_buckets)
    return BucketCounts(*_combine(keys, docs, offsets))


def merge_counts(keys: U64, counts: U64, docs: U32, min_count: int) -> tuple[U64, U64, U32]:
    """Sum the counts of one bucket over all shards (overwriting the arguments), keep `min_count` and more, sort by key."""
    keys, counts, docs = _merge(keys, counts, docs, min_count)
    order = np.argsort(keys)
    return keys[order], counts[order], docs[order]


def relabel_shard(tokens: U32, starts: I64, prefixes: U32, n: int, table: tuple[U64, U32]) -> U32:
    """The id of the frequent n-gram ending at each position, or NONE: the `prefixes` of the scan for n + 1."""
    return _relabel(tokens, starts, prefixes, n, *table)  # type: ignore[no-any-return]


# ---- matching ----------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True)
def _match(tokens, starts, state, slots, values, num_tokens, ids, lengths):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    first_fgram = np.uint32(num_tokens)
    for doc in range(starts.size - 1):
        if doc > 0:
            state[:] = _NONE
        for i in range(starts[doc], starts[doc + 1]):
            shorter = state[0]
            state[0] = tokens[i]
            ids[i] = _NONE
            lengths[i] = 0
            for n in range(2, state.size + 2):
                # `shorter`: the node of length n - 1 that ended one position before. The vocabulary is closed under
                # prefixes and suffixes, so after the first miss no longer f-gram can end here.
                found = _NONE
                if shorter != _NONE:
                    found = _lookup(slots, values, np.uint64(shorter) << _32 | np.uint64(tokens[i]))
                if found == _NONE:
                    state[n - 1 :] = _NONE
                    break
                ids[i] = found
                lengths[i] = n
                if n <= state.size:
                    shorter, state[n - 1] = state[n - 1], first_fgram + found


@dataclass(frozen=True)
class FgramIndex:
    """Finds the longest f-gram that ends at a position (paper, section 3.1), with K - 1 probes a token at most.

    slots uint64 [C] and values uint32 [C] are an open-addressing table from (node of the prefix << 32 | last token) to
    f-gram id, at 16 bytes an f-gram.
    """

    slots: U64
    values: U32
    num_tokens: int
    max_n: int

    @classmethod
    def build(cls, prefix_nodes: U32, last_tokens: U32, num_tokens: int, max_n: int) -> FgramIndex:
        """Index the f-grams 0..S-1, f-gram i being node `prefix_nodes[i]` followed by `last_tokens[i]`."""
        keys = prefix_nodes.astype(np.uint64) << _32 | last_tokens
        return cls(*hash_table(keys), num_tokens, max_n)

    def match(self, tokens: U32, starts: I64 | None = None) -> tuple[U32, U8]:
        """Ids and lengths of the longest f-gram ending at each position; (NONE, 0) where there is none.

        `starts` [D + 1] bounds the documents (None: one document); a match never reaches across a document's start.
        """
        if starts is None:
            starts = np.array([0, tokens.size], np.int64)
        return self._run(tokens, starts, np.full(self.max_n - 1, NONE, np.uint32))

    def matcher(self) -> Matcher:
        """A matcher for one stream of tokens that arrive in pieces."""
        return Matcher(self, np.full(self.max_n - 1, NONE, np.uint32))

    def _run(self, tokens: U32, starts: I64, state: U32) -> tuple[U32, U8]:
        ids = np.empty(tokens.size, np.uint32)
        lengths = np.empty(tokens.size, np.uint8)
        _match(tokens, starts, state, self.slots, self.values, self.num_tokens, ids, lengths)
        return ids, lengths


@dataclass
class Matcher:
    """Matches one document piece by piece, with the result of matching it whole.

    state uint32 [K - 1]: the nodes of length 1..K-1 that end at the last token seen; no look-back is needed.
    """

    index: FgramIndex
    state: U32

    def match(self, tokens: U32) -> tuple[U32, U8]:
        """Ids and lengths for the next tokens of the document, see `FgramIndex.match`."""
        return self.index._run(tokens, np.array([0, tokens.size], np.int64), self.state)  # noqa: SLF001
