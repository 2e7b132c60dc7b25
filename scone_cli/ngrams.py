"""Kernels that find f-grams in a text: the index of the f-grams, and longest-suffix matching.

An n-gram is its prefix and its last token: with a 32-bit *node* for the prefix, `node << 32 | token` is an exact 64-bit
key for every n. Node t < num_tokens is the single token t, node num_tokens + i is f-gram i.
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

NONE = 0xFFFFFFFF  # no f-gram
_NONE = np.uint32(NONE)
_EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)  # no key: its prefix would be NONE
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: spreads consecutive ids over the high bits
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


@njit(nogil=True, cache=True)
def _suffixes(prefix_nodes, last_tokens, slots, values, num_tokens, suffixes):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """A prefix ranks before what continues it, so its own suffix is known; returns how many suffixes are missing."""
    missing = 0
    for i in range(prefix_nodes.size):
        prefix, last = np.int64(prefix_nodes[i]), last_tokens[i]
        if prefix < num_tokens:
            suffixes[i] = last
            continue
        found = _lookup(slots, values, np.uint64(suffixes[prefix - num_tokens]) << _32 | np.uint64(last))
        missing += found == _NONE
        suffixes[i] = np.uint32(num_tokens) + found
    return missing


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
        keys = prefix_nodes.astype(np.uint64)
        keys <<= _32  # in place: there may be a hundred million
        keys |= last_tokens
        return cls(*hash_table(keys), num_tokens, max_n)

    def match(self, tokens: U32, starts: I64 | None = None) -> tuple[U32, U8]:
        """Ids and lengths of the longest f-gram ending at each position; (NONE, 0) where there is none.

        `starts` [D + 1] bounds the documents (None: one document); a match never reaches across a document's start.
        """
        if starts is None:
            starts = np.array([0, tokens.size], np.int64)
        return self._run(tokens, starts, np.full(self.max_n - 1, NONE, np.uint32))

    def suffixes(self, prefix_nodes: U32, last_tokens: U32) -> U32:
        """The node of each of the index's f-grams without its first token [S].

        Raises:
            ValueError: it is no f-gram.
        """
        suffixes = np.empty(prefix_nodes.size, np.uint32)
        if _suffixes(prefix_nodes, last_tokens, self.slots, self.values, self.num_tokens, suffixes):
            raise ValueError("f-grams that are not closed under suffixes")
        return suffixes

    def matcher(self, streams: int = 1) -> Matcher:
        """A matcher for so many streams of tokens that arrive in pieces."""
        return Matcher(self, streams)

    def _run(self, tokens: U32, starts: I64, state: U32) -> tuple[U32, U8]:
        ids = np.empty(tokens.size, np.uint32)
        lengths = np.empty(tokens.size, np.uint8)
        _match(tokens, starts, state, self.slots, self.values, self.num_tokens, ids, lengths)
        return ids, lengths


ROLL_BACK = 64  # tokens that a stream can take back


class Matcher:
    """Matches streams of tokens piece by piece, with the result of matching each whole.

    A stream is one document as far as it is known: nothing is matched across `reset`. Its state is the nodes of length
    1..K-1 that end at its last token, no look-back is needed; the last 64 states are kept for `roll_back`.
    """

    def __init__(self, index: FgramIndex, streams: int = 1) -> None:
        self.index = index
        self._states = [[np.full(index.max_n - 1, NONE, np.uint32)] for _ in range(streams)]

    def match(self, tokens: U32, starts: I64 | None = None, streams: I64 | None = None) -> U32:
        """Ids [N] of the longest f-grams that end at each of the next tokens [N], NONE where there is none.

        `starts` [M + 1] cuts the tokens into one piece each for the streams `streams` [M] (distinct; None: the first M);
        None: all are for stream 0.
        """
        if starts is None:
            starts = np.array([0, tokens.size], np.int64)
        ids = np.empty(tokens.size, np.uint32)
        for number, stream in enumerate(range(len(starts) - 1) if streams is None else streams):
            for i in range(starts[number], starts[number + 1]):
                state = self._states[stream][-1].copy()
                ids[i] = self.index._run(tokens[i : i + 1], np.array([0, 1], np.int64), state)[0][0]  # noqa: SLF001
                self._states[stream] = [*self._states[stream][-ROLL_BACK:], state]
        return ids

    def roll_back(self, tokens: int, stream: int = 0) -> None:
        """Forget the last so many tokens of a stream: drafted ones that were not accepted.

        Raises:
            ValueError: there are not so many, or they are too long ago (64 can always be taken back).
        """
        if not 0 <= tokens < len(self._states[stream]):
            raise ValueError(f"{tokens} tokens to roll back, {len(self._states[stream]) - 1} can be")
        del self._states[stream][len(self._states[stream]) - tokens :]

    def reset(self, stream: int = 0) -> None:
        """Begin a new document."""
        self._states[stream] = [np.full(self.index.max_n - 1, NONE, np.uint32)]
