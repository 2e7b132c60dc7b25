"""`scone inspect vocab/ --terms`: which terms are f-grams, and how often they were counted, against the text itself."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise

import pytest
from messages import error_of
from workspaces import copy_of

from scone_cli.artifacts.manifest import read_manifest
from scone_cli.artifacts.schemas import TRAIN
from scone_cli.console.figures import occurrences
from scone_cli.corpus.token_stream import read_tokens
from scone_cli.corpus.tokenizer import Tokenizer
from scone_cli.vocab.terms import match_terms, spellings_of

MATCHES = {"whole", "in part", "not at all", "one token"}


@pytest.fixture(scope="module")
def vocab(small):
    return small / "work" / "vocab"


@pytest.fixture(scope="module")
def words(small):
    """The words of the corpus, the most frequent first."""
    text = " ".join(path.read_text() for path in (small / "corpus").glob("*.txt")).split()
    return sorted(set(text), key=lambda word: (-text.count(word), word))


def test_terms_of_every_length(vocab, words):
    terms = [*words[:150], "zqzq", " ".join(words[:3] * 4)]
    found = match_terms(vocab, read_manifest(vocab), terms)
    rows = found["terms"]
    assert [row["term"] for row in rows[:150]] == words[:150]
    assert {row["match"] for row in rows} == MATCHES
    assert sum(found["matches"].values()) == len(rows)
    by_match = {match: next(row for row in rows if row["match"] == match) for match in MATCHES}
    assert by_match["one token"]["tokens"] == 1
    assert by_match["whole"]["spelling"].count("|") == by_match["whole"]["tokens"] - 1 >= 1
    assert rows[-2]["count"] == 0  # less often than was counted
    assert rows[-1]["at_most"]  # longer than any n-gram
    assert found["left_out"] == []


def test_counts_are_those_of_the_tokens_in_the_training_text(small, vocab, words):
    """Both spellings together, wherever they lie; a word may begin with them."""
    work = small / "work"
    tokenizer = Tokenizer.load(work / "tokens" / "tokenizer.json")
    stream = read_tokens(work / "tokens", TRAIN)
    documents = [stream.tokens[start:end].tolist() for start, end in pairwise(stream.starts)]
    rows = match_terms(vocab, read_manifest(vocab), words[:12])
    least = rows["least_count"]
    for word, row in zip(words[:12], rows["terms"], strict=True):
        for spelling, tokens in zip(row["spellings"], spellings_of(word, tokenizer).values(), strict=True):
            wanted, n = tokens.tolist(), tokens.size
            count = sum(document[i : i + n] == wanted for document in documents for i in range(len(document) - n + 1))
            if not spelling["at_most"]:
                assert spelling["count"] == (count if count >= least or n == 1 else 0)
            else:
                assert spelling["count"] >= count or spelling["count"] == 0


@pytest.mark.parametrize(
    ("count", "exact", "shown"), [(26, 26, "26"), (31, 26, "26 to 31"), (31, 0, "at most 31"), (0, 0, "less than 5")]
)
def test_what_is_known_of_occurrences(count, exact, shown):
    row = {"count": count, "exact": exact, "at_most": exact < count, "tokens": 4}
    assert occurrences(row, {"least_count": 5}) == shown


def test_a_part_that_was_not_counted_leaves_no_doubt(vocab, words):
    (row,) = match_terms(vocab, read_manifest(vocab), ["zqzq " * 12 + words[0]])["terms"]
    assert (row["count"], row["exact"], row["at_most"]) == (0, 0, False)


def test_a_terminal_and_json(scone, vocab, words, tmp_path):
    path = tmp_path / "terms.txt"
    path.write_text("\ufeff" + "\r\n".join([words[0], "# no term", "", "zqzq", "裁判所"]))
    code, out, err = scone("inspect", vocab, "--terms", path)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("3 terms: ")
    assert {words[0], "zqzq", "裁判所"} <= {line.split()[0] for line in lines if line}
    found = json.loads(scone("inspect", vocab, "--terms", path, "--json")[1])
    assert [row["term"] for row in found["terms"]] == [words[0], "zqzq", "裁判所"]


def test_without_counts_everything_else_is_told(small, tmp_path, words):
    work = copy_of(small / "work", tmp_path / "work")
    shutil.rmtree(work / "counts")
    found = match_terms(work / "vocab", read_manifest(work / "vocab"), words[:3])
    assert {row["count"] for row in found["terms"]} == {None}
    assert "occurrences" in found["left_out"][0]


def test_what_cannot_be_asked_is_refused(scone, small, vocab, tmp_path):
    path = tmp_path / "terms.txt"
    path.write_text("a\n")
    code, _, err = scone("inspect", small / "work" / "counts", "--terms", path)
    assert code == 2
    error_of(err, "--terms", "counts", "vocab")
    code, _, err = scone("inspect", vocab, "--terms", tmp_path / "gone")
    assert code == 66
    error_of(err, "--terms", "gone")
    for options in (("--text", "a"), ("--html", tmp_path / "page.html")):
        code, _, err = scone("inspect", vocab, "--terms", path, *options)
        assert code == 2
        error_of(err, "--terms", options[0], "cannot be given together")
