"""Chooses the size of a vocabulary: the share of held-out text that every size matches, and ways to choose one.

Ids are ranks, and a suffix ranks before the f-grams that end in it. So among the f-grams that end at one position, longer
ones have larger ids. With the first S f-grams, the longest match is therefore the longest f-gram whose id is below S. So one
pass is enough: it counts for every f-gram of the ranking the positions at which it ends (`count_ends`). What a size S
matches is a sum over the first S of these counts.
"""

# numba infers the types of kernels.
# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from scone_cli.arrays import I64, U8, U32
from scone_cli.artifacts.publish import write_parquet
from scone_cli.artifacts.schemas import LADDER
from scone_cli.errors import BadSetting
from scone_cli.runtime.kernel_cache import kernel
from scone_cli.vocab.index import NONE, FgramIndex, find, place_of
from scone_cli.vocab.vocabulary import Vocabulary

FIRST_RUNG = 1000
NO_CUTOFF = 2**63 - 1  # more than any count


@kernel()
def _count_ends(tokens, starts, lines, shape, num_tokens, max_n, ends):
    none = np.uint32(0xFFFFFFFF)
    first_fgram = np.uint32(num_tokens)
    state = np.empty(max_n, np.uint32)  # nodes of the f-grams of 1 .. max_n tokens that end at the last position
    for doc in range(starts.size - 1):
        state[:] = none
        for i in range(starts[doc], starts[doc + 1]):
            shorter = state[0]
            state[0] = tokens[i]
            for n in range(1, max_n):
                found = none
                if shorter != none:
                    found = find(lines, place_of(shorter, tokens[i], shape), shape)
                if found == none:
                    state[n:] = none
                    break
                ends[found] += 1
                shorter, state[n] = state[n], first_fgram + found


def count_ends(index: FgramIndex, tokens: U32, starts: I64, ends: I64) -> None:
    """Add to `ends` [S] the number of positions at which each f-gram ends, whether or not it is the longest match there.

    The tokens are matched once, with at most K - 1 probes per token. `starts` bounds the documents as in `FgramIndex.match`.
    """
    _count_ends(tokens, starts, index.lines, index.shape, index.num_tokens, index.max_n, ends)


@dataclass(frozen=True)
class Rung:
    """One vocabulary size, with its statistics.

    Attributes:
        size: number of f-grams.
        cutoff_count: occurrences of the rarest f-gram.
        matched: share of held-out positions with a match (None without held-out text).
        mean_length: mean length of these matches, in tokens (None without a match).
        shares: share of held-out positions whose longest match has 2, 3, ... tokens (None without held-out text).
        num_fgrams: number of f-grams of 2, 3, ... tokens.
        occurrences: occurrences of these f-grams in the counted text.
    """

    size: int
    cutoff_count: int
    matched: float | None
    mean_length: float | None
    shares: list[float | None]
    num_fgrams: list[int]
    occurrences: list[int]


@dataclass(frozen=True)
class Ladder:
    """Computes the statistics of every vocabulary size from one ranking of S f-grams.

    `ends` int64 [S]: the number of held-out positions at which each f-gram ends. `num_positions`: all held-out positions.
    """

    ranking: Vocabulary
    ends: I64
    num_positions: int

    @property
    def sizes(self) -> list[int]:
        """The sizes of the ladder: 1,000, 2,000, 4,000 and so on, and the whole ranking."""
        return ladder_sizes(self.ranking.trie.num_fgrams)

    def rungs(self, sizes: Sequence[int]) -> list[Rung]:
        """The statistics of the given sizes, which must be ascending and at most S."""
        trie, room = self.ranking.trie, self.ranking.trie.max_n + 2
        num_fgrams, occurrences, ends = (np.zeros(room, np.int64) for _ in range(3))  # by length, up to this size
        first, cutoff, rungs = 0, NO_CUTOFF, list[Rung]()
        for size in sizes:
            step = slice(first, size)
            lengths, counts = trie.lengths[step], self.ranking.counts[step]
            num_fgrams += np.bincount(lengths, minlength=room)
            occurrences += sums_by_length(lengths, counts, room)
            ends += sums_by_length(lengths, self.ends[step], room)
            first, cutoff = size, min(cutoff, int(counts.min(initial=NO_CUTOFF)))
            rungs.append(rung_of(size, cutoff, num_fgrams, occurrences, ends, self.num_positions))
        return rungs

    # ---- choosing a size -----------------------------------------------------------------------------------------

    def size_for_coverage(self, share: float) -> int:
        """The smallest size that matches the given share of held-out positions.

        Raises:
            BadSetting: the whole ranking matches less, or there is no held-out text.
        """
        matched = self._matched("--coverage")
        if (reached := matched[-1] / self.num_positions) < share:
            raise not_covered(share, reached, matched.size)
        return int(np.searchsorted(matched / self.num_positions, share)) + 1

    def size_by_gain(self, min_gain: float) -> int:
        """The smallest size of the ladder after which no step adds `min_gain` or more to the matched share.

        The search must look at all steps, not stop at the first small one: the gain of a doubling rises before it falls.

        Raises:
            BadSetting: there is no held-out text.
        """
        matched = self._matched("--size auto") / self.num_positions
        return last_step_with_gain(self.sizes, [float(matched[size - 1]) for size in self.sizes], min_gain)

    def _matched(self, option: str) -> I64:
        """The number of held-out positions that the first 1, 2, ... S f-grams match [S]: a bigram ends at each of them."""
        check_held_out(self.num_positions, option)
        return np.cumsum(np.where(self.ranking.trie.lengths == 2, self.ends, 0))


def ladder_sizes(whole: int) -> list[int]:
    """The sizes of a ladder: 1,000, 2,000, 4,000 and so on, and all `whole` n-grams."""
    sizes = [FIRST_RUNG]
    while sizes[-1] < whole:
        sizes.append(2 * sizes[-1])
    return [*sizes[:-1], whole]


def rung_of(size: int, cutoff: int, num_fgrams: I64, occurrences: I64, ends: I64, num_positions: int) -> Rung:
    """The rung of the first `size` f-grams from their number, occurrences and ends by length [max_n + 2]."""
    longest = ends[2:-1] - ends[3:]  # positions where an f-gram of n tokens ends, but none of n + 1
    matched, num_tokens = int(ends[2]), int(longest @ np.arange(2, ends.size - 1))
    return Rung(
        size,
        cutoff,
        matched / num_positions if num_positions else None,
        num_tokens / matched if matched else None,
        [int(number) / num_positions if num_positions else None for number in longest],
        num_fgrams[2:-1].tolist(),
        occurrences[2:-1].tolist(),
    )


def last_step_with_gain(sizes: Sequence[int], matched: Sequence[float], min_gain: float) -> int:
    """The largest size whose step from the one before adds `min_gain` or more to the matched share; or else the first."""
    steps = itertools.pairwise(zip(sizes, matched, strict=True))
    return max((size for (_, before), (size, after) in steps if after - before >= min_gain), default=sizes[0])


def check_held_out(num_positions: int, option: str) -> None:
    """Refuse to choose a size by held-out text if there is none.

    Raises:
        BadSetting: there is none.
    """
    if not num_positions:
        raise BadSetting(
            f"{option}: chooses by held-out text, and there is none", "give --size N, or count with --held-out"
        )


def not_covered(share: float, reached: float, num_ngrams: int) -> BadSetting:
    """The error to raise when the whole ranking matches only a share `reached`."""
    return BadSetting(
        f"--coverage {share}: all {num_ngrams:,} n-grams together match {reached:.4f} of held-out positions",
        f"give at most --coverage {math.floor(reached * 1e4) / 1e4}, or count rarer n-grams or more text",
    )


def sums_by_length(lengths: U8, values: npt.NDArray[Any], room: int) -> I64:
    """The sum of the values for each length; exact up to 2**53."""
    return np.bincount(lengths, values, minlength=room).astype(np.int64)


def write_ladder(path: Path, rungs: Sequence[Rung], chosen: int, num_bytes: Sequence[int]) -> None:
    """Write `ladder.parquet`; `num_bytes` is the size of the embedding table for each rung."""
    columns = [
        [rung.size for rung in rungs],
        [rung.cutoff_count for rung in rungs],
        [rung.matched for rung in rungs],
        [rung.mean_length for rung in rungs],
        [rung.num_fgrams for rung in rungs],
        num_bytes,
        [rung.size == chosen for rung in rungs],
    ]
    arrays = [pa.array(values, field.type) for values, field in zip(columns, LADDER, strict=True)]
    write_parquet(path, LADDER, pa.Table.from_arrays(arrays, schema=LADDER))


# ---- smaller tables: evaluating the first 1,000, 10,000, ... rows of a table without computing a smaller table -------
#
# Ids are ranks, and an f-gram ranks after its suffixes. So the first rows of a table are the table of the first f-grams. If
# the longest match is beyond these rows, an index of the first f-grams would find the longest suffix that is within them.


@dataclass(frozen=True)
class Prefix:
    """A smaller vocabulary: the first `rows` f-grams. `suffixes` [S]: the node of each f-gram without its first token."""

    rows: int
    suffixes: U32
    num_tokens: int

    def cut(self, ids: U32, lengths: U8) -> tuple[U32, U8]:
        """Convert the longest matches of the whole vocabulary to those of the first `rows` f-grams: new ids and lengths."""
        ids, lengths = ids.copy(), lengths.copy()
        none = np.uint32(NONE)
        while (beyond := np.flatnonzero((ids >= self.rows) & (ids != none))).size:
            nodes = self.suffixes[ids[beyond]]
            is_fgram = nodes >= self.num_tokens
            ids[beyond] = np.where(is_fgram, nodes - np.uint32(self.num_tokens), none)
            lengths[beyond] = np.where(is_fgram, lengths[beyond] - np.uint8(1), np.uint8(0))
        return ids, lengths


def rungs_of(num_rows: int) -> list[int]:
    """The table sizes to evaluate: 1,000, 10,000, 100,000 and so on, and all rows."""
    rungs = []
    rung = FIRST_RUNG
    while rung < num_rows:
        rungs.append(rung)
        rung *= 10
    return [*rungs, num_rows]


def knee_of(num_bytes: Sequence[float], nats: Sequence[float]) -> int | None:
    """The index of the knee of a curve of loss over log(bytes): the point furthest below the line from first to last point.

    None if there are fewer than three points, or no point lies below the line: then there is no knee.
    """
    if len(nats) < 3:
        return None
    x = [math.log(each) for each in num_bytes]
    below = [
        nats[0] + (nats[-1] - nats[0]) * (here - x[0]) / (x[-1] - x[0]) - loss
        for here, loss in zip(x, nats, strict=True)
    ]
    deepest = max(range(len(below)), key=below.__getitem__)
    return deepest if below[deepest] > 1e-9 else None  # the two ends lie on the line, up to rounding
