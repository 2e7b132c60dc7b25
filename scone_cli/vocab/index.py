"""Kernels that find f-grams in a text: the index of the f-grams, and longest-suffix matching.

An n-gram is its prefix and its last token: with a 32-bit *node* for the prefix, `node, token` is exact for every n. Node
t < num_tokens is the single token t, node num_tokens + i is f-gram i.

The index is a hash table of lines of 64 bytes, as the cache has them, so that a probe waits for memory once. The two numbers
are written one after the other, in as many bits as they can take, and permuted: that is the n-gram's *place*. Its high bits give
the line in which it is looked for first, so only what tells the places of one line apart, 24 bits at most, is kept there: a
place is found by its line and these bits, and nothing is left to chance. A line is 8 tags and 8 ids, of 32 bits. A tag is
those bits, the number of lines that were full before this one was tried, and 3 more that belong to no tag: all of a line's
together say that the line was written, and are a filter of those that found it full.
"""

# Of kernels numba infers the types.
# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from scone_cli.arrays import I64, U8, U32
from scone_cli.errors import BadSetting, DamagedArtifact
from scone_cli.runtime.kernel_cache import kernel
from scone_cli.runtime.native_memory import LINE, prefetch
from scone_cli.vocab.given_ids import as_tokens

Shape = tuple[np.uint64, np.uint64, np.uint64, np.uint64]

NONE = 0xFFFFFFFF  # no f-gram
REMAKE = "run: scone precompute --force"
_NONE = np.uint32(NONE)
_LOST = np.uint32(NONE - 1)  # instead of an id: the line that would hold it is not what was written
_MIX_1, _MIX_2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)  # odd: no two numbers become one
_0, _1, _3, _7, _16, _23, _29, _31, _32 = (np.uint64(number) for number in (0, 1, 3, 7, 16, 23, 29, 31, 32))
_LOW16 = np.uint64(0xFFFF)
_TAG = np.uint32(0x1FFFFFFF)
_EMPTY = np.uint32(0x1FFFFFFF)  # a tag that none is: as many lines are never tried
_WRITTEN = np.uint32(0x20000000)  # in the first tag of every line: one that was never written is zero
_MOST_TRIED = 31
_TAGS = 8  # of a line, and as many ids
_WORDS = np.uint64(2 * _TAGS)
_REST_BITS = 24
_FULL = 6.5  # of eight, on average: 9.85 bytes an f-gram
BLOCK = 64  # probes on their way at a time


# ---- where an n-gram is looked for -------------------------------------------------------------------------------

_TOKEN_BITS, _BITS, _NUM_LINES, _PACE = range(4)


def shape_of(num_fgrams: int, num_tokens: int, num_lines: int) -> Shape:
    """What places are worked out from: bits of a token, bits of a place, lines, 2**63 / lines."""
    token_bits, bits = _bits(num_fgrams, num_tokens)
    return np.uint64(token_bits), np.uint64(bits), np.uint64(num_lines), np.uint64((1 << 63) // num_lines)


def _bits(num_fgrams: int, num_tokens: int) -> tuple[int, int]:
    token_bits = max(1, (num_tokens - 1).bit_length())
    return token_bits, max(32, token_bits + (num_tokens + num_fgrams).bit_length())


def fewest_lines(num_fgrams: int, num_tokens: int) -> int:
    """Lines, of 64 bytes each, of the index of so many f-grams; it has a few more where one was found to be too full.

    With few f-grams of many tokens it is not their number that decides, but that a line has few enough places.

    Raises:
        BadSetting: the index cannot tell so many tokens and f-grams apart.
    """
    _, bits = _bits(num_fgrams, num_tokens)
    room = (1 << max(0, 32 + _REST_BITS - bits)) - 2  # a line's share of the high 32 bits, with what rounding may add
    if room < 2:
        found = f"{num_tokens:,} tokens and {num_fgrams:,} f-grams"
        raise BadSetting(f"{found}: more than the index can tell apart", "use a tokenizer with fewer than 1M tokens")
    return _prime(max(int(num_fgrams / _FULL) + 2, -(-(1 << 32) // room)))


def _prime(number: int) -> int:
    """The first prime from a number on: with so many lines every stride meets all of them."""
    while any(number % divisor == 0 for divisor in range(2, math.isqrt(number) + 1)):
        number += 1
    return number


@kernel(inline="always")
def place_of(node, token, shape):
    """The place of the n-gram that is a node and one token more."""
    bits = shape[_BITS]
    half, mask = (bits + _1) >> _1, (_1 << bits) - _1
    place = np.uint64(node) << shape[_TOKEN_BITS] | np.uint64(token)
    place = ((place ^ (place >> half)) * _MIX_1) & mask
    place = ((place ^ (place >> half)) * _MIX_2) & mask
    return place ^ (place >> half)


@kernel(inline="always")
def _first_line(place, shape):
    """By the high 32 bits: any number of lines will do, not just powers of two."""
    return ((place >> (shape[_BITS] - _32)) * shape[_NUM_LINES]) >> _32


@kernel(inline="always")
def _rest(place, line, shape):
    """What tells a place from all others with the same first line: how far it lies behind where that line's begin."""
    low_bits = shape[_BITS] - _32
    return place - ((line * shape[_PACE]) >> _31 << low_bits)


@kernel(inline="always")
def _stride(rest, shape):
    """From a full line to the next to be tried: by the rest, so that line, rest and lines tried still name one place."""
    return _1 + ((((rest * _MIX_1) >> _32) * (shape[_NUM_LINES] - _1)) >> _32)


@kernel(inline="always")
def _filter_bit(place):
    """Which of the 23 bits, beside _WRITTEN, stands for a place: by its low bits."""
    return _1 + (((place & _LOW16) * _23) >> _16)


@kernel(inline="always")
def prefetch_place(address, place, shape):
    """Begin to read the line in which a place is looked for first; the lines lie at `address`."""
    prefetch(address + np.uint64(LINE) * _first_line(place, shape))


@kernel(inline="always")
def find(lines, place, shape):
    """The id of what has this place, NONE, or _LOST."""
    line = _first_line(place, shape)
    rest = _rest(place, line, shape)
    tag, bit = np.uint32(rest), _filter_bit(place)
    for _ in range(_MOST_TRIED):
        at = line * _WORDS
        if not lines[at] & _WRITTEN:
            return _LOST
        found = _NONE  # all eight are compared, without branches: which one it is cannot be foreseen
        for i in range(_TAGS):
            found = lines[at + np.uint64(_TAGS + i)] if lines[at + np.uint64(i)] & _TAG == tag else found
        if found != _NONE or not (lines[at + (bit & _7)] >> np.uint32(_29 + (bit >> _3))) & np.uint32(1):
            return found
        tag += np.uint32(1 << _REST_BITS)
        line += _stride(rest, shape)
        line -= shape[_NUM_LINES] if line >= shape[_NUM_LINES] else _0
    return _NONE


@kernel(inline="always")
def _insert(lines, place, value, shape):
    """Put a place into the first line with room: 0 if that was done, 1 if it was there, 2 if there was no room."""
    line = _first_line(place, shape)
    rest = _rest(place, line, shape)
    tag, bit = np.uint32(rest), _filter_bit(place)
    for _ in range(_MOST_TRIED):
        at = line * _WORDS
        for i in range(_TAGS):
            word = at + np.uint64(i)
            if lines[word] & _TAG == tag:
                return 1
            if lines[word] & _TAG == _EMPTY:
                lines[word] = (lines[word] & ~_TAG) | tag
                lines[word + np.uint64(_TAGS)] = value
                return 0
        lines[at + (bit & _7)] |= np.uint32(1) << np.uint32(_29 + (bit >> _3))
        tag += np.uint32(1 << _REST_BITS)
        line += _stride(rest, shape)
        line -= shape[_NUM_LINES] if line >= shape[_NUM_LINES] else _0
    return 2


@kernel()
def _fill(lines, prefix_nodes, last_tokens, address, shape):
    """Insert all f-grams; returns how many were already there, and whether all found room."""
    for line in range(shape[_NUM_LINES]):
        for i in range(_TAGS):
            at = np.uint64(line) * _WORDS + np.uint64(i)
            lines[at] = _EMPTY if i else _EMPTY | _WRITTEN
            lines[at + np.uint64(_TAGS)] = _NONE
    places, repeated = np.empty(BLOCK, np.uint64), 0
    for start in range(0, prefix_nodes.size, BLOCK):
        end = min(start + BLOCK, prefix_nodes.size)
        for i in range(start, end):
            places[i - start] = place_of(prefix_nodes[i], last_tokens[i], shape)
            prefetch_place(address, places[i - start], shape)
        for i in range(start, end):
            done = _insert(lines, places[i - start], np.uint32(i), shape)
            repeated += done == 1
            if done == 2:
                return repeated, False
    return repeated, True


def _empty_lines(count: int) -> U32:
    """So many lines that each begin where a line of the cache does."""
    raw = np.empty((count + 1) * LINE, np.uint8)
    first = -raw.ctypes.data % LINE
    return raw[first : first + count * LINE].view(np.uint32)


# ---- matching ----------------------------------------------------------------------------------------------------


@kernel()
def match_block(tokens, firsts, carried, lines, address, shape, sizes, nodes, waiting, places, ids, lengths):
    """Match up to BLOCK tokens, length by length: all probes of one length are on their way together.

    sizes: how many tokens and f-grams there are. firsts[j]: token j does not follow token j - 1; the nodes that end before it
    are carried[j]. Writes nodes[n - 1, j], the node of n tokens that ends at token j, and returns the number of lines lost.
    """
    max_n, (num_tokens, num_fgrams) = carried.shape[1] + 1, sizes
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
            place = place_of(shorter, tokens[j], shape)
            places[count], waiting[count] = place, j
            if shorter != _NONE and nodes[n - 2, j] != _NONE:
                prefetch_place(address, place, shape)
                count += 1
        for k in range(count):
            found, j = find(lines, places[k], shape), waiting[k]
            if found != _NONE:
                if found < num_fgrams:
                    ids[j], lengths[j] = found, n
                    nodes[n - 1, j] = np.uint32(num_tokens) + found
                else:
                    lost += 1
        if not count:
            break
    return lost


@kernel()
def _match(tokens, starts, lines, address, shape, sizes, width, ids, lengths):
    """Match documents tokens[starts[d] : starts[d + 1]]; returns the number of lines that were lost."""
    firsts, carried = np.empty(BLOCK, np.bool_), np.full((BLOCK, width), _NONE, np.uint32)
    nodes = np.empty((width + 1, BLOCK), np.uint32)
    waiting, places = np.empty(BLOCK + 1, np.int64), np.empty(BLOCK + 1, np.uint64)
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
            shape,
            sizes,
            nodes,
            waiting,
            places,
            ids[here],
            lengths[here],
        )
        for n in range(width):
            carried[0, n] = nodes[n, size - 1]
    return lost


@kernel()
def _suffixes(prefix_nodes, last_tokens, lines, shape, num_tokens, suffixes):
    """A prefix ranks before what continues it, so its own suffix is known; returns how many suffixes are missing."""
    missing = 0
    for i in range(prefix_nodes.size):
        prefix, last = np.int64(prefix_nodes[i]), last_tokens[i]
        if prefix < num_tokens:
            suffixes[i] = last
            continue
        found = find(lines, place_of(suffixes[prefix - num_tokens], last, shape), shape)
        missing += found == _NONE
        suffixes[i] = np.uint32(num_tokens) + found
    return missing


@dataclass(frozen=True)
class FgramIndex:
    """Finds the longest f-gram that ends at a position (paper, section 3.1), with K - 1 probes a token at most.

    lines uint32 [16 L], 16 words a line: see above.
    """

    lines: U32
    num_fgrams: int
    num_tokens: int
    max_n: int

    @classmethod
    def build(cls, prefix_nodes: U32, last_tokens: U32, num_tokens: int, max_n: int) -> FgramIndex:
        """Index the f-grams 0..S-1, f-gram i being node `prefix_nodes[i]` followed by `last_tokens[i]`.

        Raises:
            ValueError: an f-gram is there twice.
            BadSetting: there are more tokens than an index can tell apart.
        """
        num_lines, has_room = fewest_lines(prefix_nodes.size, num_tokens), False
        while not has_room:
            lines, shape = _empty_lines(num_lines), shape_of(prefix_nodes.size, num_tokens, num_lines)
            repeated, has_room = _fill(lines, prefix_nodes, last_tokens, np.uint64(lines.ctypes.data), shape)
            if repeated:
                raise ValueError("the same n-gram twice")
            num_lines = _prime(num_lines + num_lines // 16 + 1)  # for the next try, which is hardly ever needed
        return cls(lines, int(prefix_nodes.size), num_tokens, max_n)

    @property
    def shape(self) -> Shape:
        """What `place_of` and `find` are called with."""
        return shape_of(self.num_fgrams, self.num_tokens, self.lines.nbytes // LINE)

    def match(self, tokens: U32, starts: I64 | None = None) -> tuple[U32, U8]:
        """Ids and lengths of the longest f-gram ending at each position; (NONE, 0) where there is none.

        `starts` [D + 1] bounds the documents (None: one document); a match never reaches across a document's start.

        Raises:
            ValueError: the documents are not all of the tokens; tokens that are no whole numbers in one dimension.
            UnknownToken: an id is that of no token.
            DamagedArtifact: a line of the index is not what was written.
        """
        tokens = as_tokens(tokens, self.num_tokens)
        if starts is None:
            starts = np.array([0, tokens.size], np.int64)
        if not starts.size or starts[0] != 0 or starts[-1] != tokens.size or (np.diff(starts) < 0).any():
            raise ValueError("documents that are not all of the tokens, one after the other")
        ids, lengths = np.empty(tokens.size, np.uint32), np.empty(tokens.size, np.uint8)
        address = np.uint64(self.lines.ctypes.data)
        width = self.max_n - 1
        sizes = self.num_tokens, self.num_fgrams
        lost = _match(tokens, starts, self.lines, address, self.shape, sizes, width, ids, lengths)
        if lost:
            raise self.damage()
        return ids, lengths

    @staticmethod
    def damage() -> DamagedArtifact:
        """What to say when a probe met what no index holds."""
        return DamagedArtifact("the index of the f-grams: it holds what no index holds", REMAKE)

    def suffixes(self, prefix_nodes: U32, last_tokens: U32) -> U32:
        """The node of each of the index's f-grams without its first token [S].

        Raises:
            ValueError: it is no f-gram.
        """
        suffixes = np.empty(prefix_nodes.size, np.uint32)
        if _suffixes(prefix_nodes, last_tokens, self.lines, self.shape, self.num_tokens, suffixes):
            raise ValueError("f-grams that are not closed under suffixes")
        return suffixes

    @property
    def nbytes(self) -> int:
        """Bytes of the index in memory: about 10 an f-gram."""
        return int(self.lines.nbytes)
