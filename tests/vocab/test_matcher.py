"""Streams that arrive in pieces match as the whole documents do."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from builders import random_documents, slow_matches, slow_ranking, trie_of
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import refusal

from scone_cli.errors import UnknownToken
from scone_cli.vocab.index import NONE, FgramIndex
from scone_cli.vocab.matcher import ROLL_BACK, Matcher

MAX_N = 5
SEEN = random_documents(0, 4, [300, 100])
FGRAMS = slow_ranking(SEEN, MAX_N, 150, 1)
INDEX: FgramIndex = trie_of(FGRAMS, 4, MAX_N).index()
DOCUMENT = st.lists(st.integers(0, 3), max_size=200)


def whole(document: list[int]) -> list[int]:
    """The ids of a document's matches, by the slow twin."""
    ids = {fgram: i for i, fgram in enumerate(FGRAMS)}
    return [ids.get(fgram, NONE) for fgram in slow_matches(document, FGRAMS, MAX_N)]


def tokens_of(document: list[int]) -> np.ndarray:
    return np.array(document, np.uint32)


@given(DOCUMENT, st.lists(st.integers(0, 200), max_size=6))
def test_pieces_match_as_the_whole_document(document, cuts):
    tokens, matcher = tokens_of(document), Matcher(INDEX)
    pieces = [matcher.match(piece) for piece in np.split(tokens, sorted(min(cut, tokens.size) for cut in cuts))]
    assert np.concatenate(pieces).tolist() == whole(document)


@given(st.lists(st.integers(0, 3), max_size=100))
def test_token_by_token_is_as_the_whole_document(document):
    matcher = Matcher(INDEX)
    assert [int(matcher.match(tokens_of([token]))[0]) for token in document] == whole(document)


@pytest.mark.parametrize("max_n", [2, 3])
@settings(max_examples=30)
@given(document=DOCUMENT, cut=st.integers(0, 200))
def test_shorter_fgrams_token_by_token_and_in_pieces(max_n, document, cut):
    """With bigrams alone a stream's state is its last token."""
    fgrams = [fgram for fgram in FGRAMS if len(fgram) <= max_n]
    matcher = Matcher(trie_of(fgrams, 4, max_n).index())
    ids = {fgram: i for i, fgram in enumerate(fgrams)}
    found = [*matcher.match(tokens_of(document[:cut])), *(matcher.match(tokens_of([t]))[0] for t in document[cut:])]
    assert found == [ids.get(fgram, NONE) for fgram in slow_matches(document, fgrams, max_n)]


@pytest.mark.slow
@settings(max_examples=50)
@given(st.lists(DOCUMENT, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_ragged_batches_match_as_the_whole_documents(documents, random):
    """Some streams a call, in any order, with pieces of any length, none and more than a block included."""
    matcher = Matcher(INDEX, len(documents))
    read = [0] * len(documents)
    found: list[list[int]] = [[] for _ in documents]
    while any(read[i] < len(document) for i, document in enumerate(documents)):
        streams = random.sample(range(len(documents)), random.randint(1, len(documents)))
        pieces = [documents[i][read[i] : read[i] + random.choice([0, 1, 1, 7, 70])] for i in streams]
        starts = np.cumsum([0, *map(len, pieces)])
        ids = matcher.match(tokens_of([t for piece in pieces for t in piece]), starts, np.array(streams))
        for i, start, end in zip(streams, starts[:-1], starts[1:], strict=True):
            found[i] += ids[start:end].tolist()
            read[i] += int(end - start)
    assert found == [whole(document) for document in documents]


@settings(max_examples=50)
@given(DOCUMENT, st.lists(st.tuples(st.integers(0, 30), st.integers(1, 30)), max_size=12))
def test_what_is_rolled_back_was_never_read(document, drafts):
    """Drafts of tokens that are not the document's, of which a part is accepted and the rest taken back."""
    matcher, tokens, at = Matcher(INDEX, 2), tokens_of(document), 0
    for accepted, drafted in drafts:
        good = tokens[at : at + accepted]
        assert matcher.match(good).tolist() == whole(document)[at : at + len(good)]
        at += len(good)
        draft = (tokens_of(document[at : at + drafted]) + 1) % 4
        matcher.match(draft.astype(np.uint32))
        matcher.roll_back(len(draft))
    assert matcher.match(tokens[at:]).tolist() == whole(document)[at:]


def test_as_much_can_be_taken_back_as_is_said():
    [document] = random_documents(1, 4, [300])
    matcher = Matcher(INDEX)
    matcher.match(tokens_of(document[:200]))
    matcher.roll_back(ROLL_BACK)
    with refusal(ValueError, "1", "0"):
        matcher.roll_back(1)
    assert matcher.match(tokens_of(document[200 - ROLL_BACK :])).tolist() == whole(document)[200 - ROLL_BACK :]
    matcher.reset()
    matcher.match(tokens_of(document[:10]))
    with refusal(ValueError, "11", "0", "10"):
        matcher.roll_back(11)
    with refusal(ValueError, "-1"):
        matcher.roll_back(-1)
    matcher.roll_back(10)
    assert matcher.match(tokens_of(document)).tolist() == whole(document)


def test_a_new_document_knows_nothing_of_the_one_before():
    [document] = random_documents(2, 4, [50])
    matcher = Matcher(INDEX, 3)
    for _ in range(2):
        matcher.reset(1)
        ids = matcher.match(tokens_of(document), np.array([0, 50]), np.array([1]))
        assert ids.tolist() == whole(document)


@pytest.mark.parametrize(
    ("starts", "streams"),
    [
        ([0, 2, 3], [0, 0]),
        ([0, 2, 3], [0, 2]),
        ([0, 2, 3], [-1, 0]),
        ([0, 2, 4], [0, 1]),
        ([0, 2], [0]),
        ([1, 2, 3], [0, 1]),
        ([0, 4, 3], [0, 1]),
        ([0, 3], [0, 1]),
        ([0, 1, 2, 3], None),
    ],
)
def test_pieces_that_are_none_are_refused(starts, streams):
    """Twice the same stream, one that is not there, tokens left over or missing, pieces that go backwards, one too few."""
    matcher = Matcher(INDEX, 2)
    tokens = np.array([1, 2, 3], np.uint32)
    with refusal(ValueError, "pieces", "tokens"):
        matcher.match(tokens, np.array(starts), None if streams is None else np.array(streams))
    assert matcher.match(tokens).tolist() == whole([1, 2, 3])


@pytest.mark.parametrize("size", [1, 3])
def test_streams_without_pieces_are_refused(size):
    """They would all have been for stream 0."""
    with pytest.raises(ValueError, match="starts"):
        Matcher(INDEX, 2).match(np.zeros(size, np.uint32), streams=np.array([1]))


@pytest.mark.parametrize("streams", [0, -1, 1.0, True, "two", None])
def test_a_matcher_has_streams(streams):
    with refusal(ValueError, "streams", repr(streams), "1 or more"):
        Matcher(INDEX, streams)


@pytest.mark.parametrize("stream", [2, -1, 0.0, "0"])
def test_a_stream_that_is_not_there_is_refused(stream):
    """-1 was the last one."""
    matcher = Matcher(INDEX, 2)
    for act in (matcher.reset, lambda stream: matcher.roll_back(0, stream)):
        with refusal(ValueError, "stream", repr(stream), "0 to 1"):
            act(stream)


@pytest.mark.parametrize(("starts", "streams"), [([0.0, 3.0], None), ([0, 3], [0.0]), ([[0, 3]], None), (3, None)])
def test_pieces_are_whole_numbers(starts, streams):
    with refusal(ValueError, "expected whole numbers"):
        Matcher(INDEX, 2).match([1, 2, 3], starts, streams)


def test_lists_and_tensors_are_tokens_starts_and_streams_too():
    [document] = random_documents(2, 4, [50])
    expected = whole(document[:20]) + whole(document[20:])
    for kind in (list, np.array, torch.tensor, lambda given: np.array(given, np.uint8)):
        assert Matcher(INDEX, 3).match(kind(document), kind([0, 20, 50]), kind([2, 0])).tolist() == expected


@pytest.mark.parametrize("token", [4, 2**32 - 1, 2**32 + 1, -1])
@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.uint32, np.int32])
def test_what_is_no_token_is_refused_and_leaves_the_streams_as_they_were(token, dtype):
    """Alone, among others, in a piece of a stream, and in a list: never "no f-gram", nor the token that its low bits say."""
    [document] = random_documents(1, 4, [60])
    if not np.iinfo(dtype).min <= token <= np.iinfo(dtype).max:
        return
    matcher = Matcher(INDEX, 2)
    matcher.match(document[:30])
    matcher.match(document[:30], [0, 30], [1])
    bad = np.array([*document[30:33], token, 1], dtype)
    for ask, place in (
        (lambda: matcher.match(bad[3:4]), 0),
        (lambda: matcher.match(bad), 3),
        (lambda: matcher.match(bad[::-1]), 1),
        (lambda: matcher.match(bad, [0, 2, 5], [1, 0]), 3),
        (lambda: matcher.match(bad.tolist()), 3),
        (lambda: INDEX.match(bad), 3),
    ):
        with refusal(UnknownToken, f"{token}", f"place {place}", "4 tokens", "0 to 3", hint=("tokenizer",)):
            ask()
    assert issubclass(UnknownToken, ValueError)
    for stream in (0, 1):
        assert matcher.match(document[30:], [0, 30], [stream]).tolist() == whole(document)[30:]


@pytest.mark.parametrize(
    ("tokens", "facts"),
    [
        (np.array([1.0]), ["float64"]),
        (np.array([1.5, 2]), ["float64"]),
        ([1.0, 2.0], ["float64"]),
        (np.array([True]), ["bool"]),
        ([True, False], ["bool"]),
        (np.array([1], object), ["object"]),
        ([2**70], ["object"]),
        (np.array(["1"]), ["<U1"]),
        (np.array([1], "datetime64[s]"), ["datetime64"]),
        (np.zeros(0), ["float64"]),
        (np.array(1), ["shape ()"]),
        (np.uint32(1), ["shape ()"]),
        (1, ["int 1"]),
        (None, ["NoneType"]),
        ("the cat", ["str", "the cat"]),
        ({1: 2}, ["dict"]),
        ([[1], [2, 3]], ["in memory"]),
        (np.zeros((1, 1), np.uint32), ["(1, 1)"]),
        (np.zeros((2, 3), np.uint32), ["(2, 3)"]),
        (torch.ones(2), ["float32"]),
        (torch.ones(1, dtype=torch.bfloat16), ["BFloat16"]),
        (torch.ones(2, dtype=torch.int64, device="meta"), ["meta"]),
    ],
    ids=str,
)
def test_what_are_no_tokens_is_refused_with_a_sentence(tokens, facts):
    for match in (INDEX.match, Matcher(INDEX).match):
        with refusal(ValueError, "tokens", "expected whole numbers", *facts):
            match(tokens)


@pytest.mark.parametrize(
    "tokens", [[], (), np.zeros(0, np.uint32), np.zeros(0, np.int64), torch.zeros(0).long()], ids=str
)
def test_no_tokens_are_none(tokens):
    assert Matcher(INDEX).match(tokens).tolist() == []


def test_other_byte_orders_and_steps_are_the_same_tokens():
    [document] = random_documents(2, 4, [50])
    tokens = tokens_of(document)
    for same in (
        tokens.astype(">u4"),
        tokens.astype(">i8"),
        np.repeat(tokens, 2)[::2],
        tokens[::-1][::-1],
        tokens.astype(np.uint8),
    ):
        assert Matcher(INDEX).match(same).tolist() == whole(document)
        assert [int(Matcher(INDEX).match(same[:1])[0])] == whole(document)[:1]


def test_a_matcher_is_not_copied():
    """The copy would step the streams of the first."""
    with refusal(TypeError, "copied"):
        copy.deepcopy(Matcher(INDEX))
