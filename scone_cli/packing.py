"""Training text as windows of one context, and the order in which training reads them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from scone_cli.ngrams import I64, NONE, U32, FgramIndex


@dataclass(frozen=True)
class PackedText:
    """Documents end to end, each after an end-of-document token, tagged with the f-gram that ends at each position.

    tokens uint32 [M]; ids uint32 [M]: f-gram id or NONE. Window w is the `context + 1` tokens from w * context on.
    """

    tokens: U32
    ids: U32
    context: int

    @classmethod
    def pack(cls, tokens: U32, starts: I64, end_of_document: int, index: FgramIndex | None, context: int) -> PackedText:
        """Pack the documents [starts[d], starts[d + 1]) and tag them, before training, as the paper does (section 3.2).

        Matches are found in whole documents, so they do not depend on the windows that training cuts.
        """
        num_docs = starts.size - 1
        places = np.arange(tokens.size) + np.repeat(np.arange(1, num_docs + 1), np.diff(starts))
        packed = np.full(tokens.size + num_docs + 1, end_of_document, np.uint32)
        packed[places] = tokens
        ids = np.full(packed.size, NONE, np.uint32)
        if index is not None:
            ids[places] = index.match(tokens, starts)[0]
        return cls(packed, ids, context)

    @property
    def num_windows(self) -> int:
        """Whole windows; the last tokens of the text that fill none are left out."""
        return (self.tokens.size - 1) // self.context

    def windows(self, numbers: I64) -> tuple[U32, U32]:
        """Tokens [B, context + 1] and f-gram ids [B, context] of some windows."""
        at = numbers[:, None] * self.context + np.arange(self.context + 1)
        return self.tokens[at], self.ids[at[:, :-1]]


def batch_windows(num_windows: int, batch: int, seed: int, first_step: int) -> Iterator[I64]:
    """The windows of each step from `first_step` on, for ever: every epoch all windows, in a new order."""
    epoch, order = -1, np.empty(0, np.int64)
    position = first_step * batch
    while True:
        chosen = np.empty(batch, np.int64)
        for i in range(batch):
            if position // num_windows != epoch:
                epoch = position // num_windows
                order = np.random.default_rng([seed, epoch]).permutation(num_windows)
            chosen[i] = order[position % num_windows]
            position += 1
        yield chosen
