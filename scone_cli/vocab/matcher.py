"""Matches f-grams in token streams that arrive in pieces: chunked prefill, decoding, many streams at once, speculative drafts.

A stream's state is the nodes of 1..K-1 tokens that end at its last token, so earlier tokens are not needed again. The states
after the last 64 tokens are kept, so that drafted tokens can be taken back. Reading the rows of the matches is in `table`.
"""

# numba infers the types of kernels.
# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import carray

from scone_cli.arrays import U32
from scone_cli.errors import NotEnoughMemory
from scone_cli.runtime.kernel_cache import kernel
from scone_cli.runtime.native_memory import Addressed, pointer
from scone_cli.runtime.resources import available_memory
from scone_cli.vocab.given_ids import ID, Ids, as_tokens, as_whole_numbers, unknown_token, whole_number
from scone_cli.vocab.index import BLOCK, NONE, FgramIndex, find, match_block, place_of, prefetch_place

ROLL_BACK = 64  # tokens that a stream can take back
_NOTHING = 64 << 20  # bytes; below this the free memory is not checked, which would cost 0.1 ms
_HELD = ROLL_BACK + 1  # states kept per stream: after each of these tokens, and before the first
_NONE, _LOST, _NO_TOKEN = np.uint32(NONE), NONE - 1, NONE - 2
_array, _empty, _LONG, _ONE = np.ndarray, np.empty, np.dtype(np.int64), (1,)  # constants: see `given_ids.ID`
# The kernels get the address of one such record: passing an array costs a call more time than a probe. A field that holds an
# address has the name of the data at that address.
_STATE = np.dtype(
    [
        ("lines", np.int64),  # of the index
        ("num_words", np.int64),
        ("num_tokens", np.int64),
        ("known", np.int64),  # num_tokens, or 0 after the table is closed
        ("num_fgrams", np.int64),
        ("width", np.int64),  # K - 1
        ("num_streams", np.int64),
        ("states", np.int64),
        ("seen", np.int64),  # number of tokens read in each stream
        ("oldest", np.int64),  # number of tokens before the oldest state that is kept, of each stream
        ("called", np.int64),  # number of the last call in which each stream had a piece
        ("call", np.int64),
        ("work", np.int64),
        ("token_bits", np.uint64),  # from here on: the shape of the index
        ("bits", np.uint64),
        ("num_lines", np.uint64),
        ("pace", np.uint64),
    ]
)


@kernel(inline="always")
def _i64(address, size):
    return carray(pointer(np.uint64(address)), (size,), np.int64)


@kernel(inline="always")
def _state(address):
    return carray(pointer(np.uint64(address)), (1,), _STATE)[0]


@kernel(inline="always")
def _shape(state):
    return state.token_bits, state.bits, state.num_lines, state.pace


@kernel()
def _is_sound(state, starts, streams, num_tokens):
    """Whether the pieces cover all tokens in order, and each is for a different stream that exists."""
    called = _i64(state.called, state.num_streams)
    state.call += 1
    if starts.size != streams.size + 1 or starts[0] != 0 or starts[-1] != num_tokens:
        return False
    for piece in range(streams.size):
        stream = streams[piece]
        if starts[piece] > starts[piece + 1] or stream < 0 or stream >= state.num_streams:
            return False
        if called[stream] == state.call:
            return False
        called[stream] = state.call
    return True


@kernel()
def _match(state, tokens, starts, streams, ids):
    """Match one piece of tokens for each given stream and update their states; returns the number of damaged lines."""
    width, count = state.width, state.num_streams
    lines = carray(pointer(np.uint64(state.lines)), (state.num_words,), np.uint32)
    states = carray(pointer(np.uint64(state.states)), (count, _HELD, width), np.uint32)
    seen, oldest = _i64(state.seen, count), _i64(state.oldest, count)
    work = np.uint64(state.work)  # one scratch buffer for all arrays below
    owners, firsts, waiting, places = (
        _i64(work, BLOCK + 1),
        _i64(work + np.uint64(8 * BLOCK + 8), BLOCK),
        _i64(work + np.uint64(16 * BLOCK + 16), BLOCK + 1),
        carray(pointer(work + np.uint64(24 * BLOCK + 24)), (BLOCK + 1,), np.uint64),
    )
    lengths = carray(pointer(work + np.uint64(32 * BLOCK + 32)), (BLOCK,), np.uint8)
    carried = carray(pointer(work + np.uint64(33 * BLOCK + 32)), (BLOCK, width), np.uint32)
    nodes = carray(pointer(work + np.uint64((33 + 4 * width) * BLOCK + 32)), (width + 1, BLOCK), np.uint32)
    shape, lost, piece = _shape(state), 0, 0
    for start in range(0, tokens.size, BLOCK):
        size = min(BLOCK, tokens.size - start)
        for j in range(size):
            firsts[j] = j == 0
            while starts[piece + 1] <= start + j:
                piece += 1
            firsts[j] |= starts[piece] == start + j
            owners[j] = streams[piece]
            if firsts[j]:
                for n in range(width):
                    carried[j, n] = states[owners[j], seen[owners[j]] % _HELD, n]
        here = slice(start, start + size)
        lost += match_block(
            tokens[here],
            firsts,
            carried,
            lines,
            np.uint64(state.lines),
            shape,
            (state.num_tokens, state.num_fgrams),
            nodes,
            waiting,
            places,
            ids[here],
            lengths[:size],
        )
        for j in range(size):
            stream = owners[j]
            seen[stream] += 1
            oldest[stream] = max(oldest[stream], seen[stream] - ROLL_BACK)
            for n in range(width):
                states[stream, seen[stream] % _HELD, n] = nodes[n, j]
    return lost


@kernel()
def _match_pieces(address, tokens, starts, streams, ids):
    state = _state(address)
    return _match(state, tokens, starts, streams, ids) if _is_sound(state, starts, streams, tokens.size) else -1


@kernel(nogil=False)  # releasing the GIL would take longer than the match
def _match_token(address, token):
    """Match one token of stream 0, as decoding does. All its probes start at once.

    Returns the id of the match, _NONE, _LOST if the index is damaged, or _NO_TOKEN for an invalid token, which leaves the
    stream unchanged.
    """
    state = _state(address)
    if token < 0 or token >= state.known:
        return np.int64(_NO_TOKEN)
    width, count = state.width, state.num_streams
    lines = carray(pointer(np.uint64(state.lines)), (state.num_words,), np.uint32)
    states = carray(pointer(np.uint64(state.states)), (count, _HELD, width), np.uint32)
    seen, oldest = _i64(state.seen, count), _i64(state.oldest, count)
    before = seen[0] % _HELD
    seen[0] += 1
    oldest[0] = max(oldest[0], seen[0] - ROLL_BACK)
    after = seen[0] % _HELD
    for n in range(width):
        states[0, after, n] = _NONE
    shape, places = _shape(state), carray(pointer(np.uint64(state.work)), (width,), np.uint64)
    for n in range(width):
        if states[0, before, n] != _NONE:
            places[n] = place_of(states[0, before, n], token, shape)
            prefetch_place(np.uint64(state.lines), places[n], shape)
    states[0, after, 0] = token
    match = _NONE
    for n in range(width):  # from the node of n + 1 tokens that ended one token before
        found = _NONE
        if states[0, before, n] != _NONE:
            found = find(lines, places[n], shape)
        if found == _NONE:
            break
        if found >= state.num_fgrams:
            return np.int64(_LOST)
        match = found
        if n + 1 < width:
            states[0, after, n + 1] = np.uint32(state.num_tokens) + found
    return np.int64(match)


@kernel()
def _match_first(address, tokens, ids):
    return _match(_state(address), tokens, (0, tokens.size), (0,), ids)


class Matcher(Addressed):
    """Matches token streams piece by piece, with the same result as matching each stream at once. `Table.matcher` makes one.

    A stream is one document; `reset` begins the next one, and no match crosses it. Only one thread may use a matcher at a
    time. A stream takes 1 KiB (K = 5). After a fork, parent and child each have their own copies of the streams.
    """

    def __init__(self, index: FgramIndex, streams: int = 1) -> None:
        streams = whole_number(streams, "streams:", least=1)
        self.index = index
        width = index.max_n - 1
        needed = streams * (_HELD * width * 4 + 3 * 8)
        if needed > _NOTHING and needed > (free := available_memory()):
            raise NotEnoughMemory(
                f"{streams:,} streams take {needed:,} bytes of memory, {free:,} are free", "ask for fewer"
            )
        self._states = np.full((streams, _HELD, width), _NONE, np.uint32)  # after p tokens: row p % _HELD
        self._seen, self._oldest, called = (np.zeros(streams, np.int64) for _ in range(3))
        work = np.empty((33 + 8 * width + 4) * BLOCK + 32, np.uint8)
        lines, num_tokens = index.lines, index.num_tokens
        sizes = (lines.ctypes.data, lines.size, num_tokens, num_tokens, index.num_fgrams, width, streams)
        addresses = [array.ctypes.data for array in (self._states, self._seen, self._oldest, called)]
        self._state = np.array([(*sizes, *addresses, 0, work.ctypes.data, *index.shape)], _STATE)
        self._kept, self._address = (lines, called, work), int(self._state.ctypes.data)

    def match(self, tokens: Ids, starts: Ids | None = None, streams: Ids | None = None) -> U32:
        """Read the next tokens [N]; returns the ids, uint32 [N], of the longest f-grams that end at each (2**32 - 1: none).

        Tokens are whole numbers of any type: an array (not copied if uint32 and contiguous), a list, or a CPU tensor.
        `starts` [M + 1] cuts the tokens into pieces, one for each of the streams `streams` [M] (distinct; None: the first M).
        Without `starts` all tokens are for stream 0. After an error other than DamagedArtifact, the streams are unchanged.

        Raises:
            ValueError: the pieces do not cover all tokens, or are not for different streams of this matcher; tokens, starts
                or streams are not whole numbers in one dimension; the table was closed.
            UnknownToken: a token id is outside the vocabulary (a subclass of ValueError).
            DamagedArtifact: a line of the index is damaged.
        """
        if (
            starts is None
            and streams is None
            and type(tokens) is _array
            and tokens.shape == _ONE
            and (tokens.dtype is ID or tokens.dtype is _LONG)
        ):
            ids = _empty(1, ID)
            ids[0] = found = _match_token(self._address, tokens.item())
            if found == _LOST:
                raise self.index.damage()
            if found == _NO_TOKEN:
                raise unknown_token(tokens, self.index.num_tokens)
            return ids
        read = as_tokens(tokens, self.index.num_tokens)
        ids = np.empty(read.size, np.uint32)
        if starts is None:
            if streams is not None:
                raise ValueError("streams are given without starts, the offsets of their pieces")
            lost = _match_first(self._address, read, ids)
        else:
            begins = as_whole_numbers(starts, "starts").astype(np.int64)
            given = np.arange(begins.size - 1) if streams is None else as_whole_numbers(streams, "streams")
            lost = _match_pieces(self._address, read, begins, given.astype(np.int64), ids)
        if lost:
            if lost < 0:
                raise ValueError(
                    "starts and streams: expected pieces that cover all tokens, each for a different stream"
                )
            raise self.index.damage()
        return ids

    def roll_back(self, tokens: int, stream: int = 0) -> None:
        """Take back the last `tokens` tokens of a stream, such as drafted tokens that were rejected.

        Raises:
            ValueError: the stream has read fewer tokens, or its older states are gone (the last 64 are always kept); there is
                no such stream.
        """
        stream = whole_number(stream, "stream", 0, len(self._seen))
        possible = int(self._seen[stream] - self._oldest[stream])
        self._seen[stream] -= whole_number(tokens, "tokens to take back:", 0, possible + 1)

    def reset(self, stream: int = 0) -> None:
        """Begin a new document in a stream.

        Raises:
            ValueError: there is no such stream.
        """
        stream = whole_number(stream, "stream", 0, len(self._seen))
        self._seen[stream] = self._oldest[stream] = 0
        self._states[stream, 0] = _NONE

    def close(self, instead: FgramIndex) -> None:
        """Stop matching: later calls use `instead`, whose error says why. Only `Table.close` calls this.

        The lines of the index stay in memory as long as the matcher, because another thread may be reading them.
        """
        self._state["known"] = 0
        self.index = instead
