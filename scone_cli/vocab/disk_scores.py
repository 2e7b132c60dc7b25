"""Scores n-grams by prediction when they do not fit in memory: block by block, with columns on disk between the steps.

The result has the same bits as that of `ranking.rank`: the arithmetic is the same, and sums over next tokens are added up in
the same order, that of the longer n-grams. Each step holds one block of the n-grams of n tokens and reads all n-grams of
n + 1 tokens (or all of n, for the limits) once for each block. So time grows with the number of blocks, memory does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from scone_cli.arrays import U32, U64
from scone_cli.vocab.count_files import Column, CountFile
from scone_cli.vocab.index import NONE
from scone_cli.vocab.ranking import add_divergence, find_rows, hash_table, nats_of, not_closed, own_worth, token_counts

SCRATCH_BYTES = 28  # of disk for each n-gram
Told = Callable[[str, int], None]  # what is done, and how many n-grams of it


class DiskScores:
    """Computes the scores, limited to those of prefixes and suffixes, of the n-grams in `files` into columns [M] of float32.

    The columns of a length n are `prefixes` and `suffixes` (row in the n-grams of n - 1 tokens, plus 1; 0: not found yet),
    `of_suffix` (occurrences of the suffix) and `scores`. `block`: n-grams in memory at a time.
    """

    def __init__(self, files: Sequence[CountFile], num_tokens: int, scratch: Path, block: int) -> None:
        self._files, self._num_tokens, self._block = files, num_tokens, block

        def columns(name: str, dtype: type[np.generic]) -> list[Column]:
            return [Column(scratch / f"{name}.n={file.n}", dtype, file.num_rows) for file in files]

        self._prefixes, self._suffixes = columns("prefixes", np.int64), columns("suffixes", np.int64)
        self._of_suffix, self.scores = columns("of-suffix", np.uint64), columns("scores", np.float32)

    def compute(self, told: Told) -> list[Column]:
        """The scores of each length, as columns of float32.

        Raises:
            DamagedArtifact: the prefix or the suffix of an n-gram was not counted.
        """
        self._of_suffix_of_bigrams()
        for level, file in enumerate(self._files):
            if level + 1 < len(self._files):
                self._link(level)
            self._score(level)
            if level:
                self._limit(level)
            told("scoring", file.num_rows)
        for columns in (self._prefixes, self._suffixes, self._of_suffix):
            for column in columns:
                column.remove()
        return self.scores

    def _of_suffix_of_bigrams(self) -> None:
        unigrams = token_counts(self._files[0].folder, self._num_tokens)
        for piece in self._files[0].pieces("tokens"):
            self._of_suffix[0].write(piece.begin, unigrams[piece.tokens[:, 1]])

    def _link(self, level: int) -> None:
        """Find the prefix and the suffix of all n-grams that are one token longer."""
        longer, found = self._files[level + 1], np.zeros(2, np.int64)
        for block in self._files[level].blocks(self._block, "tokens"):
            slots = hash_table(block.tokens)
            for piece in longer.pieces("tokens"):
                rows = np.full((2, piece.size), NONE, np.uint32)
                for part, tokens in enumerate((piece.tokens[:, :-1], piece.tokens[:, 1:])):
                    find_rows(tokens, block.tokens, slots, np.uint32(0), rows[part])
                hits = [np.flatnonzero(each != NONE) for each in rows]
                found += [each.size for each in hits]
                for part, columns in enumerate((self._prefixes, self._suffixes)):
                    _put(columns[level + 1], piece.begin, piece.end, hits[part], block.begin + 1 + rows[part])
                of_suffix = np.zeros(piece.size, np.uint64)
                of_suffix[hits[1]] = block.counts[rows[1][hits[1]]]
                _put(self._of_suffix[level + 1], piece.begin, piece.end, hits[1], of_suffix)
        for name, number in zip(("prefix", "suffix"), found.tolist(), strict=True):
            if number < longer.num_rows:
                raise not_closed(longer.folder, longer.n, name)

    def _score(self, level: int) -> None:
        """Score the n-grams of one length, before the scores are limited."""
        for block in self._files[level].blocks(self._block, "count"):
            scores = own_worth(block.counts)
            if level + 1 < len(self._files):
                counts = block.counts.astype(np.float64)
                of_suffix = self._of_suffix[level].read(block.begin, block.end).astype(np.float64)
                known, followed_by, suffix_followed_by = np.zeros((3, block.size))
                for piece in self._files[level + 1].pieces("count"):
                    parents = self._prefixes[level + 1].read(piece.begin, piece.end) - (block.begin + 1)
                    here = np.flatnonzero((parents >= 0) & (parents < block.size))
                    parents, followed = parents[here], piece.counts[here]
                    again = self._of_suffix[level + 1].read(piece.begin, piece.end)[here]
                    # One after the other, not the sums of pieces: the order of additions decides the last bits.
                    np.add.at(known, parents, nats_of(followed, again, counts[parents], of_suffix[parents]))
                    np.add.at(followed_by, parents, followed)
                    np.add.at(suffix_followed_by, parents, again)
                add_divergence(scores, counts, of_suffix, known, followed_by, suffix_followed_by)
            self.scores[level].write(block.begin, scores)

    def _limit(self, level: int) -> None:
        """Limit the scores of one length to those of prefixes and suffixes, which are limited already."""
        num_shorter = self._files[level - 1].num_rows
        for begin in range(0, num_shorter, self._block):
            shorter = self.scores[level - 1].read(begin, min(begin + self._block, num_shorter))
            for first in range(0, self._files[level].num_rows, self._files[level].at_most):
                last = min(first + self._files[level].at_most, self._files[level].num_rows)
                scores = self.scores[level].read(first, last)
                for columns in (self._prefixes, self._suffixes):
                    rows = columns[level].read(first, last) - (begin + 1)
                    here = np.flatnonzero((rows >= 0) & (rows < shorter.size))
                    scores[here] = np.minimum(scores[here], shorter[rows[here]])
                self.scores[level].write(first, scores)


def _put(column: Column, begin: int, end: int, where: np.ndarray, values: U32 | U64 | np.ndarray) -> None:
    """Set some rows of [begin, end): those at `where` get the values there."""
    if where.size:
        old = column.read(begin, end)
        old[where] = values[where]
        column.write(begin, old)
