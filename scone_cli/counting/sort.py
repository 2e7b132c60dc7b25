"""Sorts n-grams by count (descending), then by tokens, with a radix sort, which takes linear time."""

# numba infers the types of kernels.
# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scone_cli.counting.partition import I64, U32, U64
from scone_cli.runtime.kernel_cache import kernel

_64 = 64
_ONE = np.uint64(1)
_DIGIT_BITS = 11  # the counters of one digit fit the L1 cache


@kernel()
def radix_order(keys, digit_bits):
    """The stable order (uint32 [M]) that sorts uint64 keys [M]: a radix sort; a digit that all keys share costs no pass."""
    num_digits, radix = (_64 + digit_bits - 1) // digit_bits, 1 << digit_bits
    mask = np.uint64(radix - 1)
    sizes = np.zeros((num_digits, radix), np.int64)
    for key in keys:
        for digit in range(num_digits):
            sizes[digit, (key >> np.uint64(digit_bits * digit)) & mask] += 1
    order = np.arange(keys.size).astype(np.uint32)
    sorted_keys, next_keys, next_order = keys.copy(), np.empty_like(keys), np.empty_like(order)
    for digit in range(num_digits):
        if sizes[digit].max() == keys.size:
            continue
        shift = np.uint64(digit_bits * digit)
        ends = np.zeros(radix, np.int64)
        for value in range(1, radix):
            ends[value] = ends[value - 1] + sizes[digit, value - 1]
        for i in range(keys.size):
            value = (sorted_keys[i] >> shift) & mask
            at = ends[value]
            ends[value] = at + 1
            next_keys[at], next_order[at] = sorted_keys[i], order[i]
        sorted_keys, next_keys = next_keys, sorted_keys
        order, next_order = next_order, order
    return order


@dataclass(frozen=True)
class Ngrams:
    """Arrays of M n-grams of one length: tokens uint32 [M, n], counts uint64 [M], docs uint32 [M].

    `docs` is the number of distinct documents that hold the n-gram. "In order" means: by count descending, then by tokens
    ascending.
    """

    tokens: U32
    counts: U64
    docs: U32

    def __getitem__(self, rows: U32) -> Ngrams:
        """The n-grams in these rows."""
        return Ngrams(np.take(self.tokens, rows, axis=0), self.counts[rows], self.docs[rows])

    def __len__(self) -> int:
        return self.counts.size


def in_order(ngrams: Ngrams) -> Ngrams:
    """Sort n-grams by count and tokens; those that begin with the same two tokens must be sorted by tokens already."""
    if (keys := _keys(ngrams)) is not None:
        return ngrams[radix_order(keys, _DIGIT_BITS)]
    order = radix_order(_pairs(ngrams), _DIGIT_BITS)
    return ngrams[order[radix_order(~ngrams.counts[order], _DIGIT_BITS)]]


def merged(ngrams: Ngrams, bounds: I64) -> Ngrams:
    """Merge sorted runs, rows bounds[r] to bounds[r + 1]; those with equal counts and first two tokens may be in any order."""
    keys = _keys(ngrams)
    found = in_order(ngrams) if keys is None else ngrams[_merge(keys, bounds)]
    order = np.arange(len(found), dtype=np.uint32)
    return found[order] if _settle_ties(found.tokens, found.counts, order) else found


def _pairs(ngrams: Ngrams) -> U64:
    """The first two tokens (or the only one) as one number, as small as possible, because every digit costs a pass."""
    pairs = ngrams.tokens[:, 0].astype(np.uint64)
    if ngrams.tokens.shape[1] > 1:
        pairs = pairs * (np.uint64(ngrams.tokens.max(initial=0)) + _ONE) + ngrams.tokens[:, 1]
    return pairs


def _keys(ngrams: Ngrams) -> U64 | None:
    """The sort key of each n-gram as one number [M], or None if it needs more than 64 bits."""
    down, pairs = ngrams.counts.max(initial=0) - ngrams.counts, _pairs(ngrams)
    bits = int(pairs.max(initial=0)).bit_length()
    if int(down.max(initial=0)).bit_length() + bits > _64:
        return None
    keys: U64 = down << np.uint64(bits) | pairs
    return keys


@kernel()
def _merge(keys, bounds):
    """The order (uint32 [M]) that merges sorted runs of keys, bounds[r] to bounds[r + 1], two runs at a time."""
    order = np.arange(keys.size).astype(np.uint32)
    next_keys, next_order = np.empty_like(keys), np.empty_like(order)
    while bounds.size > 2:
        for run in range(0, bounds.size - 2, 2):
            left, right = bounds[run], bounds[run + 1]
            for at in range(bounds[run], bounds[run + 2]):
                # No branch: the CPU could not predict which run is next, and a wrong prediction costs more than all this.
                is_left = right == bounds[run + 2] or (left < bounds[run + 1] and keys[left] <= keys[right])
                source = left if is_left else right
                next_keys[at], next_order[at] = keys[source], order[source]
                left += is_left
                right += not is_left
        if bounds.size % 2 == 0:  # an odd number of runs: the last one is copied
            rest = bounds[-2]
            next_keys[rest:], next_order[rest:] = keys[rest:], order[rest:]
        bounds = np.append(bounds[:-1:2], bounds[-1])
        keys, next_keys = next_keys, keys
        order, next_order = next_order, order
    return order


@kernel()
def _is_less(tokens, one, other):
    """Whether row `one` comes before row `other` by its tokens from the third on."""
    for k in range(2, tokens.shape[1]):
        if tokens[one, k] != tokens[other, k]:
            return tokens[one, k] < tokens[other, k]
    return False


@kernel()
def _settle_ties(tokens, counts, order):
    """Put rows with the same count and first two tokens in the order of their tokens; returns whether any was not."""
    changed, begin = False, 0
    for row in range(1, counts.size + 1):
        is_tie = (
            row < counts.size
            and tokens.shape[1] > 2
            and counts[row] == counts[begin]
            and tokens[row, 0] == tokens[begin, 0]
            and tokens[row, 1] == tokens[begin, 1]
        )
        if is_tie:
            continue
        for later in range(begin + 1, row):
            if _is_less(tokens, later, later - 1):
                _heap_sort(tokens, order[begin:row])
                changed = True
                break
        begin = row
    return changed


@kernel()
def _heap_sort(tokens, order):
    """Sort row numbers by the tokens of their rows: in place, because a hot pair may have millions of rows."""
    for end in range(order.size // 2, 0, -1):
        _sink(tokens, order, end - 1, order.size)
    for end in range(order.size - 1, 0, -1):
        order[0], order[end] = order[end], order[0]
        _sink(tokens, order, 0, end)


@kernel()
def _sink(tokens, order, at, end):
    while 2 * at + 1 < end:
        child = 2 * at + 1
        if child + 1 < end and _is_less(tokens, order[child], order[child + 1]):
            child += 1
        if not _is_less(tokens, order[at], order[child]):
            return
        order[at], order[child] = order[child], order[at]
        at = child
