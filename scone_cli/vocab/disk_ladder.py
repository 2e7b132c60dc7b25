"""The ladder of sizes of a ranking that does not fit in memory: the same numbers as `coverage.Ladder`.

An n-gram of the ranking ends at a held-out position if the text there is that n-gram: all its prefixes and suffixes are in
the ranking too. So the positions at which each n-gram ends can be counted for a block of n-grams at a time, in any order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from scone_cli.arrays import U8, U32, U64
from scone_cli.artifacts.schemas import HELD_OUT
from scone_cli.corpus.token_stream import iter_shards
from scone_cli.progress import Progress
from scone_cli.vocab.count_files import Column
from scone_cli.vocab.coverage import (
    NO_CUTOFF,
    Rung,
    check_held_out,
    ladder_sizes,
    last_step_with_gain,
    not_covered,
    rung_of,
)
from scone_cli.vocab.disk_ranking import DiskRanking, Entries, select
from scone_cli.vocab.index import NONE
from scone_cli.vocab.ranking import find_rows, hash_table

SCRATCH_BYTES = 4  # of disk for each n-gram
TEXT_BYTES = 5  # of disk for each held-out token
_AT_ONCE = 1 << 20  # positions of held-out text


class HeldOut:
    """The held-out text in two columns: the tokens, and how many tokens of their document end there, up to 255."""

    def __init__(self, tokens: Path, scratch: Path) -> None:
        self._tokens, self._reach = scratch / "held-out.tokens", scratch / "held-out.reach"
        self.num_positions = 0
        with self._tokens.open("wb") as of_tokens, self._reach.open("wb") as of_reach:
            for _, shard in iter_shards(tokens, HELD_OUT):
                size = int(shard.starts[-1])
                firsts = np.repeat(shard.starts[:-1], np.diff(shard.starts))
                reach = np.minimum(np.arange(1, size + 1) - firsts, 255).astype(np.uint8)
                of_tokens.write(np.ascontiguousarray(shard.tokens, np.uint32).data)
                of_reach.write(reach.data)
                self.num_positions += size

    def windows(self, n: int) -> Iterator[U32]:
        """The n-grams at all positions where `n` tokens of a document end, in pieces [up to 2**20, n]."""
        for begin in range(0, self.num_positions, _AT_ONCE):
            size, before = min(_AT_ONCE, self.num_positions - begin), min(n - 1, begin)
            tokens: U32 = np.fromfile(self._tokens, np.uint32, before + size, offset=4 * (begin - before))
            reach: U8 = np.fromfile(self._reach, np.uint8, size, offset=begin)
            last = np.flatnonzero(reach >= n) + before
            yield np.stack([tokens[last - back] for back in range(n - 1, -1, -1)], axis=1)


class DiskLadder:
    """Computes the statistics of vocabulary sizes, as `coverage.Ladder` does, from a ranking on disk.

    `block`: n-grams in memory at a time. The held-out text is read once for each block.
    """

    def __init__(self, ranking: DiskRanking, tokens: Path, scratch: Path, block: int, progress: Progress) -> None:
        self._ranking = ranking
        held_out = HeldOut(tokens, scratch)
        self.num_positions = held_out.num_positions
        dtype = np.uint32 if self.num_positions < 1 << 32 else np.uint64
        self._ends = [Column(scratch / f"ends.n={file.n}", dtype, file.num_rows) for file in ranking.files]
        self._rungs = dict[int, Rung]()
        done = 0
        for file, ends in zip(ranking.files, self._ends, strict=True):
            for block_of in file.blocks(block, "tokens") if self.num_positions else ():
                ends.write(block_of.begin, _ends_of(block_of.tokens, held_out))
                done += block_of.size
                progress("matching held-out text", done, ranking.num_ngrams, "n-grams")

    @property
    def sizes(self) -> list[int]:
        """The sizes of the ladder: 1,000, 2,000, 4,000 and so on, and the largest vocabulary there can be."""
        return ladder_sizes(self._ranking.most_fgrams)

    def rungs(self, sizes: Sequence[int]) -> list[Rung]:
        """The statistics of the given sizes, which must be ascending and at most the largest."""
        if new := [size for size in sizes if size not in self._rungs]:
            self._rungs |= {rung.size: rung for rung in self._compute(new)}
        return [self._rungs[size] for size in sizes]

    def _compute(self, sizes: Sequence[int]) -> list[Rung]:
        places, room = self._ranking.places(sizes), len(self._ranking.files) + 3
        # By rung and length; n-grams beyond the last rung are counted in one more.
        num_fgrams, occurrences, ends = (np.zeros((len(sizes) + 1, room), np.int64) for _ in range(3))
        cutoffs = np.full(len(sizes) + 1, NO_CUTOFF, np.uint64)
        for level, piece, keys in self._ranking.pieces("count"):
            rung = np.zeros(piece.size, np.int64)
            for place in places:
                rung += ~place.reaches(level, piece.begin, keys)
            ended = self._ends[level].read(piece.begin, piece.end)
            num_fgrams[:, level + 2] += np.bincount(rung, minlength=len(sizes) + 1)
            occurrences[:, level + 2] += np.bincount(rung, piece.counts, len(sizes) + 1).astype(np.int64)
            ends[:, level + 2] += np.bincount(rung, ended, len(sizes) + 1).astype(np.int64)
            np.minimum.at(cutoffs, rung, piece.counts)
        num_fgrams, occurrences, ends = (np.cumsum(each, axis=0) for each in (num_fgrams, occurrences, ends))
        cutoffs = np.minimum.accumulate(cutoffs)
        return [
            rung_of(size, int(cutoffs[i]), num_fgrams[i], occurrences[i], ends[i], self.num_positions)
            for i, size in enumerate(sizes)
        ]

    def size_for_coverage(self, share: float) -> int:
        """The smallest size that matches the given share of held-out positions.

        Raises:
            BadSetting: the whole ranking matches less, or there is no held-out text.
        """
        check_held_out(self.num_positions, "--coverage")
        whole = self._ranking.most_fgrams
        if (reached := self.rungs([whole])[0].matched or 0.0) < share:
            raise not_covered(share, reached, whole)
        # Of all f-grams that end at a position, a bigram ranks first. So the bigrams' ends are the matched positions.
        (last,) = select(self._ends_of_bigrams, [_fewest(share, self.num_positions)])
        return self._ranking.num_until(last)

    def _ends_of_bigrams(self) -> Entries:
        for level, piece, keys in self._ranking.pieces("count"):
            if level > 0:
                return
            yield level, piece.begin, keys, self._ends[0].read(piece.begin, piece.end).astype(np.int64)

    def size_by_gain(self, min_gain: float) -> int:
        """The smallest size of the ladder after which no step adds `min_gain` or more to the matched share.

        Raises:
            BadSetting: there is no held-out text.
        """
        check_held_out(self.num_positions, "--size auto")
        rungs = self.rungs(self.sizes)
        return last_step_with_gain(self.sizes, [rung.matched or 0.0 for rung in rungs], min_gain)


def _ends_of(tokens: U32, held_out: HeldOut) -> U64:
    """The number of held-out positions at which each n-gram [M, n] ends."""
    slots, ends = hash_table(tokens), np.zeros(len(tokens), np.uint64)
    for windows in held_out.windows(tokens.shape[1]):
        rows = np.full(len(windows), NONE, np.uint32)
        find_rows(windows, tokens, slots, np.uint32(0), rows)
        np.add.at(ends, rows[rows != NONE], np.uint64(1))
    return ends


def _fewest(share: float, num_positions: int) -> int:
    """The smallest number of positions that is the share of all positions, or more, as floats are compared."""
    number = math.ceil(share * num_positions)
    while number > 1 and (number - 1) / num_positions >= share:
        number -= 1
    while number / num_positions < share:
        number += 1
    return number
