"""Corpora as people have them, in whole commands: the same file counted, piped and evaluated."""

import json
import shutil
from pathlib import Path

import pytest
from messages import error_of, names
from workspaces import COUNT, copy_of, manifest, write_manifest

WORDS = "the sea and the ships that sail on it , far from the land"
WIKITEXT = "".join(f" \n = Ship {n} = \n \n {WORDS * 5} {n} \n = = Crew = = \n \n {WORDS * 9} \n" for n in range(40))
ARTICLES = "^ = [^=]"


@pytest.fixture
def wikitext(tmp_path: Path) -> Path:
    path = tmp_path / "wiki.test.raw"
    path.write_text(WIKITEXT)
    return path


def counted(scone, tmp_path: Path, *args: object) -> tuple[dict, str]:
    code, out, err = scone("--quiet", "--workspace", tmp_path / "work", "count-ngrams", *args, *COUNT, "--json")
    assert code == 0, err
    return json.loads(out), err


def test_one_file_of_many_documents_is_counted(scone, tmp_path, wikitext):
    found, err = counted(scone, tmp_path, wikitext, "--document-separator", ARTICLES)
    assert found["documents"] == 40
    assert err == ""
    found, err = counted(scone, tmp_path, wikitext)
    assert (found["documents"], found["held_out_documents"]) == (2, 1)
    assert names(err, "held out", "only document", "--document-separator")


def test_one_file_of_many_documents_is_evaluated(scone, small, tmp_path, wikitext):
    work = shutil.copytree(small / "work", tmp_path / "work")
    args = ("--quiet", "--workspace", work, "eval", wikitext, "--no-speed", "--json")
    code, out, err = scone(*args, "--document-separator", ARTICLES)
    assert code == 0, err
    results = json.loads(out)
    assert results["method"]["corpora"][0]["documents"] == 40
    assert all(row["stderr"] is not None for row in results["results"] if row["metric"] == "nats_per_token")


def test_a_corpus_is_evaluated_as_it_was_counted_unless_it_is_told_otherwise(scone, small, tmp_path, wikitext):
    work = copy_of(small / "work", tmp_path / "work")
    described = manifest(work / "tokens")
    described["settings"]["document_separator"] = ARTICLES
    write_manifest(work / "tokens", described)
    for given, documents in (((), 40), (("--document-separator", "-----"), 1)):
        code, out, err = scone("--quiet", "--workspace", work, "eval", wikitext, *given, "--no-speed", "--json")
        assert code == 0, err
        assert json.loads(out)["method"]["corpora"][0]["documents"] == documents


def test_the_text_of_a_corpus_is_in_the_field_that_training_read_unless_another_is_named(scone, small, tmp_path):
    work = copy_of(small / "work", tmp_path / "work")
    described = manifest(work / "tokens")
    described["settings"]["text_field"] = "body"
    write_manifest(work / "tokens", described)
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"body": WORDS, "text": WORDS * 2}) + "\n" for _ in range(3)))
    args = ("--quiet", "--workspace", work, "eval", corpus, "--no-speed", "--json")
    read = {}
    for given in ((), ("--text-field", "text")):
        code, out, err = scone(*args, *given)
        assert code == 0, err
        read[given] = json.loads(out)["method"]["corpora"][0]["bytes"]
    assert read["--text-field", "text"] == 2 * read[()]


def test_a_separator_that_is_none_stops_both_commands(scone, tmp_path, wikitext):
    for command in ("count-ngrams", "eval"):
        args = ("--quiet", "--workspace", tmp_path / "work", command, wikitext, "--document-separator", "^(")
        code, _, err = scone(*args)
        assert code == 2
        error_of(err, "--document-separator", "^(")


@pytest.mark.parametrize("command", ["count-ngrams", "eval"])
def test_names_in_messages_are_escaped(scone, small, tmp_path, command):
    path = tmp_path / "two\nlines\x1b[31m.txt"
    path.write_bytes(b"\xff")
    code, _, err = scone("--quiet", "--workspace", shutil.copytree(small / "work", tmp_path / "work"), command, path)
    assert code == 65
    error_of(err, r"two\nlines\x1b[31m.txt")
