"""Training text as windows of one context.

What it leaves out: the order in which training reads them (`mixing.py`), and text that memory does not hold
(`packed_files.py`).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from scone_cli.arrays import I64, U32
from scone_cli.errors import BadData
from scone_cli.mixing import Turns, WindowOrder
from scone_cli.vocab.index import NONE, FgramIndex

Tokens = npt.NDArray[np.uint16] | U32


@dataclass(frozen=True)
class SubCorpus:
    """A part of a text that is read at its own pace: its name, its tokens (ends of documents too), its weight."""

    name: str
    num_tokens: int
    weight: int


@dataclass(frozen=True)
class PackedText:
    """Documents end to end, each after an end-of-document token, tagged with the f-gram that ends at each position.

    tokens [M], of 2 bytes where that is enough; ids uint32 [M]: f-gram id or NONE, or no array where nothing is tagged.
    The text is one piece, or that of several sub-corpora one after the other; each begins and ends with an
    end-of-document token. Window w of a piece is the `context + 1` tokens from w * context on; windows are numbered
    through all pieces, and none holds tokens of two.
    """

    tokens: Tokens
    ids: U32 | None
    context: int
    sub_corpora: tuple[SubCorpus, ...] = ()

    @classmethod
    def pack(cls, tokens: U32, starts: I64, end_of_document: int, index: FgramIndex | None, context: int) -> PackedText:
        """Pack the documents [starts[d], starts[d + 1]) in memory; `write_packed` is for text that is too long for that."""
        packed, ids = pack_documents(tokens, starts, end_of_document, index)
        whole = np.concatenate([np.array([end_of_document], np.uint32), packed])
        return cls(whole, None if ids is None else np.concatenate([np.array([NONE], np.uint32), ids]), context)

    @functools.cached_property
    def _pieces(self) -> tuple[SubCorpus, ...]:
        return self.sub_corpora or (SubCorpus("", self.tokens.size, 1),)

    @functools.cached_property
    def _num_windows(self) -> list[int]:
        """Of each piece: whole windows; the last tokens that fill none are left out."""
        return [(piece.num_tokens - 1) // self.context for piece in self._pieces]

    @functools.cached_property
    def _bounds(self) -> tuple[I64, I64]:
        """The first token and the first window of each piece."""
        sizes = [piece.num_tokens for piece in self._pieces]
        return np.array([0, *accumulate(sizes[:-1])]), np.array([0, *accumulate(self._num_windows[:-1])])

    @property
    def num_windows(self) -> int:
        """Whole windows of all pieces."""
        return sum(self._num_windows)

    def windows(self, numbers: I64, before: int = 0) -> tuple[U32, U32]:
        """Tokens [B, before + context + 1] and f-gram ids [B, context] of some windows.

        The first `before` tokens are those that stand before the window; before the text, that is the end of a document.
        """
        first_tokens, first_windows = self._bounds
        piece = np.searchsorted(first_windows, numbers, side="right") - 1
        begin = first_tokens[piece]
        start = begin + (numbers - first_windows[piece]) * self.context
        at = start[:, None] + np.arange(-before, self.context + 1)
        tokens = self.tokens[np.maximum(at, begin[:, None])].astype(np.uint32)  # a piece begins with an end of document
        at = at[:, before:-1]
        return tokens, np.full(at.shape, NONE, np.uint32) if self.ids is None else self.ids[at]

    def order(self, seed: int) -> WindowOrder:
        """The order in which training reads the windows: a function of the seed and the position.

        Raises:
            BadData: a piece is shorter than one window.
        """
        for piece, num_windows in zip(self._pieces, self._num_windows, strict=True):
            if not num_windows:
                what = f"sub-corpus '{piece.name}'" if piece.name else "the training text"
                raise BadData(f"{what} has {piece.num_tokens:,} tokens, less than one context of {self.context:,}")
        return WindowOrder(self._num_windows, [piece.weight for piece in self._pieces], seed)

    def epochs(self, position: int) -> dict[str, Any]:
        """How often the text has been read, or each sub-corpus, when `position` windows have; for a stage's summary."""
        counts = Turns([piece.weight for piece in self._pieces]).before(position)
        epochs = [round(count / size, 3) for count, size in zip(counts, self._num_windows, strict=True)]
        if not self.sub_corpora:
            return {"epochs": epochs[0]}
        rows = [
            {"sub-corpus": piece.name, "tokens": piece.num_tokens, "share": round(count / position, 4), "epochs": each}
            for piece, count, each in zip(self._pieces, counts, epochs, strict=True)
        ]
        return {"mixture": rows}


def pack_documents(tokens: U32, starts: I64, end_of_document: int, index: FgramIndex | None) -> tuple[U32, U32 | None]:
    """The documents, each with an end-of-document token after it, and the f-gram id at each position.

    They are tagged before training, as in the paper (section 3.2), and whole: so matches do not depend on the windows that
    training cuts.
    """
    num_docs = starts.size - 1
    places = np.arange(tokens.size) + np.repeat(np.arange(num_docs), np.diff(starts))
    packed = np.full(tokens.size + num_docs, end_of_document, np.uint32)
    packed[places] = tokens
    if index is None:
        return packed, None
    ids = np.full(packed.size, NONE, np.uint32)
    ids[places] = index.match(tokens, starts)[0]
    return packed, ids
