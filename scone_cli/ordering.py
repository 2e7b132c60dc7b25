"""N-grams in their order: by count descending, then by tokens; sorted by digits, which takes linear time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from scone_cli.dealing import U32, U64

_64 = 64
_ONE = np.uint64(1)
_DIGIT_BITS = 11  # the counters of one digit fit the first cache


@njit(nogil=True, cache=True)
def radix_order(keys, digit_bits):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """The stable order (uint32 [M]) that sorts uint64 keys [M]; linear, and digits that are all the same cost nothing."""
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
    """N-grams of one length by count descending, then tokens ascending.

    tokens uint32 [M, n], counts uint64 [M], docs uint32 [M] (distinct documents that hold it).
    """

    tokens: U32
    counts: U64
    docs: U32

    def __getitem__(self, rows: U32) -> Ngrams:
        """Some of the rows."""
        return Ngrams(np.take(self.tokens, rows, axis=0), self.counts[rows], self.docs[rows])

    def __len__(self) -> int:
        return self.counts.size


def in_order(ngrams: Ngrams) -> Ngrams:
    """Sort n-grams given in any order, if those that begin with the same two tokens are in their order already."""
    if not len(ngrams):
        return ngrams
    base = np.uint64(ngrams.tokens.max()) + _ONE
    pairs = ngrams.tokens[:, 0].astype(np.uint64)
    if ngrams.tokens.shape[1] > 1:
        pairs = pairs * base + ngrams.tokens[:, 1]  # no larger than it must be: every digit is a pass
    return ngrams[_by_count(ngrams.counts, pairs)]


def _by_count(counts: U64, keys: U64) -> U32:
    """The order by count descending, then key, then as they are."""
    down = counts.max(initial=0) - counts
    key_bits = int(keys.max(initial=0)).bit_length()
    if int(down.max(initial=0)).bit_length() + key_bits <= _64:
        return radix_order(down << np.uint64(key_bits) | keys, _DIGIT_BITS)  # type: ignore[no-any-return]
    order = radix_order(keys, _DIGIT_BITS)
    return order[radix_order(down[order], _DIGIT_BITS)]  # type: ignore[no-any-return]
