"""Which n-grams come only from given documents.

An n-gram comes only from given documents if it occurs in one of them and nowhere else in `tokens/`. The n-grams of these
documents form a trie: an n-gram is its first n - 1 tokens' number and its last token, so that all are found exactly, without
hashing. Memory: some 10 bytes for each n-gram of the given documents.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from scone_cli.arrays import I64, U32, U64

Bools = npt.NDArray[np.bool_]


class OwnNgrams:
    """The n-grams of up to `max_n` tokens of given documents, and whether others hold them too."""

    def __init__(self, documents: Iterable[tuple[U32, I64]], max_n: int) -> None:
        """`documents`: pieces of them as tokens and `starts` of segments, across which there is no n-gram."""
        tokens, starts = _joined(documents)
        self.max_n = max_n
        self._levels: list[U64] = []  # for n = 2, 3 ...: number of the first n - 1 tokens << 32 | last token, sorted
        nodes, places = tokens.astype(np.uint64), np.arange(tokens.size)
        ends = np.repeat(starts[1:], np.diff(starts))
        for n in range(2, max_n + 1):
            inside = places + n - 1 < ends[places]
            places = places[inside]
            keys = nodes[inside] << np.uint64(32) | tokens[places + n - 1]
            level, numbers = np.unique(keys, return_inverse=True)
            self._levels.append(level)
            nodes = numbers.astype(np.uint64)
        self._elsewhere: list[Bools] = [np.zeros(level.size, np.bool_) for level in self._levels]
        self._first = np.zeros(int(tokens.max()) + 1 if tokens.size else 0, np.bool_)
        self._first[tokens] = True

    def note_elsewhere(self, tokens: U32, starts: I64) -> None:
        """Note the n-grams of other documents."""
        ends = np.repeat(starts[1:], np.diff(starts))
        places = np.flatnonzero(self._known(tokens))
        nodes = tokens[places].astype(np.uint64)
        for n in range(2, self.max_n + 1):
            inside = places + n - 1 < ends[places]
            nodes, places = self._step(n, nodes[inside], tokens[places[inside] + n - 1], places[inside])
            self._elsewhere[n - 2][nodes.astype(np.int64)] = True

    def only(self, tokens: U32, starts: I64) -> I64:
        """The n-grams `tokens[starts[i]:starts[i + 1]]` that occur in the given documents, and nowhere else."""
        sizes, found = np.diff(starts), [np.zeros(0, np.int64)]
        for n in range(2, self.max_n + 1):
            rows = np.flatnonzero(sizes == n)
            found.append(rows[self._only(tokens[starts[rows][:, None] + np.arange(n)])])
        return np.sort(np.concatenate(found))

    def _only(self, ngrams: U32) -> I64:
        """The same for n-grams of one length [M, n]."""
        rows = np.flatnonzero(self._known(ngrams[:, 0]))
        nodes, n = ngrams[rows, 0].astype(np.uint64), ngrams.shape[1]
        for length in range(2, n + 1):
            nodes, rows = self._step(length, nodes, ngrams[rows, length - 1], rows)
        found: I64 = rows[~self._elsewhere[n - 2][nodes.astype(np.int64)]]
        return found

    def _known(self, tokens: U32) -> Bools:
        """Whether a token begins any n-gram of the given documents."""
        known = tokens < self._first.size
        known[known] = self._first[tokens[known]]
        return known

    def _step(self, n: int, nodes: U64, last: U32, places: I64) -> tuple[U64, I64]:
        """From n-grams of n - 1 tokens to those of n that are known, with their places."""
        level = self._levels[n - 2]
        keys = nodes << np.uint64(32) | last
        numbers = np.searchsorted(level, keys)
        numbers[numbers == level.size] = 0
        known = level[numbers] == keys if level.size else np.zeros(keys.size, np.bool_)
        return numbers[known].astype(np.uint64), places[known]


def _joined(pieces: Iterable[tuple[U32, I64]]) -> tuple[U32, I64]:
    tokens, starts, size = [np.zeros(0, np.uint32)], [np.zeros(1, np.int64)], 0
    for piece, begins in pieces:
        tokens.append(piece)
        starts.append(begins[1:] + size)
        size += len(piece)
    return np.concatenate(tokens), np.concatenate(starts)
