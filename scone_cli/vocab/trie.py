"""The f-gram vocabulary as a trie of prefixes, and the subtrie that a batch needs.

An f-gram is a node; its parent is the f-gram without its last token (for a bigram: its first token). A_f-gram is causal, so
all f-grams that continue a node share its hidden states: each node costs the forward pass of one token.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from scone_cli.arrays import I64, U8, U32
from scone_cli.errors import DamagedArtifact
from scone_cli.vocab.index import NONE, FgramIndex


@dataclass(frozen=True)
class Trie:
    """A trie of N distinct prefixes, shortest first, in the form that A_f-gram takes as input.

    tokens int64 [N]: the last token of each node. Level l (nodes of l + 1 tokens) is rows offsets[l] to offsets[l + 1].
    parents int64 [N]: the row of each node's parent, -1 on level 0.
    """

    tokens: I64
    offsets: tuple[int, ...]
    parents: I64

    @property
    def max_n(self) -> int:
        """The number of levels: the largest possible number of tokens of an f-gram."""
        return len(self.offsets) - 1

    @property
    def num_nodes(self) -> int:
        """The number of nodes: a forward pass of the trie costs as much as that of so many tokens."""
        return int(self.tokens.size)


@dataclass(frozen=True)
class FgramTrie:
    """The trie of all S f-grams: node of the prefix uint32 [S], last token uint32 [S], length uint8 [S].

    Node t < num_tokens is the single token t; node num_tokens + i is f-gram i.
    """

    prefix_nodes: U32
    last_tokens: U32
    lengths: U8
    num_tokens: int
    max_n: int

    @property
    def num_fgrams(self) -> int:
        """The number S of f-grams, and of rows in the table."""
        return int(self.last_tokens.size)

    def index(self) -> FgramIndex:
        """Build the index that finds these f-grams in a text."""
        return FgramIndex.build(self.prefix_nodes, self.last_tokens, self.num_tokens, self.max_n)

    def subtrie(self, ids: npt.NDArray[np.integer]) -> tuple[Trie, I64]:
        """The trie of the f-grams `ids` (distinct) and all their prefixes, and the row of each id in it [len(ids)]."""
        ids = ids.astype(np.int64)
        lengths = self.lengths[ids]
        levels: list[I64] = [np.empty(0, np.int64)] * self.max_n  # level l: sorted f-gram ids (l >= 1), tokens (l = 0)
        for level in range(self.max_n - 1, -1, -1):
            wanted = [ids[lengths == level + 1]]
            if level + 1 < self.max_n and levels[level + 1].size:
                nodes = self.prefix_nodes[levels[level + 1]].astype(np.int64)
                wanted.append(nodes if level == 0 else nodes - self.num_tokens)
            levels[level] = np.unique(np.concatenate(wanted))
        offsets = np.concatenate([[0], np.cumsum([level.size for level in levels])])
        parents = [np.full(levels[0].size, -1, np.int64)]
        for level in range(1, self.max_n):
            nodes = self.prefix_nodes[levels[level]].astype(np.int64)
            above = nodes if level == 1 else nodes - self.num_tokens
            parents.append(offsets[level - 1] + np.searchsorted(levels[level - 1], above))
        tokens = np.concatenate([levels[0], *(self.last_tokens[level].astype(np.int64) for level in levels[1:])])
        rows = np.empty(ids.size, np.int64)
        for level in range(1, self.max_n):
            here = lengths == level + 1
            rows[here] = offsets[level] + np.searchsorted(levels[level], ids[here])
        return Trie(tokens, tuple(int(offset) for offset in offsets), np.concatenate(parents)), rows

    def chunks(self, ids: npt.NDArray[np.integer], max_fgrams: int) -> tuple[list[tuple[Trie, I64]], I64]:
        """The trie of the f-grams `ids` (distinct) in pieces that share no node, and the order of the ids in the pieces.

        A piece holds all f-grams of some first tokens: `max_fgrams` at most, or more if one first token alone has more.
        """
        first_tokens = self._first_tokens(ids)
        order = np.argsort(first_tokens, kind="stable")
        ends = np.flatnonzero(np.diff(first_tokens[order], append=-1)) + 1  # where the f-grams of a first token end
        pieces, start = list[tuple[Trie, I64]](), 0
        while start < ids.size:
            fitting, longer = np.searchsorted(ends, (start + max_fgrams, start), "right")
            end = int(ends[max(fitting - 1, longer)])
            pieces.append(self.subtrie(ids[order[start:end]]))
            start = end
        return pieces, order

    def _first_tokens(self, ids: npt.NDArray[np.integer]) -> I64:
        nodes = ids.astype(np.int64) + self.num_tokens
        while (longer := np.flatnonzero(nodes >= self.num_tokens)).size:
            nodes[longer] = self.prefix_nodes[nodes[longer] - self.num_tokens]
        return nodes

    @cached_property
    def suffixes(self) -> U32:
        """The node of each f-gram without its first token [S]; computed once, with a temporary index of 10 bytes per f-gram.

        Raises:
            DamagedArtifact: the vocabulary is not closed under suffixes.
        """
        try:
            return self.index().suffixes(self.prefix_nodes, self.last_tokens)
        except ValueError as error:
            raise DamagedArtifact(f"the vocabulary has {error}", "run: scone select-vocab --force") from error

    def endings(self, ids: npt.NDArray[np.integer]) -> I64:
        """All f-grams that end at the same token as each of `ids`, longest first [len(ids), K - 1]; -1 after the last."""
        endings = np.full((ids.size, self.max_n - 1), -1, np.int64)
        endings[:, 0] = ids
        for column in range(1, self.max_n - 1):
            longer = endings[:, column - 1]
            is_fgram = longer >= 0
            nodes = self.suffixes[longer[is_fgram]].astype(np.int64)
            endings[is_fgram, column] = np.where(nodes >= self.num_tokens, nodes - self.num_tokens, -1)
        return endings

    def tokens_of(self, ids: npt.NDArray[np.integer]) -> list[list[int]]:
        """The tokens of each f-gram, first to last. Slow and readable: for reports and tests."""
        result = []
        for i in ids:
            reversed_tokens, node = [], self.num_tokens + int(i)
            while node >= self.num_tokens:
                reversed_tokens.append(int(self.last_tokens[node - self.num_tokens]))
                node = int(self.prefix_nodes[node - self.num_tokens])
            result.append([*reversed([*reversed_tokens, node])])
        return result

    def token_order(self) -> I64:
        """All ids sorted by their tokens, so that neighbours share prefixes [S]."""
        columns = np.full((self.max_n, self.num_fgrams), -1, np.int64)
        node = np.arange(self.num_fgrams, dtype=np.int64) + self.num_tokens
        remaining = self.lengths.astype(np.int64)
        while (inside := node >= self.num_tokens).any():
            which = np.flatnonzero(inside)
            fgram = node[which] - self.num_tokens
            columns[remaining[which] - 1, which] = self.last_tokens[fgram]
            node[which] = self.prefix_nodes[fgram]
            remaining[which] -= 1
        columns[0] = node
        return np.lexsort(columns[::-1])


def distinct_matches(ids: U32) -> tuple[npt.NDArray[np.uint32], I64]:
    """The distinct f-grams [U] among the matches `ids` of a batch, and the index of each position in them, -1: no match."""
    flat = ids.reshape(-1)
    matched = flat != NONE
    distinct, inverse = np.unique(flat[matched], return_inverse=True)
    slots = np.full(flat.shape, -1, np.int64)
    slots[matched] = inverse
    return distinct, slots.reshape(ids.shape)
