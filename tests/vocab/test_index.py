"""The kernels: hash tables and the longest match."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from builders import random_documents, slow_matches, slow_ranking, stream_of, trie_of
from hypothesis import given
from hypothesis import strategies as st
from messages import refusal
from numba import njit

from scone_cli.arrays import U32
from scone_cli.errors import BadSetting, DamagedArtifact
from scone_cli.vocab import index as ngrams
from scone_cli.vocab.index import NONE, FgramIndex, fewest_lines, find, place_of, shape_of
from scone_cli.vocab.matcher import Matcher

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


# ---- the index ---------------------------------------------------------------------------------------------------


def test_a_repeated_key_raises():
    with refusal(ValueError, "twice"):
        FgramIndex.build(np.array([5, 9, 5], np.uint32), np.array([1, 1, 1], np.uint32), 10, 2)


@njit
def find_all(nodes, tokens, lines, shape):
    return [find(lines, place_of(nodes[i], tokens[i], shape), shape) for i in range(nodes.size)]


def pairs(size: int, num_tokens: int) -> tuple[U32, U32]:
    """So many distinct n-grams, as nodes and tokens: half of them as close together as they can be, half far apart."""
    random = np.random.default_rng(0)
    near = np.arange(size // 2)
    far = np.unique(random.integers(size // 2, (num_tokens + size) * num_tokens, 2 * size))
    both = np.concatenate([near, random.permutation(far)[: size - near.size]])
    return (both // num_tokens).astype(np.uint32), (both % num_tokens).astype(np.uint32)


@pytest.mark.parametrize("size", [0, 1, 5, 1000, 20_000, 300_000])
@pytest.mark.parametrize("num_tokens", [4, 1000, 50_257, 1_000_000])
def test_every_key_is_found_and_no_other(size, num_tokens):
    """A slow twin of the index is a dict. At four fifths full many lines run over; all places of a line must differ."""
    if size > num_tokens * (num_tokens + size) // 4:
        pytest.skip("there are not so many n-grams")
    nodes, tokens = pairs(size, num_tokens)
    index = FgramIndex.build(nodes, tokens, num_tokens, 2)
    known = {pair: i for i, pair in enumerate(zip(nodes.tolist(), tokens.tolist(), strict=True))}
    asked = np.concatenate([nodes, nodes, [0]]), np.concatenate([tokens, (tokens + 1) % num_tokens, [0]])
    expected = [known.get(pair, NONE) for pair in zip(*(each.tolist() for each in asked), strict=True)]
    assert list(find_all(*asked, index.lines, index.shape)) == expected
    assert index.nbytes == 64 * fewest_lines(size, num_tokens)


@pytest.mark.slow
@pytest.mark.parametrize("full", [7.7, 8.2, 20])
def test_an_index_that_was_planned_too_small_is_made_larger(monkeypatch, full):
    """So full that f-grams are found after many tries; of those that have more than eight a line not all find room."""
    nodes, tokens = pairs(20_000, 1000)
    monkeypatch.setattr(ngrams, "_FULL", full)
    index = FgramIndex.build(nodes, tokens, 1000, 2)
    assert (index.nbytes == 64 * fewest_lines(20_000, 1000)) == (full < 8)
    assert list(find_all(nodes, tokens, index.lines, index.shape)) == list(range(20_000))
    known = set(zip(nodes.tolist(), tokens.tolist(), strict=True))
    others = [pair for pair in zip(nodes.tolist(), ((tokens + 1) % 1000).tolist(), strict=True) if pair not in known]
    assert set(find_all(*np.array(others, np.uint32).T, index.lines, index.shape)) == {NONE}


def test_places_of_one_line_are_told_apart_by_24_bits():
    """All that is possible, at the fewest lines: line and tag are different for each n-gram."""
    num_tokens, num_fgrams = 3, 1000
    shape = shape_of(num_fgrams, num_tokens, fewest_lines(num_fgrams, num_tokens))
    seen = {where(node, token, shape) for node in range(num_tokens + num_fgrams) for token in range(num_tokens)}
    assert len(seen) == (num_tokens + num_fgrams) * num_tokens
    assert all(rest < 1 << 24 for _, rest in seen)


@pytest.mark.parametrize(
    ("num_fgrams", "num_tokens"), [(0, 1_000_000), (10**7, 262_144), (10**9, 128_000), (4 * 10**9, 65_536)]
)
def test_the_rest_fits_its_bits_at_every_size(num_fgrams, num_tokens):
    shape = shape_of(num_fgrams, num_tokens, fewest_lines(num_fgrams, num_tokens))
    random = np.random.default_rng(0)
    nodes, tokens = random.integers(num_tokens + num_fgrams, size=5000), random.integers(num_tokens, size=5000)
    found = [where(node, token, shape) for node, token in zip(nodes, tokens, strict=True)]
    assert all(line < shape[2] and 0 <= rest < 1 << 24 for line, rest in found)
    assert len(set(found)) == len(set(zip(nodes.tolist(), tokens.tolist(), strict=True)))


def test_more_tokens_than_the_index_can_tell_apart():
    with refusal(BadSetting, 1 << 31, hint=("tokenizer",)):
        FgramIndex.build(np.array([5], np.uint32), np.array([1], np.uint32), 1 << 31, 2)


@njit
def where(node, token, shape):
    place = place_of(node, token, shape)
    line = ngrams._first_line(place, shape)
    return line, ngrams._rest(place, line, shape)


def test_a_line_that_was_lost_is_no_miss():
    fgrams = slow_ranking(random_documents(0, 4, [300]), 4, 60, 1)
    index = trie_of(fgrams, 4, 4).index()
    index.lines[:-1] = 0  # the last word would tell as well
    with pytest.raises(DamagedArtifact, match="index"):
        index.match(np.array([1, 2], np.uint32))
    with pytest.raises(DamagedArtifact, match="index"):
        Matcher(index).match(np.array([1, 2], np.uint32))


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.uint16])
def test_tokens_of_another_type_are_the_same_tokens(dtype):
    index = trie_of([(0, 1), (1, 2), (0, 1, 2)], 3, 3).index()
    tokens = np.array([0, 1, 2, 1, 1, 2], dtype)
    for match in (lambda tokens: index.match(tokens)[0], lambda tokens: Matcher(index).match(tokens)):
        assert match(tokens).tolist() == match(tokens[::-1][::-1]).tolist() == [NONE, 0, 2, NONE, NONE, 1]


@pytest.mark.parametrize("starts", [[0, 2], [1, 3], [0, 4], [0, 2, 1, 3], [0], []])
def test_documents_that_are_not_all_of_the_tokens_are_refused(starts):
    """Else what lies beside them in memory would be read, or be the answer."""
    index = trie_of([(0, 1)], 3, 2).index()
    with refusal(ValueError, "documents", "tokens"):
        index.match(np.array([0, 1, 2], np.uint32), np.array(starts, np.int64))


# ---- matching ----------------------------------------------------------------------------------------------------


def test_matching_worked_by_hand():
    """F-grams 1 2, 2 3 and 1 2 3 in the documents 1 2 3 2 3 | 3 1 2."""
    fgrams = [(1, 2), (2, 3), (1, 2, 3)]
    index = trie_of(fgrams, 4, 3).index()
    ids, lengths = index.match(np.array([1, 2, 3, 2, 3, 3, 1, 2], np.uint32), np.array([0, 5, 8]))
    assert ids.tolist() == [NONE, 0, 2, NONE, 1, NONE, NONE, 0]
    assert lengths.tolist() == [0, 2, 3, 0, 2, 0, 0, 2]


@given(DOCUMENTS, DOCUMENTS, st.integers(2, 5), st.integers(1, 40))
def test_the_match_is_the_longest(seen, read, max_n, size):
    index, fgrams = index_of(seen, max_n, size)
    expected = [fgram for document in read for fgram in slow_matches(document, fgrams, max_n)]
    assert found_by(index, read, fgrams) == expected


def test_no_match_reaches_into_the_document_before():
    documents = random_documents(0, 4, [30, 1, 0, 2, 30])
    index, fgrams = index_of(documents, 5, 60)
    apart = [fgram for document in documents for fgram in found_by(index, [document], fgrams)]
    assert found_by(index, documents, fgrams) == apart
    assert found_by(index, [list(itertools.chain(*documents))], fgrams) != apart


def test_long_documents_match_across_blocks():
    documents = random_documents(3, 4, [200, 63, 64, 65, 1, 1, 128])
    index, fgrams = index_of(documents, 5, 200)
    assert found_by(index, documents, fgrams) == [m for one in documents for m in slow_matches(one, fgrams, 5)]


def test_a_match_depends_on_no_later_token():
    [document] = random_documents(0, 4, [40])
    index, fgrams = index_of([document], 4, 60)
    before = found_by(index, [document], fgrams)
    for j in range(len(document)):
        changed = [*document[:j], (document[j] + 1) % 4, *document[j + 1 :]]
        after = found_by(index, [changed], fgrams)
        assert after[:j] == before[:j]
        assert after[j : j + 4] != before[j : j + 4]
