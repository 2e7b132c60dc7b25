"""Texts in pieces: nothing lost, nothing twice, words as Python splits them, documents that were trained on."""

from collections import Counter

import numpy as np
import pytest
from builders import random_documents, stream_of, write_part
from messages import refusal

from scone_cli.artifacts.manifest import Manifest
from scone_cli.corpus import encode
from scone_cli.corpus.files import find_files
from scone_cli.corpus.tokenizer import Tokenizer, train_tokenizer
from scone_cli.errors import InputMissing
from scone_cli.evaluation import texts
from scone_cli.evaluation.texts import (
    document_digests,
    documents_trained_on,
    held_out_text,
    text_of_files,
    training_counts,
    wording_of,
)

DOCUMENTS = random_documents(0, 50, [30, 0, 7, 100, 1, 60])
SPLITS = ["held-out", "train", "held-out", "held-out", "train", "held-out"]


@pytest.fixture
def tokens(tmp_path):
    """Two parts of `tokens/`."""
    write_part(tmp_path, 0, DOCUMENTS[:4], SPLITS[:4], list("abcd"))
    write_part(tmp_path, 1, DOCUMENTS[4:], SPLITS[4:], list("ef"))
    return tmp_path


def manifest(held_out):
    return Manifest("tokens", 1, "count-ngrams", 1, "", {}, {}, "", {"held_out_tokens": held_out})


@pytest.mark.parametrize("piece_tokens", [1, 40, 10**6])
def test_held_out_documents_in_pieces(tokens, monkeypatch, piece_tokens):
    monkeypatch.setattr(texts, "PIECE_TOKENS", piece_tokens)
    text = held_out_text(tokens, manifest(197))
    pieces = list(text.pieces())
    assert (text.name, text.total, text.unit) == ("held-out", 197, "tokens")
    assert sum(size for _, size in pieces) == 197
    assert len(pieces) == (2 if piece_tokens < 100 else 1)
    found = [
        (name, stream.tokens[start:end].tolist(), size)
        for stream, _ in pieces
        for name, start, end, size in zip(
            stream.names, stream.starts[:-1], stream.starts[1:], stream.num_bytes.tolist(), strict=True
        )
    ]
    kept = [(name, each) for name, each, split in zip("abcdef", DOCUMENTS, SPLITS, strict=True) if split == "held-out"]
    assert found == [(name, each, 3 * len(each)) for name, each in kept]
    assert len(list(text.pieces())) == len(pieces)  # it can be read again


def test_nothing_is_held_out(tokens):
    with refusal(InputMissing, "held out"):
        held_out_text(tokens, manifest(0))


def test_files_in_pieces_tell_how_much_of_them_was_read(tmp_path, monkeypatch):
    lines = [f"line {number} of the text\n" * 20 for number in range(9)]
    for number, line in enumerate(lines):
        (tmp_path / f"{number}.txt").write_text(line)
    tokenizer = Tokenizer(train_tokenizer(iter(lines), 300), "here", print)
    monkeypatch.setattr(encode, "_BATCH_BYTES", 800)
    text = text_of_files("text", find_files([tmp_path]), tokenizer, "text")
    pieces = list(text.pieces())
    assert len(pieces) > 2
    assert (text.total, text.unit) == (sum(map(len, lines)), "B")
    assert sum(size for _, size in pieces) == text.total
    read = [
        tokenizer.decode(stream.tokens[start:end])
        for stream, _ in pieces
        for start, end in zip(stream.starts, stream.starts[1:], strict=False)
    ]
    assert sorted(read) == sorted(lines)


@pytest.mark.parametrize(
    ("text", "count"), [("", 0), (" \n\t ", 0), ("one", 1), ("  two\nwords ", 2), ("so-called, e.g.\u3000three", 3)]
)
def test_words_are_what_stands_between_white_space(text, count):
    tokenizer = Tokenizer(train_tokenizer(iter(["two words", text]), 300), "here", print)
    encoded = [part.tolist() for part in tokenizer.encode_batch([text, "and more"])]
    assert wording_of(stream_of(encoded), tokenizer)[:, 0].tolist() == [count, 2]
    assert wording_of(stream_of(encoded), None).tolist() == [[0, 0, 0]] * 2


def test_counts_of_the_training_split(tokens):
    expected = Counter(
        token for each, split in zip(DOCUMENTS, SPLITS, strict=True) for token in each if split == "train"
    )
    assert training_counts(tokens, 50).tolist() == [expected[token] for token in range(50)]


def test_documents_that_were_trained_on(tokens):
    stream = stream_of([DOCUMENTS[0], DOCUMENTS[4], DOCUMENTS[4], [*DOCUMENTS[5], 1]])
    other = stream_of([DOCUMENTS[1], DOCUMENTS[1], DOCUMENTS[4]])
    digests = [Counter(document_digests(each)) for each in (stream, stream_of([]), other)]
    assert documents_trained_on(digests, tokens) == [2, 0, 3]
    assert len(set(document_digests(stream_of([[1, 2], [1], [2, 1], []])))) == 4
    assert np.array_equal(stream.tokens[:30], DOCUMENTS[0])
