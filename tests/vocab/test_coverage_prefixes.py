"""The first rows of a table as if these were all: against an index of them; the knee, worked by hand."""

import math

import numpy as np
import pytest
from builders import random_documents, slow_matches, slow_ranking, stream_of, trie_of

from scone_cli.vocab.coverage import Prefix, knee_of, rungs_of
from scone_cli.vocab.index import NONE

NUM_TOKENS, MAX_N = 7, 4
FGRAMS = slow_ranking(random_documents(0, NUM_TOKENS, [300]), MAX_N, 90, 1)
TRIE = trie_of(FGRAMS, NUM_TOKENS, MAX_N)
DOCUMENTS = random_documents(1, NUM_TOKENS, [60, 0, 1, 40])


@pytest.mark.parametrize("rows", [0, 1, 5, 30, 89, 90])
def test_a_prefix_finds_what_an_index_of_it_would_find(rows):
    stream = stream_of(DOCUMENTS)
    whole = TRIE.index().match(stream.tokens, stream.starts)
    before = [part.copy() for part in whole]
    ids, lengths = Prefix(rows, TRIE.suffixes, NUM_TOKENS).cut(*whole)
    expected = [match for document in DOCUMENTS for match in slow_matches(document, FGRAMS[:rows], MAX_N)]
    assert ids.tolist() == [FGRAMS.index(match) if match else NONE for match in expected]
    assert lengths.tolist() == [len(match) for match in expected]
    assert [part.tolist() for part in whole] == [part.tolist() for part in before]  # they are others' too
    if 0 < rows < 90:
        first = trie_of(FGRAMS[:rows], NUM_TOKENS, MAX_N).index().match(stream.tokens, stream.starts)
        assert (ids.tolist(), lengths.tolist()) == (first[0].tolist(), first[1].tolist())


@pytest.mark.parametrize(
    ("rows", "rungs"),
    [(7, [7]), (1000, [1000]), (1001, [1000, 1001]), (250_000, [1000, 10_000, 100_000, 250_000])],
)
def test_rungs_are_powers_of_ten_and_all(rows, rungs):
    assert rungs_of(rows) == rungs


def test_the_knee_lies_furthest_below_the_line_between_the_ends():
    num_bytes = [10.0, 100.0, 1000.0, 10_000.0]  # the line falls by 1 a step: 4, 3, 2, 1
    assert knee_of(num_bytes, [4, 2, 1.5, 1]) == 1
    assert knee_of(num_bytes, [4, 2.5, 1.2, 1]) == 2
    assert knee_of(num_bytes, [4, 3.5, 3.0, 1]) is None  # above the line: every step gains more than the one before
    assert knee_of(num_bytes, [4, 3, 2, 1]) is None


def test_two_points_have_no_knee():
    assert knee_of([1.0, math.e], [2, 1]) is None
    assert knee_of([1.0], [2]) is None


def test_no_match_stays_none():
    ids, lengths = Prefix(3, TRIE.suffixes, NUM_TOKENS).cut(np.array([NONE], np.uint32), np.zeros(1, np.uint8))
    assert (ids.tolist(), lengths.tolist()) == ([NONE], [0])
