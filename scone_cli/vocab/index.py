"""Kernels that find f-grams in a text: a hash index of the f-grams, and longest-suffix matching.

An n-gram's key is a pair of numbers, exact for every n: the 32-bit *node* of its prefix, and its last token. Node
t < num_tokens is the single token t; node num_tokens + i is f-gram i.

The index is a hash table of lines of 64 bytes, the size of a cache line, so a probe waits for memory once. The two numbers of
a key are concatenated into as few bits as possible and permuted: the result is the n-gram's *place*. The high bits of the place
give the first line to search. The line stores only the bits that tell its places apart, 24 at most. The permutation is
invertible, so line and stored bits together identify the n-gram exactly: there are no false matches. A line has 8 tags and 8
ids of 32 bits each. A tag holds the stored bits (24), the number of full lines that were tried before this one (5), and 3
extra bits. The 24 extra bits of a line are one mark that the line was written, and 23 bits of a filter: they tell which
places found the line full.
"""

# numba infers the types of kernels.
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
_LOST = np.uint32(NONE - 1)  # returned instead of an id: the index is damaged at this line
_MIX_1, _MIX_2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)  # odd: multiplying is invertible
_0, _1, _3, _7, _16, _23, _29, _31, _32 = (np.uint64(number) for number in (0, 1, 3, 7, 16, 23, 29, 31, 32))
_LOW16 = np.uint64(0xFFFF)
_TAG = np.uint32(0x1FFFFFFF)
_EMPTY = np.uint32(0x1FFFFFFF)  # no place has this tag: it would mean 31 full lines before this one
_WRITTEN = np.uint32(0x20000000)  # set in the first tag of every line; a line that was never written is zero
_MOST_TRIED = 31
_TAGS = 8  # per line, and as many ids
_WORDS = np.uint64(2 * _TAGS)
_REST_BITS = 24
_FULL = 6.5  # f-grams per line on average, of at most 8: 9.85 bytes per f-gram
BLOCK = 64  # probes that wait for memory at the same time


# ---- where an n-gram is looked for -------------------------------------------------------------------------------

_TOKEN_BITS, _BITS, _NUM_LINES, _PACE = range(4)


def shape_of(num_fgrams: int, num_tokens: int, num_lines: int) -> Shape:
    """The numbers from which places are computed: bits of a token, bits of a place, lines, 2**63 / lines."""
    token_bits, bits = _bits(num_fgrams, num_tokens)
    return np.uint64(token_bits), np.uint64(bits), np.uint64(num_lines), np.uint64((1 << 63) // num_lines)


def _bits(num_fgrams: int, num_tokens: int) -> tuple[int, int]:
    token_bits = max(1, (num_tokens - 1).bit_length())
    return token_bits, max(32, token_bits + (num_tokens + num_fgrams).bit_length())


def fewest_lines(num_fgrams: int, num_tokens: int) -> int:
    """The number of 64-byte lines in an index of so many f-grams; the build takes a few more if a line overflows.

    With few f-grams and many tokens there are more lines than the f-grams need, so that 24 bits tell the places of a line apart.

    Raises:
        BadSetting: the index cannot tell so many tokens and f-grams apart.
    """
    _, bits = _bits(num_fgrams, num_tokens)
    room = (1 << max(0, 32 + _REST_BITS - bits)) - 2  # most values of the high 32 bits per line, less 2 for rounding
    if room < 2:
        found = f"{num_tokens:,} tokens and {num_fgrams:,} f-grams"
        raise BadSetting(f"{found}: more than the index can tell apart", "use a tokenizer with fewer than 1M tokens")
    return _prime(max(int(num_fgrams / _FULL) + 2, -(-(1 << 32) // room)))


def _prime(number: int) -> int:
    """The first prime at or after a number: with a prime number of lines every stride visits all lines."""
    while any(number % divisor == 0 for divisor in range(2, math.isqrt(number) + 1)):
        number += 1
    return number


@kernel(inline="always")
def place_of(node, token, shape):
    """The place of the n-gram that is `node` followed by `token`."""
    bits = shape[_BITS]
    half, mask = (bits + _1) >> _1, (_1 << bits) - _1
    place = np.uint64(node) << shape[_TOKEN_BITS] | np.uint64(token)
    place = ((place ^ (place >> half)) * _MIX_1) & mask
    place = ((place ^ (place >> half)) * _MIX_2) & mask
    return place ^ (place >> half)


@kernel(inline="always")
def _first_line(place, shape):
    """The first line to search for a place: its high 32 bits, scaled to the number of lines (no power of two needed)."""
    return ((place >> (shape[_BITS] - _32)) * shape[_NUM_LINES]) >> _32


@kernel(inline="always")
def _rest(place, line, shape):
    """What tells a place from all others with the same first line: its distance from the first place of that line."""
    low_bits = shape[_BITS] - _32
    return place - ((line * shape[_PACE]) >> _31 << low_bits)


@kernel(inline="always")
def _stride(rest, shape):
    """The step from a full line to the next to try. It depends on `rest` only, so line, rest and tries identify one place."""
    return _1 + ((((rest * _MIX_1) >> _32) * (shape[_NUM_LINES] - _1)) >> _32)


@kernel(inline="always")
def _filter_bit(place):
    """The filter bit of a place (1 to 23, bit 0 is _WRITTEN), from its low bits."""
    return _1 + (((place & _LOW16) * _23) >> _16)


@kernel(inline="always")
def prefetch_place(address, place, shape):
    """Start loading the first line of a place into the cache; `address` is the address of the lines."""
    prefetch(address + np.uint64(LINE) * _first_line(place, shape))


@kernel(inline="always")
def find(lines, place, shape):
    """Look up a place: the id of its f-gram, NONE if there is none, or _LOST if the index is damaged."""
    line = _first_line(place, shape)
    rest = _rest(place, line, shape)
    tag, bit = np.uint32(rest), _filter_bit(place)
    for _ in range(_MOST_TRIED):
        at = line * _WORDS
        if not lines[at] & _WRITTEN:
            return _LOST
        found = _NONE  # all eight are compared without branches: the CPU could not predict which one matches
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
    """Insert a place into the first line with room; returns 0 if inserted, 1 if already there, 2 if there was no room."""
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
    """Insert all f-grams into empty lines; returns the number of duplicates, and whether there was room for all."""
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
    """Memory for `count` lines, aligned to cache lines."""
    raw = np.empty((count + 1) * LINE, np.uint8)
    first = -raw.ctypes.data % LINE
    return raw[first : first + count * LINE].view(np.uint32)


# ---- matching ----------------------------------------------------------------------------------------------------


@kernel()
def match_block(tokens, firsts, carried, lines, address, shape, sizes, nodes, waiting, places, ids, lengths):
    """Match up to BLOCK tokens, length by length: all probes of one length wait for memory at the same time.

    sizes: the number of tokens in the vocabulary, and of f-grams. firsts[j]: token j does not follow token j - 1; carried[j]
    holds the nodes that end before it. Writes ids, lengths and nodes[n - 1, j], the node of n tokens that ends at token j;
    returns the number of damaged lines.
    """
    max_n, (num_tokens, num_fgrams) = carried.shape[1] + 1, sizes
    size, lost = tokens.size, 0
    for j in range(size):
        ids[j] = _NONE
        lengths[j] = 0
        nodes[0, j] = tokens[j] if tokens[j] < num_tokens else _NONE  # an id outside the vocabulary is in no f-gram
        for n in range(1, max_n):
            nodes[n, j] = _NONE
    for n in range(2, max_n + 1):
        # The vocabulary is closed under prefixes and suffixes. So n tokens can match only if their first n - 1 tokens and
        # their last n - 1 tokens are nodes.
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
    """Match the documents tokens[starts[d] : starts[d + 1]]; returns the number of damaged lines."""
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
        firsts[0] = True  # the nodes before it are in carried[0]
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
    """Find the suffix of every f-gram in rank order, from the suffix of its prefix; returns how many are missing."""
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
    """Finds the longest f-gram that ends at each position (paper, section 3.1), with at most K - 1 probes per token.

    lines uint32 [16 L], 16 words per line: see above.
    """

    lines: U32
    num_fgrams: int
    num_tokens: int
    max_n: int

    @classmethod
    def build(cls, prefix_nodes: U32, last_tokens: U32, num_tokens: int, max_n: int) -> FgramIndex:
        """Build the index of f-grams 0..S-1; f-gram i is node `prefix_nodes[i]` followed by token `last_tokens[i]`.

        Raises:
            ValueError: an f-gram is given twice.
            BadSetting: there are more tokens than an index can tell apart.
        """
        num_lines, has_room = fewest_lines(prefix_nodes.size, num_tokens), False
        while not has_room:
            lines, shape = _empty_lines(num_lines), shape_of(prefix_nodes.size, num_tokens, num_lines)
            repeated, has_room = _fill(lines, prefix_nodes, last_tokens, np.uint64(lines.ctypes.data), shape)
            if repeated:
                raise ValueError("the same n-gram twice")
            num_lines = _prime(num_lines + num_lines // 16 + 1)  # for another try, which is rarely needed
        return cls(lines, int(prefix_nodes.size), num_tokens, max_n)

    @property
    def shape(self) -> Shape:
        """The `shape` argument of `place_of` and `find`."""
        return shape_of(self.num_fgrams, self.num_tokens, self.lines.nbytes // LINE)

    def match(self, tokens: U32, starts: I64 | None = None) -> tuple[U32, U8]:
        """Find the longest f-gram that ends at each position: ids [N] and lengths [N]; (NONE, 0) where there is none.

        `starts` [D + 1] bounds the documents (None: one document). No match crosses the start of a document.

        Raises:
            ValueError: `starts` does not cover all tokens; tokens are not whole numbers in one dimension.
            UnknownToken: a token id is outside the vocabulary.
            DamagedArtifact: a line of the index is damaged.
        """
        tokens = as_tokens(tokens, self.num_tokens)
        if starts is None:
            starts = np.array([0, tokens.size], np.int64)
        if not starts.size or starts[0] != 0 or starts[-1] != tokens.size or (np.diff(starts) < 0).any():
            raise ValueError("starts: expected offsets of documents that cover all tokens, from 0 to their number")
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
        """The error to raise when a probe meets a damaged line."""
        return DamagedArtifact("the index of the f-grams is damaged", REMAKE)

    def suffixes(self, prefix_nodes: U32, last_tokens: U32) -> U32:
        """The node of each f-gram without its first token [S].

        Raises:
            ValueError: a suffix is not in the vocabulary.
        """
        suffixes = np.empty(prefix_nodes.size, np.uint32)
        if _suffixes(prefix_nodes, last_tokens, self.lines, self.shape, self.num_tokens, suffixes):
            raise ValueError("f-grams that are not closed under suffixes")
        return suffixes

    @property
    def nbytes(self) -> int:
        """Bytes of the index in memory: about 10 per f-gram."""
        return int(self.lines.nbytes)
