"""Training text as windows: what is where, and in what order it is read."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from builders import random_documents, slow_ranking, stream_of, trie_of

from scone_cli.ngrams import NONE
from scone_cli.packing import PackedText, batch_windows

NUM_TOKENS, MAX_N, END, CONTEXT = 8, 4, 7, 8
DOCUMENTS = random_documents(0, 6, [150, 80, 0, 90])  # tokens 0..5: token 6 is never seen
FGRAMS = slow_ranking(DOCUMENTS, MAX_N, 100, 2)
TRIE = trie_of(FGRAMS, NUM_TOKENS, MAX_N)
STREAM = stream_of(DOCUMENTS)
TEXT = PackedText.pack(STREAM.tokens, STREAM.starts, END, TRIE.index(), CONTEXT)


def test_packing_worked_by_hand():
    """Documents 1 2 3 | (empty) | 1 2, with the f-grams 1 2 and 2 3: an end-of-document token stands around each."""
    index = trie_of([(1, 2), (2, 3)], NUM_TOKENS, 2).index()
    stream = stream_of([[1, 2, 3], [], [1, 2]])
    text = PackedText.pack(stream.tokens, stream.starts, END, index, context=3)
    assert text.tokens.tolist() == [END, 1, 2, 3, END, END, 1, 2, END]
    assert text.ids.tolist() == [NONE, NONE, 0, 1, NONE, NONE, NONE, 0, NONE]
    assert text.num_windows == 2
    tokens, ids = text.windows(np.array([1, 0]))
    assert tokens.tolist() == [[3, END, END, 1], [END, 1, 2, 3]]
    assert ids.tolist() == [[1, NONE, NONE], [NONE, NONE, 0]]


def test_matches_cross_windows_but_no_documents():
    """The first position of a window may end an f-gram that began in the window before; nothing follows `END`."""
    places = np.flatnonzero(TEXT.ids != NONE)
    for place in places:
        fgram = FGRAMS[TEXT.ids[place]]
        assert tuple(TEXT.tokens[place - len(fgram) + 1 : place + 1]) == fgram
        assert END not in fgram
    assert any(place % CONTEXT == 0 for place in places)
    for context in (2, 5, 64):
        again = PackedText.pack(STREAM.tokens, STREAM.starts, END, TRIE.index(), context)
        assert again.ids.tolist() == TEXT.ids.tolist()


def test_a_plain_model_is_given_no_matches():
    text = PackedText.pack(STREAM.tokens, STREAM.starts, END, None, CONTEXT)
    assert text.tokens.tolist() == TEXT.tokens.tolist()
    assert set(text.ids.tolist()) == {NONE}


@pytest.mark.parametrize("batch", [1, 4, 7, 25])
def test_an_epoch_is_every_window_once(batch):
    steps = itertools.islice(batch_windows(10, batch, seed=1, first_step=0), 30)
    order = np.concatenate(list(steps))
    epochs = [order[first : first + 10].tolist() for first in range(0, len(order) - 9, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_a_batch_depends_on_seed_and_step_only():
    whole = [step.tolist() for step in itertools.islice(batch_windows(10, 4, seed=1, first_step=0), 12)]
    for first in (1, 5, 11):
        assert next(batch_windows(10, 4, seed=1, first_step=first)).tolist() == whole[first]
    assert next(batch_windows(10, 4, seed=2, first_step=0)).tolist() != whole[0]
