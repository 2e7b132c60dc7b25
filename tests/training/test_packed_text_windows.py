"""Training text as windows: what is where."""

from __future__ import annotations

import numpy as np
import pytest
from builders import random_documents, slow_ranking, stream_of, trie_of
from messages import refusal

from scone_cli.errors import BadData
from scone_cli.training.packed_text import PackedText, SubCorpus
from scone_cli.vocab.index import NONE

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
    tokens, ids = text.windows(np.array([3, 0]))
    assert ids.dtype == np.uint32
    assert ids.tolist() == np.full((2, CONTEXT), NONE).tolist()
    assert tokens.tolist() == TEXT.windows(np.array([3, 0]))[0].tolist()


# ---- windows -----------------------------------------------------------------------------------------------------

# Two sub-corpora, of tokens 1..4 and of tokens 5..6, with END around each document; a window is two tokens and one more.
MIXED = PackedText(
    np.array([END, 1, 2, 3, END, 4, END, END, 5, 6, 5, END], np.uint16),
    np.arange(12, dtype=np.uint32) + 100,
    2,
    (SubCorpus("a", 7, 1), SubCorpus("b", 5, 1)),
)


def test_windows_of_sub_corpora_worked_by_hand():
    assert MIXED.num_windows == 5
    tokens, ids = MIXED.windows(np.array([4, 0, 2, 3]))
    assert tokens.dtype == ids.dtype == np.uint32
    assert tokens.tolist() == [[6, 5, END], [END, 1, 2], [END, 4, END], [END, 5, 6]]
    assert ids.tolist() == [[109, 110], [100, 101], [104, 105], [107, 108]]


def test_history_worked_by_hand():
    """What stands before a window; before the text, and before a sub-corpus, there is the end of a document."""
    tokens, ids = MIXED.windows(np.array([0, 1, 3, 4]), before=3)
    assert tokens.tolist() == [
        [END, END, END, END, 1, 2],
        [END, END, 1, 2, 3, END],
        [END, END, END, END, 5, 6],
        [END, END, 5, 6, 5, END],
    ]
    assert ids.tolist() == MIXED.windows(np.array([0, 1, 3, 4]))[1].tolist()


@pytest.mark.parametrize("before", [0, 1, 5, 40])
def test_history_is_what_windows_would_hold(before):
    numbers = np.arange(TEXT.num_windows)
    tokens, ids = TEXT.windows(numbers, before)
    padded = [END] * before + TEXT.tokens.tolist()
    assert tokens.tolist() == [padded[at : at + before + CONTEXT + 1] for at in numbers * CONTEXT]
    assert ids.tolist() == TEXT.windows(numbers)[1].tolist()


# ---- their order -------------------------------------------------------------------------------------------------


def test_the_order_of_a_text_is_that_of_its_windows():
    windows = TEXT.order(seed=3).at(0, TEXT.num_windows)
    assert sorted(windows.tolist()) == list(range(TEXT.num_windows))
    assert windows.tolist() != sorted(windows.tolist())


def test_a_window_holds_one_sub_corpus_whatever_the_order():
    """Equal shares: of six windows three are from each, which has three and two of them."""
    windows = MIXED.order(seed=0).at(0, 6)
    assert sorted(windows[windows < 3].tolist()) == [0, 1, 2]
    assert sorted(windows[windows >= 3].tolist()) in ([3, 3, 4], [3, 4, 4])
    for row in MIXED.windows(windows)[0].tolist():
        assert set(row) <= {END, 1, 2, 3, 4} or set(row) <= {END, 5, 6}


def test_epochs():
    assert PackedText(MIXED.tokens, None, 2).epochs(8) == {"epochs": 1.6}
    mixed = PackedText(MIXED.tokens, None, 2, (SubCorpus("a", 7, 2), SubCorpus("b", 5, 1)))
    assert mixed.epochs(9) == {
        "mixture": [
            {"sub-corpus": "a", "tokens": 7, "share": 0.6667, "epochs": 2.0},
            {"sub-corpus": "b", "tokens": 5, "share": 0.3333, "epochs": 1.5},
        ]
    }


def test_a_text_shorter_than_a_window():
    with refusal(BadData, "training text", "8 tokens", "8"):
        PackedText(TEXT.tokens[:CONTEXT], None, CONTEXT).order(0)
    with refusal(BadData, "'b'", "5 tokens", "5", hint=("--context", "--mixture")):
        PackedText(MIXED.tokens, None, 5, MIXED.sub_corpora).order(0)
