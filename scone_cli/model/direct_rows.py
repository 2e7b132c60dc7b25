"""Rows that are trained directly like embeddings: learned rows beside A_f-gram's, and rows of hashed n-grams (a baseline).

There may be millions of rows and a batch reads few of them, so their gradients are sparse. Shapes: B sequences,
C context, R f-grams, M distinct rows, L slots per line, D = dim.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scone_cli.arrays import I64, U32
from scone_cli.vocab.index import FgramIndex
from scone_cli.vocab.shared_fgrams import is_beginning, numbers_in
from scone_cli.vocab.trie import FgramTrie


class LearnedRows(nn.Module):
    """One trained row for each of the N most frequent f-grams; weight [N, D].

    A position sums the rows of all f-grams that end there. The vocabulary is closed under suffixes, so the longest f-gram
    determines all the others, and the sum can be part of the one row that the longest f-gram has in the table.

    `read_fgrams` reads the f-grams of the rows, which a trained model keeps. It is None while a model is trained, and for
    models of early versions: they meet only the vocabulary that they are trained with, whose first N f-grams have the rows.
    """

    def __init__(self, num_rows: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_rows, dim))
        self.read_fgrams: Callable[[], FgramTrie] | None = None
        self._numbers: list[tuple[FgramTrie, U32 | None]] = []

    @functools.cached_property
    def fgrams(self) -> FgramTrie | None:
        """The f-grams of the rows, if they are known."""
        return None if self.read_fgrams is None else self.read_fgrams()

    @functools.cached_property
    def index(self) -> FgramIndex | None:
        """Finds the number of an f-gram's row; None: it is the f-gram's id in the vocabulary of the training."""
        return None if self.fgrams is None else self.fgrams.index()

    def numbers(self, trie: FgramTrie) -> U32 | None:
        """The row number of each f-gram of a vocabulary [S], NONE if it has none; None: row i is that of f-gram i.

        Computed once for a vocabulary.
        """
        for known, numbers in self._numbers:
            if known is trie:
                return numbers
        found = None
        if self.fgrams is not None and self.index is not None and not is_beginning(self.fgrams, trie):
            found = numbers_in(self.index, trie)
        self._numbers.append((trie, found))
        return found

    def slots(self, trie: FgramTrie, ids: npt.NDArray[np.integer]) -> I64:
        """Row numbers of each f-gram in `ids` and of its suffixes that are f-grams [R, K - 1]; -1 if there is no row."""
        endings, numbers = trie.endings(ids), self.numbers(trie)
        if numbers is not None:
            is_fgram = endings >= 0
            endings[is_fgram] = numbers[endings[is_fgram]]
        endings[endings >= len(self.weight)] = -1  # NONE too
        return endings


class HashedRows(nn.Module):
    """Baseline in the style of Over-Encoding: trained rows for hashed n-grams, one table per length from 2 to K.

    Row number = the n-gram read as a number in base V, modulo the table's size. The size is coprime with V, so that
    every token of the n-gram changes the row.
    """

    def __init__(self, num_rows: int, dim: int, num_tokens: int, max_n: int, end_of_document: int) -> None:
        super().__init__()
        self.num_tokens, self.end_of_document = num_tokens, end_of_document
        self.sizes = hashed_sizes(num_rows, num_tokens, max_n)
        self.weight = nn.Parameter(torch.empty(sum(self.sizes), dim))

    def slots(self, tokens_BHC: U32) -> I64:
        """Row numbers of the n-grams of each length that end at each position [B, C, K - 1].

        -1 where the n-gram would cross into another document. The first H = K - 1 tokens of each line are history: they
        get no slots of their own.
        """
        history = len(self.sizes)
        tokens = tokens_BHC.astype(np.int64)
        before = [tokens[:, history - back : tokens.shape[1] - back] for back in range(history + 1)]
        is_inside = before[0] != self.end_of_document
        slots, first_row = [], 0
        for length, size in enumerate(self.sizes, 2):
            is_inside = is_inside & (before[length - 1] != self.end_of_document)
            number = before[length - 1] % size
            for token in reversed(before[: length - 1]):
                number = (number * self.num_tokens + token) % size
            slots.append(np.where(is_inside, first_row + number, -1))
            first_row += size
        return np.stack(slots, -1)


def hashed_sizes(num_rows: int, num_tokens: int, max_n: int) -> list[int]:
    """Table sizes for n = 2..K: the largest ones that are coprime with the vocabulary size and differ from each other."""
    sizes: list[int] = []
    for _ in range(2, max_n + 1):
        size = min(num_rows // (max_n - 1), *(taken - 1 for taken in sizes)) if sizes else num_rows // (max_n - 1)
        while math.gcd(size, num_tokens) != 1:
            size -= 1
        sizes.append(size)
    return sizes


def sum_of(rows_MD: Tensor, slots_RL: I64) -> Tensor:
    """Sum the rows that each line of slots names; returns [R, D]. A slot of -1 names no row."""
    is_row = slots_RL >= 0
    starts = np.cumsum(is_row.sum(1)) - is_row.sum(1)
    wanted, offsets = (torch.from_numpy(part).to(rows_MD.device) for part in (slots_RL[is_row], starts))
    sums: Tensor = F.embedding_bag(wanted, rows_MD, offsets, mode="sum")
    return sums


@dataclass(frozen=True)
class TouchedRows:
    """A copy of the distinct rows that a batch reads, detached from their parameter.

    numbers: row numbers, int64 [M]. places: for each slot its index into `numbers`, or -1, in the shape of the slots.
    values: the rows [M, D].
    """

    numbers: Tensor
    places: I64
    values: Tensor

    @classmethod
    def of(cls, weight: Tensor, slots: I64) -> TouchedRows:
        """Copy the rows that `slots` name; a slot of -1 names no row."""
        is_row = slots >= 0
        places = np.full(slots.shape, -1, np.int64)
        distinct, places[is_row] = np.unique(slots[is_row], return_inverse=True)
        numbers = torch.from_numpy(distinct).to(weight.device)
        return cls(numbers, places, weight.detach().index_select(0, numbers))

    def give_gradient(self, weight: Tensor, grad_MD: Tensor) -> None:
        """Set the parameter's gradient to the gradient of these rows: a sparse tensor, 0 for all other rows."""
        if len(self.numbers):
            weight.grad = torch.sparse_coo_tensor(
                self.numbers[None], grad_MD, weight.shape, is_coalesced=True, check_invariants=False
            )
