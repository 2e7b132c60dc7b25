"""Kernels that find f-grams in a text: the index of the f-grams, and longest-suffix matching.

An n-gram is its prefix and its last token: with a 32-bit *node* for the prefix, `node << 32 | token` is an exact 64-bit
key for every n. Node t < num_tokens is the single token t, node num_tokens + i is f-gram i.

The index is a hash table of lines of 64 bytes, as the cache has them, so that a probe waits for memory once: five keys,
their five ids, and what is left over is a filter of the keys that found the line full and went to the next one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

from scone_cli.errors import DamagedArtifact
from scone_cli.raw_memory import LINE, prefetch

U8 = npt.NDArray[np.uint8]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

NONE = 0xFFFFFFFF  # no f-gram
REMAKE = "run: scone precompute --force"
_NONE = np.uint32(NONE)
_LOST = np.uint32(NONE - 1)  # instead of an id: the line that would hold it is not what was written
_EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)  # no key: its prefix would be NONE
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: spreads consecutive ids over the high bits
_WRITTEN = np.uint64(1 << 63)  # set in every line: one that a file has lost is zero
_32, _29, _16, _31 = np.uint64(32), np.uint64(29), np.uint64(16), np.uint64(31)
_LOW, _LOW16 = np.uint64(0xFFFFFFFF), np.uint64(0xFFFF)
_ZERO, _ONE = np.uint64(0), np.uint64(1)
_WORDS = np.uint64(8)  # of a line: keys 0 to 4, ids 0 and 1, ids 2 and 3, id 4 and the filter
_KEYS_A_LINE = 5
_FULL_KEYS = 4  # of five, on average: at 64 bytes a line 16 bytes an f-gram
BLOCK = 64  # probes on their way at a time


# ---- hashing -----------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True, inline="always")
def _hash(key):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 - compiled: numba infers the types
    mixed = (key ^ (key >> _29)) * _MIX
    return (mixed ^ (mixed >> _32)) * _MIX


@njit(nogil=True, cache=True, inline="always")
def _first_word(mixed, num_lines):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Where a key's line begins, by its hash's high half: any number of lines will do, not just powers of two."""
    return (((mixed >> _32) * num_lines) >> _32) * _WORDS


@njit(nogil=True, cache=True, inline="always")
def _filter_bit(mixed):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """The bit for a key, of 31: by its hash's low half."""
    return _ONE << (_32 + (((mixed & _LOW16) * _31) >> _16))


@njit(nogil=True, cache=True, inline="always")
def key_of(node, token):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """The key of the n-gram that is a node and one token more."""
    return np.uint64(node) << _32 | np.uint64(token)


@njit(nogil=True, cache=True, inline="always")
def prefetch_key(address, num_words, key):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Begin to read the line that a key is looked for in first; the lines lie at `address`."""
    prefetch(address + np.uint64(8) * _first_word(_hash(key), num_words // _WORDS))


@njit(nogil=True, cache=True)
def find(lines, key):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """The id of a key, NONE, or _LOST."""
    mixed = _hash(key)
    num_lines = np.uint64(lines.size) // _WORDS
    at = _first_word(mixed, num_lines)
    for _ in range(num_lines):
        ids01, ids23, rest = lines[at + np.uint64(5)], lines[at + np.uint64(6)], lines[at + np.uint64(7)]
        if not rest & _WRITTEN:
            return _LOST
        found = np.uint64(_NONE)  # all five are compared, without branches: which one it is cannot be foreseen
        found = ids01 & _LOW if lines[at] == key else found
        found = ids01 >> _32 if lines[at + np.uint64(1)] == key else found
        found = ids23 & _LOW if lines[at + np.uint64(2)] == key else found
        found = ids23 >> _32 if lines[at + np.uint64(3)] == key else found
        found = rest & _LOW if lines[at + np.uint64(4)] == key else found
        if found != np.uint64(_NONE) or not rest & _filter_bit(mixed):
            return np.uint32(found)
        at += _WORDS
        if at == np.uint64(lines.size):
            at = _ZERO
    return _LOST


@njit(nogil=True, cache=True, inline="always")
def _insert(lines, mixed, key, value):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Put a key into the first line with room; returns whether it was there."""
    at = _first_word(mixed, np.uint64(lines.size) // _WORDS)
    while True:
        for place in range(np.uint64(_KEYS_A_LINE)):
            if lines[at + place] == key:
                return True
            if lines[at + place] == _EMPTY:
                lines[at + place] = key
                word = at + np.uint64(5) + (place >> _ONE)
                shift = (place & _ONE) << np.uint64(5)
                lines[word] = (lines[word] & ~(_LOW << shift)) | value << shift
                return False
        lines[at + np.uint64(7)] |= _filter_bit(mixed)
        at += _WORDS
        if at == np.uint64(lines.size):
            at = _ZERO


@njit(nogil=True, cache=True)
def _fill(lines, prefix_nodes, last_tokens, address):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Insert prefix_nodes[i] << 32 | last_tokens[i] -> i; returns the number of keys that were already there."""
    num_lines, repeated = np.uint64(lines.size) // _WORDS, 0
    for line in range(num_lines):
        for word in range(np.uint64(_KEYS_A_LINE)):
            lines[np.uint64(line) * _WORDS + word] = _EMPTY
        lines[np.uint64(line) * _WORDS + np.uint64(5)] = _ZERO
        lines[np.uint64(line) * _WORDS + np.uint64(6)] = _ZERO
        lines[np.uint64(line) * _WORDS + np.uint64(7)] = _WRITTEN
    mixed = np.empty(BLOCK, np.uint64)
    for start in range(0, prefix_nodes.size, BLOCK):
        end = min(start + BLOCK, prefix_nodes.size)
        for i in range(start, end):
            mixed[i - start] = _hash(key_of(prefix_nodes[i], last_tokens[i]))
            prefetch(address + np.uint64(8) * _first_word(mixed[i - start], num_lines))
        for i in range(start, end):
            key = key_of(prefix_nodes[i], last_tokens[i])
            repeated += _insert(lines, mixed[i - start], key, np.uint64(i))
    return repeated


def num_lines(num_fgrams: int) -> int:
    """Lines, of 64 bytes each, of the index of so many f-grams: four fifths full."""
    return num_fgrams // _FULL_KEYS + 2


def _empty_lines(count: int) -> U64:
    """So many lines that each begin where a line of the cache does."""
    raw = np.empty((count + 1) * LINE, np.uint8)
    first = -raw.ctypes.data % LINE
    return raw[first : first + count * LINE].view(np.uint64)


# ---- matching ----------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True)
def match_block(tokens, firsts, carried, lines, address, num_tokens, num_fgrams, nodes, waiting, keys, ids, lengths):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Match up to BLOCK tokens, length by length: all probes of one length are on their way together.

    firsts[j]: token j does not follow token j - 1; the nodes that end before it are carried[j]. Writes nodes[n - 1, j], the
    node of n tokens that ends at token j, and returns the number of lines that were lost.
    """
    max_n = carried.shape[1] + 1
    size, lost = tokens.size, 0
    for j in range(size):
        ids[j] = _NONE
        lengths[j] = 0
        nodes[0, j] = tokens[j] if tokens[j] < num_tokens else _NONE  # what is no token is in no f-gram
        for n in range(1, max_n):
            nodes[n, j] = _NONE
    for n in range(2, max_n + 1):
        # The vocabulary is closed under prefixes and suffixes, so of n tokens only what continues a node of n - 1 that ended
        # one token before can match, and only where n - 1 tokens do.
        count = 0
        for j in range(size):
            shorter = carried[j, n - 2] if firsts[j] else nodes[n - 2, j - 1]
            key = key_of(shorter, tokens[j])
            keys[count], waiting[count] = key, j
            if shorter != _NONE and nodes[n - 2, j] != _NONE:
                prefetch_key(address, np.uint64(lines.size), key)
                count += 1
        for k in range(count):
            found, j = find(lines, keys[k]), waiting[k]
            if found != _NONE:
                if found < num_fgrams:
                    ids[j], lengths[j] = found, n
                    nodes[n - 1, j] = np.uint32(num_tokens) + found
                else:
                    lost += 1
        if not count:
            break
    return lost


@njit(nogil=True, cache=True)
def _match(tokens, starts, lines, address, num_tokens, num_fgrams, width, ids, lengths):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Match documents tokens[starts[d] : starts[d + 1]]; returns the number of lines that were lost."""
    firsts, carried = np.empty(BLOCK, np.bool_), np.full((BLOCK, width), _NONE, np.uint32)
    nodes = np.empty((width + 1, BLOCK), np.uint32)
    waiting, keys = np.empty(BLOCK + 1, np.int64), np.empty(BLOCK + 1, np.uint64)
    lost, doc, begin, end = 0, 0, starts[0], starts[-1]
    for start in range(begin, end, BLOCK):
        size = min(BLOCK, end - start)
        firsts[:size] = False
        while starts[doc] < start + size:
            if starts[doc] >= start:
                firsts[starts[doc] - start] = True
                if starts[doc] == start:
                    carried[0] = _NONE
            doc += 1
        firsts[0] = True  # what came before it in its document has been carried over
        here = slice(start, start + size)
        lost += match_block(
            tokens[here],
            firsts,
            carried,
            lines,
            address,
            num_tokens,
            num_fgrams,
            nodes,
            waiting,
            keys,
            ids[here],
            lengths[here],
        )
        for n in range(width):
            carried[0, n] = nodes[n, size - 1]
    return lost


@njit(nogil=True, cache=True)
def _suffixes(prefix_nodes, last_tokens, lines, num_tokens, suffixes):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """A prefix ranks before what continues it, so its own suffix is known; returns how many suffixes are missing."""
    missing = 0
    for i in range(prefix_nodes.size):
        prefix, last = np.int64(prefix_nodes[i]), last_tokens[i]
        if prefix < num_tokens:
            suffixes[i] = last
            continue
        found = find(lines, key_of(suffixes[prefix - num_tokens], last))
        missing += found == _NONE
        suffixes[i] = np.uint32(num_tokens) + found
    return missing


@dataclass(frozen=True)
class FgramIndex:
    """Finds the longest f-gram that ends at a position (paper, section 3.1), with K - 1 probes a token at most.

    lines uint64 [8L], 8 words a line: see above. An f-gram's key is (node of its prefix << 32 | last token).
    """

    lines: U64
    num_fgrams: int
    num_tokens: int
    max_n: int

    @classmethod
    def build(cls, prefix_nodes: U32, last_tokens: U32, num_tokens: int, max_n: int) -> FgramIndex:
        """Index the f-grams 0..S-1, f-gram i being node `prefix_nodes[i]` followed by `last_tokens[i]`.

        Raises:
            ValueError: an f-gram is there twice.
        """
        lines = _empty_lines(num_lines(prefix_nodes.size))
        if _fill(lines, prefix_nodes, last_tokens, np.uint64(lines.ctypes.data)):
            raise ValueError("the same n-gram twice")
        return cls(lines, int(prefix_nodes.size), num_tokens, max_n)

    def match(self, tokens: U32, starts: I64 | None = None) -> tuple[U32, U8]:
        """Ids and lengths of the longest f-gram ending at each position; (NONE, 0) where there is none.

        `starts` [D + 1] bounds the documents (None: one document); a match never reaches across a document's start.

        Raises:
            DamagedArtifact: the index is mapped, and its file has changed.
        """
        if starts is None:
            starts = np.array([0, tokens.size], np.int64)
        ids, lengths = np.empty(tokens.size, np.uint32), np.empty(tokens.size, np.uint8)
        address = np.uint64(self.lines.ctypes.data)
        width = self.max_n - 1
        lost = _match(tokens, starts, self.lines, address, self.num_tokens, self.num_fgrams, width, ids, lengths)
        if lost:
            raise self.damage()
        return ids, lengths

    @staticmethod
    def damage() -> DamagedArtifact:
        """What to say when a probe met what no index holds."""
        return DamagedArtifact("the index of the f-grams: its file was changed or cut short while it was read", REMAKE)

    def suffixes(self, prefix_nodes: U32, last_tokens: U32) -> U32:
        """The node of each of the index's f-grams without its first token [S].

        Raises:
            ValueError: it is no f-gram.
        """
        suffixes = np.empty(prefix_nodes.size, np.uint32)
        if _suffixes(prefix_nodes, last_tokens, self.lines, self.num_tokens, suffixes):
            raise ValueError("f-grams that are not closed under suffixes")
        return suffixes

    @property
    def nbytes(self) -> int:
        """Bytes of the index in memory: 16 an f-gram, and two lines."""
        return int(self.lines.nbytes)
