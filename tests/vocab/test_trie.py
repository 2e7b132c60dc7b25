"""The f-grams as a trie: what a batch needs of it, each node once."""

from __future__ import annotations

import numpy as np
import pytest
from builders import random_documents, slow_ranking, trie_of
from hypothesis import given
from hypothesis import strategies as st

from scone_cli.vocab.index import NONE
from scone_cli.vocab.trie import Trie, distinct_matches

FGRAMS = slow_ranking(random_documents(0, 6, [200, 150]), max_n=5, size=300, min_count=1)
TRIE = trie_of(FGRAMS, num_tokens=6, max_n=5)


def paths_of(trie: Trie) -> list[tuple[int, ...]]:
    """The tokens from the root to each node, followed up through the parents."""
    paths: list[tuple[int, ...]] = []
    for token, parent in zip(trie.tokens.tolist(), trie.parents.tolist(), strict=True):
        paths.append((*(paths[parent] if parent >= 0 else ()), token))
    return paths


@given(st.lists(st.integers(0, len(FGRAMS) - 1), unique=True))
def test_the_subtrie_is_the_closure_under_prefixes_each_once(ids):
    trie, rows = TRIE.subtrie(np.array(ids, np.int64))
    paths = paths_of(trie)
    expected = {FGRAMS[i][:n] for i in ids for n in range(1, len(FGRAMS[i]) + 1)}
    assert len(paths) == trie.num_nodes == len(expected)
    assert set(paths) == expected
    assert [paths[row] for row in rows] == [FGRAMS[i] for i in ids]


def test_the_subtrie_of_everything_costs_one_node_an_fgram():
    trie, rows = TRIE.subtrie(np.arange(len(FGRAMS)))
    first_tokens = {fgram[0] for fgram in FGRAMS}
    assert trie.num_nodes == len(FGRAMS) + len(first_tokens)
    assert len(set(rows.tolist())) == len(FGRAMS)


def test_levels_without_nodes_are_empty():
    trie, rows = TRIE.subtrie(np.array([FGRAMS.index(fgram) for fgram in FGRAMS if len(fgram) == 2][:1]))
    assert trie.offsets == (0, 1, 2, 2, 2, 2)
    assert rows.tolist() == [1]


def test_tokens_of_an_fgram():
    assert TRIE.tokens_of(np.arange(len(FGRAMS))) == [list(fgram) for fgram in FGRAMS]


def test_token_order():
    assert [FGRAMS[i] for i in TRIE.token_order()] == sorted(FGRAMS)


def test_distinct_matches():
    ids = np.array([[7, NONE, 3], [3, 7, NONE]], np.uint32)
    distinct, places = distinct_matches(ids)
    assert distinct.tolist() == [3, 7]
    assert places.tolist() == [[1, -1, 0], [0, 1, -1]]


def test_no_match_at_all():
    distinct, places = distinct_matches(np.full((2, 2), NONE, np.uint32))
    assert distinct.size == 0
    assert places.tolist() == [[-1, -1], [-1, -1]]
    trie, rows = TRIE.subtrie(distinct)
    assert (trie.num_nodes, rows.size) == (0, 0)


@pytest.mark.parametrize("share", [0.1, 1.0])
def test_the_index_finds_every_fgram(share):
    """An index of the first f-grams finds each of them in its own tokens, and none beyond."""
    size = int(len(FGRAMS) * share)
    index = trie_of(FGRAMS[:size], 6, 5).index()
    for i, fgram in enumerate(FGRAMS):
        found = index.match(np.array(fgram, np.uint32))[0][-1]
        assert (found == i) == (i < size)
