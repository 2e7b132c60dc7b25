"""The terms of a field: their file in every shape that people save, where they stand in a text, and in which tokens."""

from __future__ import annotations

import json

import numpy as np
import pytest
from messages import refusal
from tokenizers import Tokenizer as Reference
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from scone_cli.corpus.terms import LONGEST_TERM, TermFinder, TokenPlaces, read_terms
from scone_cli.corpus.tokenizer import Tokenizer, train_tokenizer
from scone_cli.errors import BadData, InputMissing

TEXT = "A neural network is no network of neurons: Neural networks, (neural\n  network) or 'neural network'.\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a\nb c\n", ["a", "b c"]),
        (b"a", ["a"]),
        (b"\xef\xbb\xbfa\r\n\r\n# not this\r\n  b \t c  \r\n", ["a", "b c"]),
        (b"a\rb\ra\r", ["a", "b"]),
        ("übermäßig\n裁判所\n".encode(), ["übermäßig", "裁判所"]),
        (b"C#\n", ["C#"]),
    ],
)
def test_a_file_of_terms(tmp_path, content, expected):
    path = tmp_path / "terms.txt"
    path.write_bytes(content)
    assert read_terms(path) == expected


@pytest.mark.parametrize(
    ("content", "error", "facts"),
    [
        (b"", InputMissing, ["no term"]),
        (b"\n# all of it\n \n", InputMissing, ["no term"]),
        ("übermäßig".encode("latin-1"), BadData, ["UTF-8", "byte 0"]),
        ("term".encode("utf-16"), BadData, ["UTF-8"]),
        (b"a\n" + b"b" * (LONGEST_TERM + 1), BadData, ["line 2", LONGEST_TERM]),
    ],
)
def test_what_is_no_file_of_terms_is_refused(tmp_path, content, error, facts):
    path = tmp_path / "terms.txt"
    path.write_bytes(content)
    with refusal(error, str(path), *facts, hint=("one term a line",)):
        read_terms(path)


@pytest.mark.parametrize("path", ["gone.txt", "."])
def test_a_file_that_is_not_there(tmp_path, path):
    with refusal(InputMissing, str(tmp_path / path)):
        read_terms(tmp_path / path)


def found(text, *terms):
    return sorted((terms[number], text[start:end]) for number, start, end in TermFinder(terms)(text))


def test_terms_stand_between_borders_of_words_as_they_are_written():
    assert found(TEXT, "neural network") == [
        ("neural network", each) for each in ("neural\n  network", *["neural network"] * 2)
    ]
    assert found(TEXT, "network") == [("network", "network")] * 4  # within other terms too, and not in networks
    assert found(TEXT, "Neural", "net", "rons") == [("Neural", "Neural")]
    assert found("C++, C+ and C", "C++", "C") == [("C", "C"), ("C", "C"), ("C", "C"), ("C++", "C++")]
    assert found("aa aa aa", "aa aa") == [("aa aa", "aa aa")]
    assert found("x_term term1 term", "term") == [("term", "term")]
    assert found("cafe\u0301 cafe", "cafe") == [("cafe", "cafe")]  # not before a mark that belongs to its last letter
    assert found("", "a") == []


def test_where_words_have_no_blanks_there_are_no_borders():
    assert found("最高裁判所は裁判所の一つ", "裁判所") == [("裁判所", "裁判所")] * 2
    assert found("Linuxカーネルを", "カーネル", "Linux") == [("Linux", "Linux"), ("カーネル", "カーネル")]


# ---- in tokens ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer():
    text = TEXT * 3 + "最高裁判所は裁判所の一つ" * 3 + " due process of law, due process"
    return Tokenizer(train_tokenizer(iter([text] * 3), 330), "here", print)


def slow_places(text, tokens, tokenizer, terms):
    """By the bytes of every token and of every occurrence, one by one."""
    spans, at = [], 0
    for length in tokenizer.byte_lengths()[tokens].tolist():
        spans.append((at, at + length))
        at += length
    places = []
    for number, start, end in TermFinder(terms)(text):
        first, last = len(text[:start].encode()), len(text[:end].encode())
        inside = [i for i, (a, b) in enumerate(spans) if a < last and b > first]
        places.append((number, inside[0], inside[-1] + 1))
    return places


@pytest.mark.parametrize("text", [TEXT, "due process", "最高裁判所は裁判所の一つ neural network é裁判所", "裁", ""])
def test_tokens_with_a_byte_inside_an_occurrence_are_inside(tokenizer, text):
    terms = ["neural network", "network", "due process", "裁判所", "裁", "判"]
    (tokens,) = tokenizer.encode_batch([text])
    expected = slow_places(text, tokens, tokenizer, terms)
    assert list(TokenPlaces(terms, tokenizer)(tokens)) == expected
    assert expected or not text


def test_a_blank_before_a_term_belongs_to_its_first_token(tokenizer):
    (alone, after) = tokenizer.encode_batch(["network", "a network"])
    place = TokenPlaces(["network"], tokenizer)
    assert list(place(alone)) == [(0, 0, alone.size)]
    assert list(place(after)) == [(0, 1, after.size)]


@pytest.mark.parametrize(
    ("normalizer", "written", "text"),
    [
        (normalizers.Lowercase(), "Neural Network", "the NEURAL network"),
        (normalizers.NFC(), "re\u0301seau", "le r\u00e9seau"),
    ],
)
def test_a_term_is_found_as_the_tokenizer_writes_it(normalizer, written, text):
    raw = json.loads(train_tokenizer(iter([text] * 3), 330)) | {"normalizer": json.loads(normalizer.__getstate__())}
    normalizing = Tokenizer(json.dumps(raw).encode(), "here", lambda _: None)
    (tokens,) = normalizing.encode_batch([text])
    ((number, first, last),) = TokenPlaces([written], normalizing)(tokens)
    assert (number, last) == (0, tokens.size)
    assert normalizing.decode(tokens[first:last]).strip() == normalizing.as_encoded(written)


def test_bytes_that_are_no_text_do_not_move_what_follows(tokenizer):
    (before, after) = tokenizer.encode_batch(["裁", " network"])
    tokens = np.concatenate([before[:1], after])  # a document that was cut within a character
    assert list(TokenPlaces(["network"], tokenizer)(tokens)) == [(0, 1, tokens.size)]


def other_tokenizer(normalizer=None):
    """One that is not byte-level: words of letters, in which a blank stands as a letter of its own."""
    reference = Reference(models.Unigram())
    reference.normalizer = normalizer
    reference.pre_tokenizer, reference.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    reference.train_from_iterator(
        [TEXT] * 5, trainers.UnigramTrainer(vocab_size=60, show_progress=False, unk_token="<unk>")
    )
    return Tokenizer(reference.to_str().encode(), "here", lambda _: None)


def test_a_tokenizer_that_is_not_byte_level():
    tokenizer = other_tokenizer()
    text = "a neural network"
    (tokens,) = tokenizer.encode_batch([text])
    ((_, first, last),) = TokenPlaces(["network"], tokenizer)(tokens)
    assert tokenizer.decode(tokens[first:last]).strip() == "network"
    assert last == tokens.size


def test_a_tokenizer_that_does_not_give_its_text_back_is_refused():
    tokenizer = other_tokenizer(normalizers.Replace("n", "m n"))
    (tokens,) = tokenizer.encode_batch(["a neural network"])
    with refusal(BadData, "--terms", "tokens"):
        list(TokenPlaces(["network"], tokenizer)(tokens))
