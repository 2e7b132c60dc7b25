"""Which f-gram of one vocabulary is which of another, against a dictionary of their tokens."""

from __future__ import annotations

import pytest
from builders import random_documents, slow_ranking, trie_of

from scone_cli.vocab.index import NONE
from scone_cli.vocab.shared_fgrams import is_beginning, numbers_in

NUM_TOKENS = 6


def fgrams(seed: int, max_n: int, size: int):
    return slow_ranking(random_documents(seed, NUM_TOKENS, [200, 150]), max_n=max_n, size=size, min_count=1)


@pytest.mark.parametrize(
    ("max_n", "size", "other_n", "other_size"), [(5, 300, 5, 60), (5, 40, 3, 200), (2, 30, 5, 300)]
)
def test_each_fgram_gets_the_number_that_the_same_tokens_have_there(max_n, size, other_n, other_size):
    for seed in range(10):
        here, there = fgrams(seed, max_n, size), fgrams(seed + 100, other_n, other_size)
        numbers = {fgram: number for number, fgram in enumerate(there)}
        found = numbers_in(trie_of(there, NUM_TOKENS, other_n).index(), trie_of(here, NUM_TOKENS, max_n))
        assert found.tolist() == [numbers.get(fgram, NONE) for fgram in here]
        assert any(fgram in numbers for fgram in here)


def test_nothing_is_shared_with_an_empty_vocabulary():
    empty = trie_of([], NUM_TOKENS, 5)
    trie = trie_of(fgrams(0, 5, 50), NUM_TOKENS, 5)
    assert numbers_in(empty.index(), trie).tolist() == [NONE] * 50
    assert numbers_in(trie.index(), empty).size == 0


def test_the_beginning_of_a_vocabulary():
    trie = trie_of(fgrams(0, 5, 50), NUM_TOKENS, 5)
    for size in (0, 1, 20, 50):
        assert is_beginning(trie_of(fgrams(0, 5, size), NUM_TOKENS, 5), trie)
    assert not is_beginning(trie, trie_of(fgrams(0, 5, 20), NUM_TOKENS, 5))
    assert not is_beginning(trie_of(fgrams(1, 5, 20), NUM_TOKENS, 5), trie)
    assert not is_beginning(trie_of(fgrams(0, 5, 20), NUM_TOKENS + 1, 5), trie)
