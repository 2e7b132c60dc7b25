"""The loops of `fgram_forward`: the trie of neighbours against `FgramTrie.subtrie`, sums and SwiGLU against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from builders import random_documents, slow_ranking, trie_of

from scone_cli.table import fgram_kernels

NUM_TOKENS, MAX_N = 7, 4
FGRAMS = slow_ranking(random_documents(0, NUM_TOKENS, [300]), MAX_N, 50, 1)
TRIE = trie_of(FGRAMS, NUM_TOKENS, MAX_N)


def spelled(ids: np.ndarray) -> tuple[list[tuple[int, ...]], np.ndarray]:
    """The tokens of every node of the trie of some f-grams, by its parents alone; and the rows of the f-grams."""
    arrays = (TRIE.prefix_nodes, TRIE.last_tokens, TRIE.lengths, NUM_TOKENS, MAX_N)
    tokens, levels, parents, rows = fgram_kernels.neighbours_trie(ids, *arrays)
    nodes = list[tuple[int, ...]]()
    for token, level, parent in zip(tokens.tolist(), levels.tolist(), parents.tolist(), strict=True):
        nodes.append((*(nodes[parent] if parent >= 0 else ()), token))
        assert len(nodes[-1]) == level + 1
    return nodes, rows


@pytest.mark.parametrize("first", range(0, 50, 7))
def test_neighbours_have_every_prefix_once(first):
    ids = TRIE.token_order()[first : first + 12]
    nodes, rows = spelled(ids)
    assert [list(nodes[row]) for row in rows] == [list(FGRAMS[i]) for i in ids]
    assert len(nodes) == len(set(nodes)) == TRIE.subtrie(ids)[0].num_nodes


def test_f_grams_in_any_order_are_spelled_right():
    ids = np.random.default_rng(0).permutation(50)
    nodes, rows = spelled(ids)
    assert [list(nodes[row]) for row in rows] == [list(FGRAMS[i]) for i in ids]


@pytest.mark.parametrize("of_another", [False, True])
def test_learned_rows_of_all_endings_are_summed(of_another):
    numbers = np.random.default_rng(1).permutation(50).astype(np.uint32) if of_another else np.arange(50)
    given = numbers if of_another else np.empty(0, np.uint32)
    learned = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    sums = np.full((50, 6), np.nan, np.float32)
    fgram_kernels.sum_learned(np.arange(50), TRIE.suffixes, NUM_TOKENS, given, learned, sums)
    places = {tuple(fgram): i for i, fgram in enumerate(FGRAMS)}
    for fgram, found in zip(FGRAMS, sums, strict=True):
        endings = [places[tuple(fgram[first:])] for first in range(len(fgram) - 1)]
        np.testing.assert_allclose(
            found, sum((learned[numbers[i]] for i in endings if numbers[i] < 20), np.zeros(6)), atol=1e-6
        )


def test_swiglu():
    both = np.concatenate([np.linspace(-200, 200, 1000), np.linspace(-3, 3, 1000)]).astype(np.float32)[None]
    inner = np.empty((1, 1000), np.float32)
    fgram_kernels.swiglu(both, inner)
    gate, up = both[0, :1000].astype(np.float64), both[0, 1000:]
    np.testing.assert_allclose(inner[0], gate * up / (1 + np.exp(-gate)), rtol=1e-5, atol=1e-30)
