"""Ranks n-grams that do not fit in memory: finds the n-gram at a rank, and reads the first S n-grams.

The order is that of `ranking`: by (key desc, n asc, row asc), where the key is the count, or the bits of the score. Nothing is
sorted. The key at a rank is found digit by digit: how many n-grams have which digit tells the digit at that rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from scone_cli.arrays import F64, I64, U64
from scone_cli.progress import Progress
from scone_cli.vocab.count_files import Column, CountFile, Piece
from scone_cli.vocab.disk_scores import DiskScores
from scone_cli.vocab.index import NONE
from scone_cli.vocab.ranking import Level, in_order, linked
from scone_cli.vocab.trie import FgramTrie
from scone_cli.vocab.vocabulary import Vocabulary

SCORES: Mapping[str, type[DiskScores] | None] = {"count": None, "prediction": DiskScores}  # by rule; None: the counts

_DIGIT_BITS = 16
_DIGIT = np.uint64((1 << _DIGIT_BITS) - 1)
_KEY_BITS = 64


@dataclass(frozen=True)
class Place:
    """The place of an n-gram in the ranking: its key, its level (number of tokens less 2), its row."""

    key: int
    level: int
    row: int

    def reaches(self, level: int, begin: int, keys: U64) -> npt.NDArray[np.bool_]:
        """Whether n-grams of a level, whose rows begin at `begin`, rank at this place or before it."""
        if level != self.level:
            return np.greater_equal(keys, self.key) if level < self.level else np.greater(keys, self.key)
        rows = np.arange(begin, begin + keys.size)
        return np.greater(keys, self.key) | (np.equal(keys, self.key) & np.less_equal(rows, self.row))


Entries = Iterator[tuple[int, int, U64, F64 | I64 | None]]  # level, first row, keys, weights (None: 1 for each)


@dataclass(frozen=True)
class DiskRanking:
    """The ranking of the n-grams in `files`. `scores`: columns of their scores, or None if their counts are the scores."""

    files: Sequence[CountFile]
    num_tokens: int
    scores: Sequence[Column] | None

    @classmethod
    def of(
        cls, files: Sequence[CountFile], num_tokens: int, by: str, scratch: Path, block: int, progress: Progress
    ) -> DiskRanking:
        """Rank n-grams by the rule `by`, with `block` of them in memory at a time.

        Raises:
            DamagedArtifact: the prefix or the suffix of an n-gram was not counted (for rules that look at them).
        """
        scores = SCORES[by]
        if scores is None:
            return cls(files, num_tokens, None)
        done, total = 0, sum(file.num_rows for file in files)

        def told(what: str, number: int) -> None:
            nonlocal done
            done += number
            progress(f"{what} n-grams", done, total, "n-grams")

        return cls(files, num_tokens, scores(files, num_tokens, scratch, block).compute(told))

    @property
    def num_ngrams(self) -> int:
        """The number of n-grams that are ranked; only as many as there are ids can become f-grams, see `most_fgrams`."""
        return sum(file.num_rows for file in self.files)

    @property
    def most_fgrams(self) -> int:
        """The largest vocabulary: all n-grams, or as many as there are ids of 32 bits."""
        return min(self.num_ngrams, NONE - self.num_tokens)

    def pieces(self, *columns: str) -> Iterator[tuple[int, Piece, U64]]:
        """All n-grams: level, piece and keys."""
        for level, file in enumerate(self.files):
            for piece in file.pieces(*columns):
                yield level, piece, self._keys(level, piece)

    def _keys(self, level: int, piece: Piece) -> U64:
        if self.scores is None:
            return piece.counts
        bits: U64 = self.scores[level].read(piece.begin, piece.end).view(np.uint32).astype(np.uint64)
        return bits  # of floats that are not negative: they sort like the values

    def places(self, ranks: Sequence[int]) -> list[Place]:
        """The places of the n-grams at some ranks, counted from 1."""
        return select(lambda: ((level, piece.begin, keys, None) for level, piece, keys in self.pieces("count")), ranks)

    def num_until(self, place: Place) -> int:
        """The number of n-grams up to and including the one at a place."""
        return sum(
            int(np.count_nonzero(place.reaches(level, piece.begin, keys)))
            for level, piece, keys in self.pieces("count")
        )

    def first(self, size: int) -> Vocabulary:
        """The vocabulary of the first `size` n-grams: the only part of the ranking that is held in memory.

        Raises:
            DamagedArtifact: the prefix of one of them was not counted.
        """
        (last,) = self.places([size])
        keys = [np.empty(0, np.uint64)]

        def level_of(level: int, file: CountFile) -> Level:
            kept = list[tuple[npt.NDArray[np.generic], ...]]()
            for piece in file.pieces("tokens"):
                all_keys = self._keys(level, piece)
                rows = np.flatnonzero(last.reaches(level, piece.begin, all_keys))
                kept.append((piece.tokens[rows], piece.counts[rows], piece.docs[rows]))
                keys.append(all_keys[rows])
            nothing = (np.empty((0, file.n), np.uint32), np.empty(0, np.uint64), np.empty(0, np.uint32))
            tokens, counts, docs = (np.concatenate(column) for column in zip(nothing, *kept, strict=True))
            return tokens, counts, docs

        levels = (level_of(level, file) for level, file in enumerate(self.files))
        counted = linked(self.files[0].folder, levels, size, self.num_tokens, with_suffixes=False)
        ranking = in_order(counted, np.concatenate(keys))
        trie = FgramTrie(ranking.prefix_nodes, ranking.last_tokens, ranking.lengths, self.num_tokens, self.files[-1].n)
        return Vocabulary(trie, ranking.counts, ranking.docs).first(size)


def select(entries: Callable[[], Entries], targets: Sequence[int]) -> list[Place]:
    """For each target the first n-gram, in the order of the ranking, with which the sum of weights reaches the target.

    The targets are 1 or more, and at most the sum of all weights, which are whole numbers.
    """
    prefixes = [0] * len(targets)  # the digits of the key that are known
    left = list(targets)  # what is left of the target
    for shift in range(_KEY_BITS - _DIGIT_BITS, -1, -_DIGIT_BITS):
        sums = _sums_by_digit(entries(), set(prefixes), shift)
        for i, prefix in enumerate(prefixes):
            from_above = np.cumsum(sums[prefix][::-1])
            at = int(np.searchsorted(from_above, left[i]))
            left[i] -= int(from_above[at - 1]) if at else 0
            prefixes[i] = prefix << _DIGIT_BITS | from_above.size - 1 - at
    return _among_equal(entries(), prefixes, left)


def _sums_by_digit(entries: Entries, prefixes: set[int], shift: int) -> dict[int, I64]:
    """The sum of weights by the digit at `shift`, for keys that begin with each of the prefixes."""
    sums = {prefix: np.zeros(1 << _DIGIT_BITS, np.int64) for prefix in prefixes}
    for _, _, keys, weights in entries:
        above = keys >> np.uint64(shift)
        begun = above >> np.uint64(_DIGIT_BITS)
        for prefix, total in sums.items():
            rows = np.flatnonzero(begun == prefix)
            digits = (above[rows] & _DIGIT).astype(np.int64)
            of_rows = None if weights is None else weights[rows]
            sums[prefix] = total + np.bincount(digits, of_rows, total.size).astype(np.int64)
    return sums


def _among_equal(entries: Entries, keys: Sequence[int], left: list[int]) -> list[Place]:
    """The place at which each target is reached among the n-grams with its key, in the order of levels and rows."""
    found = dict[int, Place]()
    for level, begin, all_keys, weights in entries:
        for i in set(range(len(keys))) - found.keys():
            rows = np.flatnonzero(all_keys == keys[i])
            total = np.arange(1, rows.size + 1) if weights is None else np.cumsum(weights[rows])
            if rows.size and total[-1] >= left[i]:
                found[i] = Place(keys[i], level, begin + int(rows[np.searchsorted(total, left[i])]))
            elif rows.size:
                left[i] -= int(total[-1])
    return [found[i] for i in range(len(keys))]
