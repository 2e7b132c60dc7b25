"""What errors are clustered by: documents or, where there are few of them, blocks of text.

Tokens of one document are not independent, documents nearly are. Few documents tell little about how much documents differ,
and one tells nothing: with 30 documents whose lengths vary like those of books, 95% intervals hold the truth in about 90 of
100 cases, with 10 documents in about 83. So fewer than 30 documents are cut into about 30 blocks, each inside one document. If
tokens depend on one another only within a tenth of a block, these intervals hold the truth in more than 90 of 100 cases. They
hold for this text only, because they do not tell how much another document would differ. `tests/evaluation/test_clusters.py`
simulates all three.
Shapes: D documents, P parts, B clusters, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from scone_cli.arrays import F64, I64

FEW_DOCUMENTS = 30
NUM_BLOCKS = 30
LEAST_TOKENS = 64  # of a part
MOST_PARTS = 1 << 16  # of a corpus, roughly: an evaluation keeps the sums over all parts in memory


@dataclass(frozen=True)
class Clusters:
    """Which cluster each part belongs to int64 [P], -1 where it is not of this text."""

    by: Literal["documents", "blocks"]
    of_part: I64

    def sums(self, values: F64) -> F64:
        """Sums over parts [P] or [P, C], as sums over clusters [B] or [B, C]."""
        inside = self.of_part >= 0
        found = np.zeros((1 + int(self.of_part.max(initial=-1)), *values.shape[1:]))
        np.add.at(found, self.of_part[inside], values[inside])
        return found


def part_tokens(total: int) -> int:
    """Tokens of a part, for a text of about `total` tokens: few for the sake of blocks, many for the sake of memory."""
    return max(LEAST_TOKENS, total // MOST_PARTS)


def parts_of(starts: I64, least: int) -> tuple[I64, I64]:
    """Cut documents [D + 1] into equal parts of `least` tokens or a few more: their starts [P + 1], their documents [P]."""
    sizes = np.diff(starts)
    count = np.maximum(1, sizes // least)
    document = np.repeat(np.arange(sizes.size), count)
    number = np.arange(document.size) - np.repeat(np.cumsum(count) - count, count)
    firsts = starts[:-1][document] + number * sizes[document] // count[document]
    return np.append(firsts, starts[-1]), document


def clusters_of(tokens: F64, document: I64, inside: npt.NDArray[np.bool_]) -> Clusters:
    """The clusters for the errors of the documents `inside` [D]; `tokens` and `document` are those of all parts [P]."""
    of_document = np.bincount(document, tokens, inside.size)
    is_here = inside & (of_document > 0)
    if is_here.sum() >= FEW_DOCUMENTS:
        number = np.where(is_here, np.cumsum(is_here) - 1, -1)
        return Clusters("documents", number[document])
    parts = np.bincount(document, minlength=inside.size)
    size = max(1.0, float(of_document[is_here].sum()) / NUM_BLOCKS)
    blocks = np.where(is_here, np.clip(np.round(of_document / size).astype(np.int64), 1, parts), 0)
    first_part, first_block = np.cumsum(parts) - parts, np.cumsum(blocks) - blocks
    place = np.arange(document.size) - first_part[document]
    block = first_block[document] + place * blocks[document] // parts[document]
    return Clusters("blocks", np.where(is_here[document], block, -1))
