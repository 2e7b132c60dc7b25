"""Rows that are trained directly, as embeddings are: beside A_f-gram's rows, or, for hashed n-grams, in place of them.

There may be millions, of which a batch touches few: their gradients are sparse. Shapes: B sequences, C context, R f-grams,
M distinct rows, L rows a line, D = dim.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scone_cli.arrays import I64, U32
from scone_cli.vocab.trie import FgramTrie


class LearnedRows(nn.Module):
    """A row for each of the N most frequent f-grams, trained directly; weight [N, D].

    A position takes the rows of all f-grams that end there. As the vocabulary is closed under suffixes these follow from the
    longest alone, so that their sum can be part of its one row in the table.
    """

    def __init__(self, num_rows: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_rows, dim))

    def slots(self, trie: FgramTrie, ids: npt.NDArray[np.integer]) -> I64:
        """Rows of all f-grams that end where the f-grams `ids` do [R, K - 1], -1 where there is none."""
        endings = trie.endings(ids)
        endings[endings >= len(self.weight)] = -1
        return endings


class HashedRows(nn.Module):
    """Rows for hashed n-grams, one table a length from 2 to K, trained directly: the baseline in the style of Over-Encoding.

    Row = the n-gram as a number in base V, modulo the table's size, which is coprime with V so that every token counts.
    """

    def __init__(self, num_rows: int, dim: int, num_tokens: int, max_n: int, end_of_document: int) -> None:
        super().__init__()
        self.num_tokens, self.end_of_document = num_tokens, end_of_document
        self.sizes = hashed_sizes(num_rows, num_tokens, max_n)
        self.weight = nn.Parameter(torch.empty(sum(self.sizes), dim))

    def slots(self, tokens_BHC: U32) -> I64:
        """Row of the n-gram that ends at each position, by length [B, C, K - 1]; -1 where it would reach into another document.

        The first K - 1 tokens of each line are history: nothing is asked about them.
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
    """Sizes of the tables for n = 2..K, each the largest at hand that is coprime with the vocabulary and unlike the others."""
    sizes: list[int] = []
    for _ in range(2, max_n + 1):
        size = min(num_rows // (max_n - 1), *(taken - 1 for taken in sizes)) if sizes else num_rows // (max_n - 1)
        while math.gcd(size, num_tokens) != 1:
            size -= 1
        sizes.append(size)
    return sizes


def sum_of(rows_MD: Tensor, slots_RL: I64) -> Tensor:
    """The sum of the rows that each line of slots names [R, D]; -1 names none."""
    is_row = slots_RL >= 0
    starts = np.cumsum(is_row.sum(1)) - is_row.sum(1)
    wanted, offsets = (torch.from_numpy(part).to(rows_MD.device) for part in (slots_RL[is_row], starts))
    sums: Tensor = F.embedding_bag(wanted, rows_MD, offsets, mode="sum")
    return sums


@dataclass(frozen=True)
class TouchedRows:
    """The distinct rows that a batch reads, cut off from the parameter that holds them.

    numbers int64 [M]: which; places, of the shape of the slots: for each slot its place among these, or -1; values [M, D].
    """

    numbers: Tensor
    places: I64
    values: Tensor

    @classmethod
    def of(cls, weight: Tensor, slots: I64) -> TouchedRows:
        """Read the rows that `slots` name (-1: none)."""
        is_row = slots >= 0
        places = np.full(slots.shape, -1, np.int64)
        distinct, places[is_row] = np.unique(slots[is_row], return_inverse=True)
        numbers = torch.from_numpy(distinct).to(weight.device)
        return cls(numbers, places, weight.detach().index_select(0, numbers))

    def give_gradient(self, weight: Tensor, grad_MD: Tensor) -> None:
        """Make the gradient of these rows that of the parameter: sparse, and 0 for the others."""
        if len(self.numbers):
            weight.grad = torch.sparse_coo_tensor(
                self.numbers[None], grad_MD, weight.shape, is_coalesced=True, check_invariants=False
            )
