"""Which size of a table is enough: the first 1,000, 10,000, ... of its rows, as if these were all, without making them again.

Ids are ranks, and an f-gram ranks after its suffixes: so the first rows of a table are the table of the first f-grams.
Where the longest match lies beyond them, the longest of its suffixes that does not is what their index would find.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scone_cli.arrays import U8, U32
from scone_cli.ngrams import NONE

FIRST_RUNG = 1000


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
