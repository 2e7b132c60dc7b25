"""Finding texts in what tokens spell: however they are cut, with any tokenizer, and as a plain search in Python would."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from scone_cli.audit.documents import spelled_pieces
from scone_cli.audit.looks_personal import personal
from scone_cli.audit.own_ngrams import OwnNgrams
from scone_cli.audit.spelled import Spelled, Spelling
from scone_cli.audit.texts import Finder, as_shown, forms_of, not_shown
from scone_cli.corpus.personal import kinds_in
from scone_cli.corpus.spelling import Speller
from scone_cli.corpus.tokenizer import Tokenizer, train_tokenizer

ALPHABET = ["a", "b", " ", "\n", "\u00e9", "e\u0301", "\U0001f642", "\0"]


def random_text(chance: random.Random, longest: int) -> str:
    return "".join(chance.choices(ALPHABET, (6, 6, 4, 1, 2, 1, 1, 1), k=chance.randint(1, longest)))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    chance = random.Random(0)
    texts = (
        random_text(chance, 40).encode("ascii", "ignore").decode() for _ in range(300)
    )  # others are cut into bytes
    return Tokenizer(train_tokenizer(texts, 320), "tokenizer.json")


def starts_of(lists: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    flat = np.array([token for each in lists for token in each], np.uint32)
    return flat, np.concatenate([[0], np.cumsum(list(map(len, lists)))]).astype(np.int64)


def blanks(text: bytes) -> bytes:
    return text.replace(b"\n", b" ")


@pytest.mark.parametrize("seed", range(6))
def test_texts_and_parts_are_found_as_a_plain_search_finds_them(tokenizer, seed):
    chance = random.Random(seed)
    spelling = Spelling(tokenizer)
    texts = [random_text(chance, 60) for _ in range(60)]
    documents = tokenizer.encode_batch(texts)
    lists = []
    for document in documents:
        for _ in range(4):
            begin = chance.randrange(len(document))
            lists.append(document[begin : begin + chance.randint(1, 12)].tolist())
    spelled = spelling(*starts_of(lists))
    assert [spelled[row] for row in range(len(lists))] == [
        b"".join(spelling.each_token()[token] for token in each) for each in lists
    ]
    assert any(len(spelled[row].decode(errors="ignore").encode()) < len(spelled[row]) for row in range(len(lists)))
    given = [text for text in (random_text(chance, 8).strip() for _ in range(20)) if text]
    given += [text[5:40].strip() or "b" for text in texts[:15]]
    forms = [{form.encode() for form in forms_of(text, tokenizer)} for text in given]
    finder = Finder(forms)
    found = set(zip(*(each.tolist() for each in finder.held(spelled)), strict=True))
    expected = {
        (row, number)
        for row in range(len(lists))
        for number, each in enumerate(forms)
        if any(blanks(form) in blanks(spelled[row]) for form in each)
    }
    assert found == expected
    assert 3 < len(found) < len(lists) * len(given) / 2
    padded = [b" " + blanks(form) + b" " for each in forms for form in each]
    parts = [
        row
        for row in range(len(lists))
        if blanks(spelled[row]).strip(b" ") and any(blanks(spelled[row]) in text for text in padded)
    ]
    assert finder.parts(spelled).tolist() == parts
    assert any(len(spelled[row]) > 8 for row in parts)


def test_long_segments_are_looked_at_in_pieces_without_a_gap(tokenizer, monkeypatch):
    monkeypatch.setattr("scone_cli.audit.documents._PIECE", 16)
    text = "ab" * 40 + "needle in a haystack" + "ba" * 40
    lists = [each.tolist() for each in tokenizer.encode_batch(["a b", text, "ab"])]
    finder = Finder([{b"needle in a haystack"}])
    found = [
        rows[row]
        for rows, spelled in spelled_pieces(Spelling(tokenizer), *starts_of(lists), finder.longest)
        for row in finder.held(spelled)[0].tolist()
    ]
    assert set(found) == {1}


WORD_PIECE = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": {"type": "Lowercase"},
    "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": None,
    "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": False},
    "model": {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": {word: i for i, word in enumerate(["[UNK]", "quibble", "##thorpe", "lives", "here", "[SEP]"])},
    },
}


def test_a_tokenizer_that_is_not_byte_level_and_changes_case():
    tokenizer = Tokenizer(json.dumps(WORD_PIECE).encode(), "tokenizer.json", lambda _: None)
    lists = [each.tolist() for each in tokenizer.encode_batch(["Quibblethorpe lives", "here", "LIVES here"])]
    spelled = Spelling(tokenizer)(*starts_of(lists))
    forms = forms_of("Quibblethorpe", tokenizer), forms_of("lives here", tokenizer)
    rows, numbers = Finder([{form.encode() for form in each} for each in forms]).held(spelled)
    assert list(zip(rows.tolist(), numbers.tolist(), strict=True)) == [(0, 0), (2, 1)]


def test_what_looks_personal_is_found_as_by_itself():
    chance, pieces = random.Random(3), ["4111 1111 1111 1111", "a.b@example.org", "+44 20 7946 0958", "(212) 555-0199"]
    pieces += ["-----BEGIN RSA PRIVATE KEY-----", "-----END RSA PRIVATE KEY-----", "A" * 20, "4111", " ", "x", "\u00e9"]
    texts = ["".join(chance.choices(pieces, k=chance.randint(1, 3))).encode() for _ in range(400)]
    texts += [text[1:] for text in texts if text.startswith("\u00e9".encode())]  # begin inside a character
    found = personal(Spelled.of(texts))
    expected = {row: kinds_in(text.decode()) for row, text in enumerate(texts[:400]) if kinds_in(text.decode())}
    assert {row: kinds for row, kinds in found.items() if row < 400} == expected
    assert {kind for kinds in expected.values() for kind in kinds} == {"card", "email", "phone", "phone-us", "key"}


def test_examples_are_found_as_they_are_shown_and_as_they_were(tokenizer):
    for text in ("caf\u00e9 a\nb", "back\\slash n\\n", "\u00a0nbsp\u00b7dot", "\x07bell"):
        ids = tokenizer.encode_batch([text])[0].tolist()
        assert as_shown(text) == Speller(tokenizer)(ids).replace("\u00b7", " ")
        assert text.encode() in not_shown(as_shown(text))
    assert b"\xf0\x9f\x99" in not_shown(r"\xf0\x9f\x99"), "a part of a character"


def test_what_is_only_in_given_documents_is_what_sets_say():
    random_ = np.random.default_rng(0)
    segments = [random_.integers(12, size=size).astype(np.uint32) for size in random_.integers(1, 30, size=40)]
    given, others = segments[:6], segments[6:]

    def ngrams(some: list[np.ndarray]) -> set[tuple[int, ...]]:
        return {tuple(s[i : i + n].tolist()) for s in some for n in range(2, 5) for i in range(len(s) - n + 1)}

    own = OwnNgrams([starts_of([s.tolist() for s in given[i : i + 2]]) for i in (0, 2, 4)], 4)
    for i in range(0, len(others), 5):
        own.note_elsewhere(*starts_of([s.tolist() for s in others[i : i + 5]]))
    every = sorted(ngrams(segments) | {(3, 99), (99, 3), (1,), (7, 7, 7, 7)})
    found = {every[row] for row in own.only(*starts_of(list(map(list, every)))).tolist()}
    assert found == ngrams(given) - ngrams(others)
    assert len(found) > 20
