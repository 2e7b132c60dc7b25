"""`scone lookup` and `scone generate`: what a person and a script see, and every way in which they cannot be asked."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from builders import make_table, random_documents, slow_ranking, trie_of
from messages import error_of, is_named
from workspaces import manifest, write_manifest

from scone_cli.console import table_commands
from scone_cli.corpus.tokenizer import Tokenizer
from scone_cli.progress import silent
from scone_cli.serving import lookup
from scone_cli.serving.lookup import nearest_rows
from scone_cli.table.table import Table
from scone_cli.vocab.vocabulary import Vocabulary

FGRAMS = slow_ranking(random_documents(0, 8, [300]), 4, 60, 1)


@pytest.fixture
def work(small):
    return small / "work"


@pytest.fixture
def text(small):
    return (small / "corpus" / "0.txt").read_text()[:60]


def given_on_stdin(monkeypatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))


# ---- lookup ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_bytes", [1, 7 * 4 * 16, 1 << 20])
@pytest.mark.parametrize("count", [0, 1, 5, 59, 100])
def test_the_nearest_rows_are_those_of_a_comparison_of_all(tmp_path, monkeypatch, chunk_bytes, count):
    monkeypatch.setattr(lookup, "CHUNK_BYTES", chunk_bytes)
    rows = torch.randn(60, 16, generator=torch.Generator().manual_seed(0))
    table = Table.open(make_table(tmp_path, trie_of(FGRAMS, 8, 4), rows))
    asked = np.array([3, 17, 59], np.uint32)
    ids, cosines = nearest_rows(table, asked, count, silent)
    assert ids.shape == cosines.shape == (3, min(count, 59))
    for line, one in enumerate(asked.tolist()):
        all_of_them = torch.cosine_similarity(rows[one], rows, dim=1)
        expected = sorted((other for other in range(60) if other != one), key=lambda other: -all_of_them[other])[:count]
        assert ids[line].tolist() == expected
        torch.testing.assert_close(cosines[line], all_of_them[expected])


def test_lookup_says_of_every_token_what_the_table_has(scone, work, text):
    code, out, err = scone("--workspace", work, "lookup", text, "--nearest", 2, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    tokenizer = Tokenizer.load(work / "tokens" / "tokenizer.json")
    tokens = tokenizer.encode_batch([text])[0]
    settings = json.loads((work / "vocab" / "manifest.json").read_text())["settings"]
    vocabulary = Vocabulary.read(work / "vocab", settings["num_tokens"], settings["max_n"])
    ids, lengths = vocabulary.trie.index().match(tokens)
    table, seen = Table.open(work / "table"), 0
    assert (found["text"], found["rows"], found["matched"]) == (text, 600, int((lengths > 0).sum()))
    for position, entry in enumerate(found["tokens"]):
        assert (entry["position"], entry["token"], entry["n"]) == (position, tokens[position], lengths[position])
        if not entry["n"]:
            assert (entry["id"], entry["fgram"], entry["norm"], entry["nearest"]) == (None, None, None, [])
            continue
        seen += 1
        spelled = tokenizer.decode(tokens[position + 1 - entry["n"] : position + 1])
        assert entry["fgram"].replace("·", " ") == spelled
        assert (entry["id"], entry["count"]) == (ids[position], vocabulary.counts[ids[position]])
        row = table.rows(ids[position : position + 1]).float()[0]
        assert entry["norm"] == pytest.approx(row.norm().item(), abs=1e-3)
        assert len(entry["nearest"]) == 2
        for near in entry["nearest"]:
            other = table.rows(np.array([near["id"]], np.uint32)).float()[0]
            assert near["cosine"] == pytest.approx(torch.cosine_similarity(row, other, dim=0).item(), abs=1e-3)
    assert seen > 0


@pytest.mark.parametrize("columns", [None, 100, 60])
def test_lookup_for_people_keeps_to_the_width(scone, work, text, monkeypatch, columns):
    if columns:
        monkeypatch.setattr("scone_cli.console.results.is_terminal", lambda _: True)
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("NO_COLOR", "1")
    code, out, err = scone("--workspace", work, "lookup", text)
    assert (code, err) == (0, "")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out)
    assert "\x1b" not in plain
    assert re.search(r" \d+ of \d+\n", plain)  # tokens that end an f-gram
    assert re.search(r"1\.000 \S+\n +1\.000 \S+\n", plain)
    assert not columns or max(map(len, plain.splitlines()[1:])) <= columns


# ---- generate ----------------------------------------------------------------------------------------------------


def test_greedy_text_is_the_same_live_and_from_a_float32_table(scone, work, text, tmp_path):
    (tmp_path / "work").mkdir()
    for name in ("tokens", "vocab", "model"):
        (tmp_path / "work" / name).symlink_to(work / name)
    assert scone("--workspace", tmp_path / "work", "precompute", "--dtype", "float32")[0] == 0
    greedy = ("--prompt", text[:20], "--temperature", 0, "--max-tokens", 12, "--json")
    table, live, own = (
        json.loads(scone("--workspace", tmp_path / "work", "generate", *greedy, *more)[1])
        for more in ((), ("--live",), ("--table", work / "table"))
    )
    assert table["tokens"] == live["tokens"]
    assert table["text"] == live["text"] == Tokenizer.load(work / "tokens" / "tokenizer.json").decode(table["tokens"])
    assert (table["prompt"], len(own["tokens"])) == (text[:20], 12)


def test_text_streams_to_stdout_and_what_ended_it_to_stderr(scone, work, text):
    for args, reason in ((("--max-tokens", 3), "--max-tokens"), ((), "context")):
        code, out, err = scone("--workspace", work, "generate", "--prompt", text[:20], "--seed", 5, *args)
        assert (code, out[-1]) == (0, "\n")
        assert is_named(err, reason) or is_named(err, "document")
    as_json = json.loads(scone("--workspace", work, "generate", "--prompt", text[:20], "--seed", 5, "--json")[1])
    assert as_json["text"] + "\n" == out
    assert as_json["prompt_tokens"] + len(as_json["tokens"]) == 32  # the end of a document is read first
    quiet = scone("--quiet", "--workspace", work, "generate", "--prompt", text[:20], "--seed", 5)
    assert quiet == (0, out, "")


def test_a_plain_model_writes_too(scone, work, text):
    args = (
        "--workspace",
        work,
        "generate",
        "--prompt",
        text[:20],
        "--model",
        work / "plain",
        "--temperature",
        0,
        "--json",
    )
    code, out, _ = scone(*args)
    assert (code, json.loads(out)["prompt"]) == (0, text[:20])


def test_standard_input_is_a_prompt_without_its_last_newline(scone, work, monkeypatch):
    given_on_stdin(monkeypatch, b"a b\n\n")
    code, out, _ = scone("--workspace", work, "generate", "--prompt", "-", "--max-tokens", 2, "--json")
    assert (code, json.loads(out)["prompt"]) == (0, "a b\n")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_line_and_the_command(scone, work, monkeypatch, text, signum):
    """What was written so far stays; there is nothing to continue, and nothing that says so."""

    def two_tokens(*_):
        yield from (70, 71)
        os.kill(os.getpid(), signum)
        yield 72

    monkeypatch.setattr(table_commands, "generate", two_tokens)
    code, out, err = scone("--workspace", work, "generate", "--prompt", text)
    tokenizer = Tokenizer.load(work / "tokens" / "tokenizer.json")
    assert (code, out, err) == (128 + signum, tokenizer.decode([70, 71]) + "\n", "")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", [("generate", "--prompt", "-"), ("lookup", "-")], ids=str)
def test_a_signal_before_anything_is_written_promises_nothing(scone, work, monkeypatch, command, signum):
    class Waiting:
        def read(self):
            os.kill(os.getpid(), signum)
            raise AssertionError("nobody was told")

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=Waiting()))
    code, out, err = scone("--workspace", work, *command)
    assert (code, out) == (128 + signum, "")
    error_of(err, signum.name)
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    assert not is_named(err, "kept")


def test_control_characters_are_spelled_on_a_terminal_alone(monkeypatch):
    piece = "a\x1b[2Jb\n\tc\x9b"
    assert table_commands._harmless(piece) == piece
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(isatty=lambda: True))
    assert table_commands._harmless(piece) == r"a\x1b[2Jb" + "\n\tc" + r"\x9b"


# ---- what cannot be ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "code", "facts"),
    [
        (("generate",), 2, ["--prompt"]),
        (("generate", "--prompt", ""), 2, ["--prompt", "empty"]),
        (("generate", "--prompt", "-"), 2, ["--prompt", "empty"]),
        (("generate", "--prompt", "x\udcff"), 65, ["--prompt", "UTF-8"]),
        (("generate", "--prompt", "x", "--max-tokens", 0), 2, ["--max-tokens", "0"]),
        (("generate", "--prompt", "x", "--top-p", 2), 2, ["--top-p", "2.0", "0", "1"]),
        (("generate", "--prompt", "x", "--live", "--table", "t"), 2, ["--live", "--table"]),
        (("generate", "--prompt", "x", "--model", "plain", "--live"), 2, ["plain", "table"]),
        (("generate", "--prompt", "x", "--model", "plain", "--table", "table"), 2, ["plain", "table"]),
        (("generate", "--prompt", "x", "--table", "nowhere"), 66, ["nowhere", "table"]),
        (("generate", "--prompt", "x", "--model", "nowhere"), 66, ["nowhere", "model"]),
        (("generate", "--prompt", "word " * 50), 2, ["31", "context"]),
        (("lookup", ""), 2, ["TEXT", "empty"]),
        (("lookup", "x", "--nearest", -1), 2, ["--nearest", "-1"]),
    ],
    ids=str,
)
def test_what_cannot_be_is_said_in_a_line(scone, work, monkeypatch, args, code, facts):
    given_on_stdin(monkeypatch, b"\n")
    monkeypatch.chdir(work)
    found, out, err = scone("--workspace", ".", *args)
    assert (found, out) == (code, "")
    error_of(err, *facts)


@pytest.mark.parametrize("args", [("generate", "--prompt", "x"), ("lookup", "x")])
def test_a_workspace_that_is_not_there_is_told(scone, args):
    code, out, err = scone("--workspace", "nowhere", *args)
    assert (code, out) == (66, "")
    error_of(err, "nowhere", hint=("scone",))


def test_what_does_not_belong_together_is_refused(scone, work, tmp_path):
    for name in ("tokens", "model", "table"):
        shutil.copytree(work / name, tmp_path / name)
    made = manifest(tmp_path / "table")
    write_manifest(tmp_path / "table", made | {"inputs": made["inputs"] | {"model": "m" * 64}})
    code, _, err = scone("--workspace", tmp_path, "generate", "--prompt", "x")
    assert code == 65
    error_of(err, str(tmp_path / "table"), "m" * 12, hint=(f"scone --workspace {tmp_path} precompute",))
    write_manifest(tmp_path / "tokens", manifest(tmp_path / "tokens") | {"tokenizer": "t" * 64})
    code, _, err = scone("--workspace", tmp_path, "generate", "--prompt", "x")
    assert code == 65
    error_of(err, "tokenizer", "t" * 12)
    (tmp_path / "tokens" / "tokenizer.json").write_text((work / "tokens" / "tokenizer.json").read_text() + " ")
    code, _, err = scone("--workspace", tmp_path, "lookup", "x")
    assert code == 65
    error_of(err, str(tmp_path / "table"), "tokenizer")


def test_token_ids_without_a_tokenizer_have_no_text(scone, work, tmp_path):
    for name in ("tokens", "model"):
        shutil.copytree(work / name, tmp_path / name)
    made = manifest(tmp_path / "tokens")
    del made["files"]["tokenizer.json"]
    write_manifest(tmp_path / "tokens", made)
    code, _, err = scone("--workspace", tmp_path, "generate", "--prompt", "x")
    assert code == 66
    error_of(err, str(tmp_path / "tokens"), "tokenizer")
