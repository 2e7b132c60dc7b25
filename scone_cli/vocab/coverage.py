"""How many f-grams to keep: what every size matches of unseen text and takes of memory, and the ways of choosing one.

Ids are ranks, and an f-gram's suffix ranks before it, so the f-grams that end at a position have rising ids as they grow
longer: with the first S f-grams, the longest match there is the longest of them whose id is below S. It is therefore
enough to count once, for every f-gram of the whole ranking, the positions at which it ends (`occurrences`); what any
size matches is a sum over the first S of these counts.
"""

# Of kernels numba infers the types.
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
_MOST = 2**63 - 1


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
    """Add to `ends` [S] for every f-gram, longest match or not, the positions at which it ends in some documents.

    The tokens are matched once, with K - 1 probes a token at most; documents as in `FgramIndex.match`.
    """
    _count_ends(tokens, starts, index.lines, index.shape, index.num_tokens, index.max_n, ends)


@dataclass(frozen=True)
class Rung:
    """One size, and what it means.

    Attributes:
        size: f-grams.
        cutoff_count: occurrences of the rarest of them.
        matched: share of held-out positions with a match (None without held-out text).
        mean_length: mean length of these matches, in tokens (None without a match).
        shares: share of held-out positions whose longest match has 2, 3, ... tokens (None without held-out text).
        num_fgrams: f-grams of 2, 3, ... tokens.
        occurrences: their occurrences in what was counted.
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
    """A ranking of S f-grams, the positions of held-out text at which each ends int64 [S], and all these positions."""

    ranking: Vocabulary
    ends: I64
    num_positions: int

    @property
    def sizes(self) -> list[int]:
        """1,000 and its doublings, and the size of the whole ranking."""
        whole = self.ranking.trie.num_fgrams
        sizes = [FIRST_RUNG]
        while sizes[-1] < whole:
            sizes.append(2 * sizes[-1])
        return [*sizes[:-1], whole]

    def rungs(self, sizes: Sequence[int]) -> list[Rung]:
        """What the given sizes (rising, at most S) mean."""
        trie, room = self.ranking.trie, self.ranking.trie.max_n + 2
        num_fgrams, occurrences, ends = (np.zeros(room, np.int64) for _ in range(3))  # by length, up to this size
        first, cutoff, rungs = 0, _MOST, list[Rung]()
        for size in sizes:
            step = slice(first, size)
            lengths, counts = trie.lengths[step], self.ranking.counts[step]
            num_fgrams += np.bincount(lengths, minlength=room)
            occurrences += _sums(lengths, counts, room)
            ends += _sums(lengths, self.ends[step], room)
            first, cutoff = size, min(cutoff, int(counts.min(initial=_MOST)))
            rungs.append(self._rung(size, cutoff, num_fgrams, occurrences, ends))
        return rungs

    def _rung(self, size: int, cutoff: int, num_fgrams: I64, occurrences: I64, ends: I64) -> Rung:
        longest = ends[2:-1] - ends[3:]  # where an f-gram of n tokens ends, and none of n + 1
        matched, num_tokens = int(ends[2]), int(longest @ np.arange(2, ends.size - 1))
        return Rung(
            size,
            cutoff,
            matched / self.num_positions if self.num_positions else None,
            num_tokens / matched if matched else None,
            [int(number) / self.num_positions if self.num_positions else None for number in longest],
            num_fgrams[2:-1].tolist(),
            occurrences[2:-1].tolist(),
        )

    # ---- choosing a size -----------------------------------------------------------------------------------------

    def size_for_coverage(self, share: float) -> int:
        """The fewest f-grams that match the given share of held-out positions.

        Raises:
            BadSetting: all of them match less, or there is no held-out text.
        """
        matched = self._matched("--coverage")
        if matched[-1] / self.num_positions < share:
            reached = matched[-1] / self.num_positions
            raise BadSetting(
                f"--coverage {share}: all {matched.size:,} n-grams together match {reached:.4f} of held-out positions",
                f"give at most --coverage {math.floor(reached * 1e4) / 1e4}, or count rarer n-grams or more text",
            )
        return int(np.searchsorted(matched / self.num_positions, share)) + 1

    def size_by_gain(self, min_gain: float) -> int:
        """The smallest rung from which no doubling matches `min_gain` more of the held-out positions.

        Not the first that is followed by such a step: the gain of a doubling rises before it falls.

        Raises:
            BadSetting: there is no held-out text.
        """
        matched, sizes = self._matched("--size auto") / self.num_positions, self.sizes
        steps = list(itertools.pairwise(sizes))
        return max(
            (after for size, after in steps if matched[after - 1] - matched[size - 1] >= min_gain), default=sizes[0]
        )

    def _matched(self, option: str) -> I64:
        """Held-out positions that the first 1, 2, ... f-grams match: those at which one of their bigrams ends [S]."""
        if not self.num_positions:
            raise BadSetting(
                f"{option}: chooses by held-out text, and there is none", "give --size N, or count with --held-out"
            )
        return np.cumsum(np.where(self.ranking.trie.lengths == 2, self.ends, 0))


def _sums(lengths: U8, values: npt.NDArray[Any], room: int) -> I64:
    """The sum of the values of each length, exact to 2**53."""
    return np.bincount(lengths, values, minlength=room).astype(np.int64)


def write_ladder(path: Path, rungs: Sequence[Rung], chosen: int, num_bytes: Sequence[int]) -> None:
    """Write `ladder.parquet`; `num_bytes` are those of a table of each size."""
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


# ---- which size of a table is enough: its first 1,000, 10,000, ... rows as if these were all, without making them again
# Ids are ranks, and an f-gram ranks after its suffixes: so the first rows of a table are the table of the first f-grams.
# Where the longest match lies beyond them, the longest of its suffixes that does not is what their index would find.


@dataclass(frozen=True)
class Prefix:
    """The first `rows` f-grams, and of all of them the node without its first token, `suffixes` [S]."""

    rows: int
    suffixes: U32
    num_tokens: int

    def cut(self, ids: U32, lengths: U8) -> tuple[U32, U8]:
        """Ids and lengths of the longest f-grams among the first, where these are the longest of all."""
        ids, lengths = ids.copy(), lengths.copy()
        none = np.uint32(NONE)
        while (beyond := np.flatnonzero((ids >= self.rows) & (ids != none))).size:
            nodes = self.suffixes[ids[beyond]]
            is_fgram = nodes >= self.num_tokens
            ids[beyond] = np.where(is_fgram, nodes - np.uint32(self.num_tokens), none)
            lengths[beyond] = np.where(is_fgram, lengths[beyond] - np.uint8(1), np.uint8(0))
        return ids, lengths


def rungs_of(num_rows: int) -> list[int]:
    """1,000 and ten times that and so on, and all rows."""
    rungs = []
    rung = FIRST_RUNG
    while rung < num_rows:
        rungs.append(rung)
        rung *= 10
    return [*rungs, num_rows]


def knee_of(num_bytes: Sequence[float], nats: Sequence[float]) -> int | None:
    """The place of the knee: where the loss lies furthest below the line from the first to the last, over log(bytes).

    None where there are fewer than three points, or none lies below that line: then every step gains as much as the last.
    """
    if len(nats) < 3:
        return None
    x = [math.log(each) for each in num_bytes]
    below = [
        nats[0] + (nats[-1] - nats[0]) * (here - x[0]) / (x[-1] - x[0]) - loss
        for here, loss in zip(x, nats, strict=True)
    ]
    deepest = max(range(len(below)), key=below.__getitem__)
    return deepest if below[deepest] > 1e-9 else None  # the two ends lie on the line, but for rounding
