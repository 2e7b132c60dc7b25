"""The kernels: hash tables and the longest match."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from builders import random_documents, slow_matches, slow_ranking, stream_of, trie_of
from hypothesis import given, settings
from hypothesis import strategies as st

from scone_cli.ngrams import NONE, FgramIndex, hash_table

DOCUMENTS = st.lists(st.lists(st.integers(0, 3), max_size=20), min_size=1, max_size=6)


def index_of(documents: list[list[int]], max_n: int, size: int) -> tuple[FgramIndex, list[tuple[int, ...]]]:
    fgrams = slow_ranking(documents, max_n, size, min_count=1)
    return trie_of(fgrams, 4, max_n).index(), fgrams


def found_by(index: FgramIndex, documents: list[list[int]], fgrams: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The matches as tokens, ids and lengths having been checked to agree."""
    stream = stream_of(documents)
    ids, lengths = index.match(stream.tokens, stream.starts)
    found = [fgrams[i] if i != NONE else () for i in ids]
    assert [len(fgram) for fgram in found] == lengths.tolist()
    return found


# ---- hash tables -------------------------------------------------------------------------------------------------


def test_a_repeated_key_raises():
    with pytest.raises(ValueError, match="the same n-gram twice"):
        hash_table(np.array([5, 9, 5], np.uint64))


@pytest.mark.parametrize("size", [0, 1, 1000])
def test_a_hash_table_holds_every_key_once(size):
    keys = np.random.default_rng(0).permutation(np.arange(size, dtype=np.uint64) << np.uint64(32))
    slots, values = hash_table(keys)
    used = slots != np.uint64(2**64 - 1)
    assert dict(zip(slots[used], values[used], strict=True)) == {key: i for i, key in enumerate(keys)}
    assert slots.nbytes + values.nbytes <= 16 * size + 12 * 8


# ---- matching ----------------------------------------------------------------------------------------------------


def test_matching_worked_by_hand():
    """F-grams 1 2, 2 3 and 1 2 3 in the documents 1 2 3 2 3 | 3 1 2."""
    fgrams = [(1, 2), (2, 3), (1, 2, 3)]
    index = trie_of(fgrams, 4, 3).index()
    ids, lengths = index.match(np.array([1, 2, 3, 2, 3, 3, 1, 2], np.uint32), np.array([0, 5, 8]))
    assert ids.tolist() == [NONE, 0, 2, NONE, 1, NONE, NONE, 0]
    assert lengths.tolist() == [0, 2, 3, 0, 2, 0, 0, 2]


@settings(deadline=None)
@given(DOCUMENTS, DOCUMENTS, st.integers(2, 5), st.integers(1, 40))
def test_the_match_is_the_longest(seen, read, max_n, size):
    index, fgrams = index_of(seen, max_n, size)
    expected = [fgram for document in read for fgram in slow_matches(document, fgrams, max_n)]
    assert found_by(index, read, fgrams) == expected


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), max_size=40), st.lists(st.integers(0, 40), max_size=6), st.integers(2, 5))
def test_pieces_match_as_the_whole_document(document, cuts, max_n):
    index, _ = index_of([document], max_n, 30)
    tokens, matcher = np.array(document, np.uint32), index.matcher()
    pieces = [matcher.match(piece) for piece in np.split(tokens, sorted(min(cut, tokens.size) for cut in cuts))]
    whole = index.match(tokens)
    assert np.concatenate(pieces).tolist() == whole[0].tolist()


def test_no_match_reaches_into_the_document_before():
    documents = random_documents(0, 4, [30, 1, 0, 2, 30])
    index, fgrams = index_of(documents, 5, 60)
    apart = [fgram for document in documents for fgram in found_by(index, [document], fgrams)]
    assert found_by(index, documents, fgrams) == apart
    assert found_by(index, [list(itertools.chain(*documents))], fgrams) != apart


def test_a_match_depends_on_no_later_token():
    [document] = random_documents(0, 4, [40])
    index, fgrams = index_of([document], 4, 60)
    before = found_by(index, [document], fgrams)
    for j in range(len(document)):
        changed = [*document[:j], (document[j] + 1) % 4, *document[j + 1 :]]
        after = found_by(index, [changed], fgrams)
        assert after[:j] == before[:j]
        assert after[j : j + 4] != before[j : j + 4]
