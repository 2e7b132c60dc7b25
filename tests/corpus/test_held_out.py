"""Something is held out of every corpus, by what is in it alone."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from scone_cli.artifacts.schemas import HELD_OUT, TRAIN
from scone_cli.corpus.files import find_files
from scone_cli.corpus.held_out import HeldOut, held_out_of_texts
from scone_cli.corpus.readers import read_documents
from scone_cli.corpus.shard_stats import ShardStats
from scone_cli.corpus.token_stream import split_of
from scone_cli.progress import silent

# None of them is drawn at 1%, and their lengths differ.
TEXTS = [text for n in range(12) if split_of(text := f"text {n} " * (n + 1), 0.01) == TRAIN]


def chosen(folder: Path, share: float = 0.01) -> dict[str, list[str]]:
    files = find_files([folder])
    held_out = held_out_of_texts(files, share, "text", None, None, silent)
    found: dict[str, list[str]] = {TRAIN: [], HELD_OUT: []}
    for file in files:
        for document in read_documents(file):
            for part, split in held_out.split(document):
                assert part.utf8 == part.text.encode()
                found[split].append(part.text)
    return {split: sorted(texts) for split, texts in found.items()}


def lines(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def test_the_document_nearest_to_the_share_in_any_order(tmp_path):
    assert len(TEXTS) > 5
    share = 0.01
    total = sum(map(len, TEXTS))
    nearest = min(TEXTS, key=lambda text: abs(len(text) - share * total))
    for seed in range(3):
        shuffled = random.Random(seed).sample(TEXTS, len(TEXTS))
        found = chosen(lines(tmp_path / "a.jsonl", shuffled), share)
        assert found == {HELD_OUT: [nearest], TRAIN: sorted(set(TEXTS) - {nearest})}


def test_where_the_share_draws_it_is_the_draw_alone(tmp_path):
    texts = [f"document {number}" for number in range(300)]
    found = chosen(lines(tmp_path / "a.jsonl", texts), 0.05)
    assert found[HELD_OUT] == sorted(text for text in texts if split_of(text, 0.05) == HELD_OUT)
    assert len(found[HELD_OUT]) + len(found[TRAIN]) == 300


def test_nothing_is_held_out_where_nothing_is_asked_for(tmp_path):
    assert chosen(lines(tmp_path / "a.jsonl", TEXTS), 0.0)[HELD_OUT] == []


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.999999])
@pytest.mark.parametrize("text", ["word " * 2000, "a line of text\n" * 500, "漢字" * 900, "x" * 3000])
def test_the_last_part_of_a_single_document(tmp_path, share, text):
    (tmp_path / "a.txt").write_text(text)
    found = chosen(tmp_path, share)
    (head,), (tail,) = found[TRAIN], found[HELD_OUT]
    assert head + tail == text
    assert len(tail.encode()) == pytest.approx(share * len(text.encode()), abs=16)


def test_of_copies_of_one_document_nothing_is_held_out(tmp_path):
    copies = ["one text and its end"] * 3
    assert chosen(lines(tmp_path / "a.jsonl", copies), 0.2) == {TRAIN: copies, HELD_OUT: []}
    warning = HeldOut(0.0).warning(0.2, ShardStats(3, 60, 15), can_split=True)
    assert "all 3 documents are equal" in (warning or "")


def test_copies_are_chosen_by_what_they_have_together(tmp_path):
    copied, other = TEXTS[0], TEXTS[1]  # a copy alone would be nearer to the share
    found = chosen(lines(tmp_path / "a.jsonl", [copied] * 500 + [other]))
    assert found == {TRAIN: [copied] * 500, HELD_OUT: [other]}


@pytest.mark.parametrize("text", ["", "x", "漢"])
def test_what_cannot_be_cut_is_trained_on(tmp_path, text):
    (tmp_path / "a.txt").write_text(text)
    assert chosen(tmp_path, 0.5) == {TRAIN: [text] if text else [], HELD_OUT: []}


def test_reading_ends_where_the_draw_decides(tmp_path):
    texts = [f"document {number}" for number in range(300)]
    with lines(tmp_path / "a.jsonl", texts).open("a") as file:
        file.write("not JSON\n")
    (file,) = find_files([tmp_path])
    assert held_out_of_texts([file], 0.2, "text", None, None, silent) == HeldOut(0.2)


def test_token_ids_are_cut_too():
    tokens = np.arange(10, dtype=np.uint32)
    held_out = HeldOut(0.2, 0, 8)
    assert [(name, len(ids)) for name, ids, _ in held_out.split_tokens("a", tokens)] == [
        ("a", 10)
    ]  # not the chosen one


@pytest.mark.parametrize(
    ("asked", "documents", "tokens", "named"),
    [
        (0.01, (4, 500), (90, 9000), ["4 of 500 documents", "1.0%", "--held-out 0.1", "--document-separator"]),
        (0.2, (4, 9), (2000, 9000), ["4 of 9", "--document-separator"]),
        (0.01, (20, 2000), (8, 9000), ["20 of 2,000"]),
        (0.01, (5, 2000), (9, 9000), None),
        (0.01, (500, 501), (8990, 9000), ["500 of 501", "99", "1.0% was asked for", "little is left to train on"]),
        (0.6, (7, 9), (8000, 9000), None),
        (0.0, (0, 9), (0, 9), None),
    ],
)
def test_next_to_nothing_held_out_is_told(asked, documents, tokens, named):
    made = ShardStats(documents[1], 0, tokens[1], documents[0], tokens[0])
    warning = HeldOut(asked).warning(asked, made, can_split=True)
    assert (warning is None) == (named is None)
    assert all(fact in (warning or "") for fact in named or [])
    assert "\n" not in (warning or "")


def test_that_the_only_document_was_cut_is_told():
    warning = HeldOut(0.01, 0, 8).warning(0.01, ShardStats(2, 0, 800, 1, 8), can_split=False)
    assert "cut in two and counts as 2 documents (1.0% of the tokens; 1.0% was asked for)" in (warning or "")
