"""Token ids as bytes of text, many lists at a time: each token is decoded once, not once for every n-gram that has it.

A tokenizer that is not byte-level spells a token by its neighbours; its lists are decoded as a whole, many times slower. Such
a list may begin with the mark of a piece inside a word (`##`), which is no text.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from scone_cli.arrays import I64, U32
from scone_cli.corpus.spelling import bytes_of
from scone_cli.corpus.tokenizer import Tokenizer
from scone_cli.errors import UnknownToken

BETWEEN = b"\0"  # after every text: no detector finds a word across it
_AWKWARD = "Ab \u00e9e\u0301 \ufb01\uff21  x \n"
BLANKS = bytes.maketrans(b"\t\n\v\f\r", b" " * 5)  # as in deny lists, a blank of a given text stands for any of them


@dataclass(frozen=True)
class Spelled:
    """M texts in one: text i is `utf8[starts[i]:starts[i + 1] - 1]` (`starts` [M + 1]), and `BETWEEN` follows it.

    Bytes may be no UTF-8 at both ends: an n-gram can begin or end inside a character.
    """

    utf8: bytes
    starts: I64

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> bytes:
        return self.utf8[self.starts[row] : self.starts[row + 1] - 1]

    @cached_property
    def compared(self) -> bytes:
        """The texts as they are compared: white space of ASCII as blanks."""
        return self.utf8.translate(BLANKS)

    def row_of(self, places: I64) -> I64:
        """The texts to which bytes belong."""
        return np.searchsorted(self.starts, places, side="right") - 1

    @classmethod
    def of(cls, texts: list[bytes]) -> Spelled:
        """Join texts."""
        sizes = np.fromiter(map(len, texts), np.int64, len(texts)) + 1
        utf8 = BETWEEN.join([*texts, b""])
        return cls(utf8, np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]))


class Spelling:
    """Spells lists of token ids with one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._pieces: np.ndarray | None = None  # bytes of each token, and `BETWEEN` behind them
        if tokenizer.byte_lengths() is not None:
            pieces = [*(bytes_of(tokenizer, token) for token in range(tokenizer.vocab_size)), BETWEEN]
            self._pieces = np.array(pieces, object)
            self._sizes = np.array(list(map(len, pieces)), np.int64)

    def __call__(self, tokens: U32, starts: I64) -> Spelled:
        """The texts of M lists: list i is `tokens[starts[i]:starts[i + 1]]` (`starts` [M + 1], from 0).

        Raises:
            UnknownToken: an id is not of this tokenizer.
        """
        if tokens.size and (largest := int(tokens.max())) >= self.tokenizer.vocab_size:
            raise UnknownToken(f"token id {largest:,}: the tokenizer has {self.tokenizer.vocab_size:,} tokens")
        if self._pieces is None:
            lists = np.split(tokens, starts[1:-1])
            return Spelled.of([text.encode() for text in self.tokenizer.decode_batch(lists)])
        between = len(self._pieces) - 1
        spaced = np.insert(tokens.astype(np.int64), starts[1:], between)
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(self._sizes[spaced])])
        return Spelled(b"".join(self._pieces[spaced].tolist()), ends[starts + np.arange(len(starts))])

    @property
    def is_exact(self) -> bool:
        """Whether tokens spell the text that they were made of, byte for byte: case, forms of letters, blanks at the ends."""
        return self._pieces is not None and self.tokenizer.as_encoded(_AWKWARD) == _AWKWARD

    def each_token(self) -> Spelled:
        """The texts of all tokens, by id."""
        tokens = np.arange(self.tokenizer.vocab_size, dtype=np.uint32)
        return self(tokens, np.arange(tokens.size + 1))
