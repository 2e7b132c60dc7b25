"""The order in which training reads windows: shuffled in each epoch, sub-corpora in proportion to their weights.

A position is the number of windows read before. The order is a function of the seed and the position and has no other
state, so a run continues exactly from its position. Where windows are in the text is in `packed_text`.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from scone_cli.errors import BadSetting

I64 = npt.NDArray[np.int64]

_MOST_WEIGHT = 1 << 30  # of all sub-corpora together: then all numbers in `_Split.first_before` fit in 64 bits


def parse_mixture(text: str | None) -> dict[str, int]:
    """Read `code=2,law=0.5`: the weight of each sub-corpus, as the smallest whole numbers; an empty dict for None.

    Raises:
        BadSetting: this is not such a list, a name occurs twice, or a weight is not above 0 or has too many digits.
    """
    weights: dict[str, Fraction] = {}
    for item in text.split(",") if text is not None else []:
        name, _, value = (part.strip() for part in item.rpartition("="))
        if not name or name in weights or (weight := _weight(value)) is None:
            wrong = f"'{name}' is there twice" if name in weights else f"'{item}' is not a name and a weight above 0"
            raise BadSetting(f"--mixture {text}: {wrong}", "expected a list such as code=2,law=0.5")
        weights[name] = weight
    scale = math.lcm(*(weight.denominator for weight in weights.values()))
    whole = {name: int(weights[name] * scale) for name in sorted(weights)}
    common = math.gcd(*whole.values())
    mixture = {name: weight // common for name, weight in whole.items()}
    if sum(mixture.values()) > _MOST_WEIGHT:
        raise BadSetting(f"--mixture {text}: weights too far apart, or with too many digits", "round them")
    return mixture


def _weight(text: str) -> Fraction | None:
    try:  # as a float first: 1e-999999999 as a fraction would fill the memory
        return Fraction(text) if 0 < float(text) < math.inf else None
    except ValueError:
        return None


# ---- sub-corpora by weight ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Split:
    """A node of the tree that assigns positions: a sub-corpus, or two nodes that share its positions."""

    weight: int
    number: int = -1  # of the sub-corpus
    nodes: tuple[_Split, _Split] | None = None

    def first_before(self, position: int, count: int) -> tuple[int, I64]:
        """How many positions before `position` belong to the first node, and how many more before each of the next ones.

        The number is position * weight of the first / weight of both, rounded. It is exact, as it repeats after `weight`
        positions.
        """
        assert self.nodes is not None
        share = self.nodes[0].weight
        cycles, rest = divmod(position, self.weight)
        more = (2 * share * np.arange(rest, rest + count + 1, dtype=np.int64) + self.weight) // (2 * self.weight)
        return cycles * share + int(more[0]), more - more[0]


def _tree(weights: Sequence[int]) -> _Split:
    """Join the two lightest nodes until one is left (Huffman's code); short paths keep rounding errors from adding up."""
    tie = itertools.count()
    heap = [(weight, next(tie), _Split(weight, number)) for number, weight in enumerate(weights)]
    heapq.heapify(heap)
    while len(heap) > 1:
        one, other = heapq.heappop(heap)[2], heapq.heappop(heap)[2]
        both = _Split(one.weight + other.weight, nodes=(one, other))
        heapq.heappush(heap, (both.weight, next(tie), both))
    return heap[0][2]


class Turns:
    """Assigns positions to sub-corpora: of the first p positions each has its share, within about one window, for every p."""

    def __init__(self, weights: Sequence[int]) -> None:
        self._tree, self._num = _tree(weights), len(weights)

    def before(self, position: int) -> list[int]:
        """How many of the first `position` positions belong to each sub-corpus."""
        counts = [0] * self._num
        for number, first, _ in self.deal(position, 0):
            counts[number] = first
        return counts

    def deal(self, position: int, count: int) -> Iterator[tuple[int, int, I64]]:
        """For each sub-corpus: its number, its own position, and which of the next `count` positions belong to it."""
        waiting = [(self._tree, position, np.arange(count))]
        while waiting:
            node, position, places = waiting.pop()
            if node.nodes is None:
                yield node.number, position, places
                continue
            before, more = node.first_before(position, places.size)
            is_first = np.diff(more) > 0
            waiting.append((node.nodes[0], before, places[is_first]))
            waiting.append((node.nodes[1], position - before, places[~is_first]))


# ---- windows of a position ---------------------------------------------------------------------------------------


class WindowOrder:
    """The order in which the windows of a text are read, without end.

    Each sub-corpus has its own epochs: in each, all its windows are read once, in a new order. Windows are numbered through
    all sub-corpora.
    """

    def __init__(self, num_windows: Sequence[int], weights: Sequence[int], seed: int) -> None:
        self._sizes, self._seed, self._turns = list(num_windows), seed, Turns(weights)
        self._first = [0, *itertools.accumulate(self._sizes)]
        self._shuffled: dict[int, tuple[int, I64]] = {}  # for each sub-corpus: its current epoch and the order

    def at(self, position: int, count: int) -> I64:
        """The numbers of the windows of the next `count` positions, from `position` on; int64 [count]."""
        chosen = np.empty(count, np.int64)
        for number, first, places in self._turns.deal(position, count):
            chosen[places] = self._first[number] + self._walk(number, first, places.size)
        return chosen

    def _walk(self, number: int, first: int, count: int) -> I64:
        """The next `count` windows of one sub-corpus after its first `first` ones."""
        epochs, at = np.divmod(np.arange(first, first + count), self._sizes[number])
        pieces = [self._epoch(number, epoch)[at[epochs == epoch]] for epoch in np.unique(epochs).tolist()]
        return np.concatenate([np.empty(0, np.int64), *pieces])

    def _epoch(self, number: int, epoch: int) -> I64:
        if self._shuffled.get(number, (-1,))[0] != epoch:
            order = np.random.default_rng([self._seed, epoch, number]).permutation(self._sizes[number])
            self._shuffled[number] = epoch, order
        return self._shuffled[number][1]
