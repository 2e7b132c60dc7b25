"""Patterns and standard input; folders, files and links are in `test_readers.py`."""

import hashlib
import io
import json
import os
import sys
from pathlib import Path

import pytest
import zstandard
from messages import refusal

from scone_cli.corpus import files as sources
from scone_cli.corpus.files import STDIN_KEPT, find_files
from scone_cli.corpus.readers import read_documents
from scone_cli.errors import BadData, BadSetting, InputMissing


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    for name in ("law/0.jsonl", "law/deep/1.jsonl", "law/notes.txt", "code/0.jsonl", "code/.hidden.jsonl"):
        path = tmp_path / "corpus" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name}\n")
    return tmp_path / "corpus"


def names(*corpora: Path) -> list[str]:
    return sorted(file.name for file in find_files(corpora))


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("**/*.jsonl", ["code/0.jsonl", "law/0.jsonl", "law/deep/1.jsonl"]),
        ("*/0.jsonl", ["code/0.jsonl", "law/0.jsonl"]),
        ("law/[0-9].json?", ["0.jsonl"]),
        ("la*", ["law/0.jsonl", "law/deep/1.jsonl", "law/notes.txt"]),  # a folder that matches is read
    ],
)
def test_patterns(corpus, pattern, expected):
    assert names(corpus / pattern) == expected


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with refusal(InputMissing, str(tmp_path / "pipe")) as caught:
        find_files([tmp_path / "pipe"])
    assert caught.value.hint.endswith(": -")


def test_a_pattern_names_files_as_their_folder_does(corpus):
    assert [file.name for file in find_files([corpus / "**" / "*"])] == [file.name for file in find_files([corpus])]
    assert names(corpus / "law" / "*.txt", corpus / "code") == ["code/0.jsonl", "law/notes.txt"]


def test_a_pattern_from_where_one_is(corpus, monkeypatch):
    monkeypatch.chdir(corpus)
    assert names(Path("*/*.txt")) == ["law/notes.txt"]


def test_a_pattern_without_matches_is_named(corpus):
    with refusal(InputMissing, "corpus/*.nothing"):
        find_files([corpus / "*.nothing"])


def test_a_file_that_is_called_like_a_pattern_is_itself(tmp_path):
    (tmp_path / "a[1].txt").write_text("x")
    assert names(tmp_path / "a[1].txt") == ["a[1].txt"]


def test_a_pattern_through_a_link_in_a_loop(corpus):
    (corpus / "law" / "again").symlink_to(corpus / "law")
    with refusal(BadData, "loop"):
        find_files([corpus / "*" / "again" / "*.txt"])


def test_hashing_tells_how_far_it_is_within_a_file_too(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_HASHED_BYTES", 4)
    (tmp_path / "a.txt").write_bytes(b"ten bytes.")
    (tmp_path / "b.txt").write_bytes(b"six by")
    told = []
    files = find_files([tmp_path], lambda *now: told.append(now))
    assert {file.sha256 for file in files} == {hashlib.sha256(file.path.read_bytes()).hexdigest() for file in files}
    assert told == [("hashing files", done, 16, "B") for done in (0, 4, 8, 14, 16)]


# ---- standard input ----------------------------------------------------------------------------------------------

LINE = json.dumps({"text": "from a pipe"})


def piped(content: bytes, folder: Path, monkeypatch: pytest.MonkeyPatch, *corpora: str) -> list:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    return find_files([Path(corpus) for corpus in corpora or ("-",)], stdin_folder=folder)


@pytest.mark.parametrize(
    ("content", "name", "text"),
    [
        (f"{LINE}\n{LINE}\n".encode(), "stdin.jsonl", "from a pipe"),
        (b"\xef\xbb\xbf\n " + LINE.encode(), "stdin.jsonl", "from a pipe"),
        (json.dumps({"text": "long " * 50_000}).encode(), "stdin.jsonl", "long " * 50_000),
        (b"{not JSON}\nat all", "stdin.txt", "{not JSON}\nat all"),
        (b"[1]\n", "stdin.txt", "[1]\n"),
        (zstandard.compress(LINE.encode()), "stdin.jsonl.zst", "from a pipe"),
        (zstandard.compress(b"plain"), "stdin.txt.zst", "plain"),
    ],
)
def test_standard_input_is_what_its_beginning_says(tmp_path, monkeypatch, content, name, text):
    (file,) = piped(content, tmp_path, monkeypatch)
    assert (file.name, file.bytes) == (name, len(content))
    kept = (tmp_path / STDIN_KEPT).rename(tmp_path / name)
    (moved,) = find_files([kept])
    assert moved.sha256 == file.sha256
    assert next(read_documents(moved)).text == text


def test_standard_input_beside_files_once_and_not_empty(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("x")
    assert sorted(f.name for f in piped(b"y", tmp_path, monkeypatch, "-", tmp_path / "a.txt")) == ["a.txt", "stdin.txt"]
    with refusal(BadSetting, "-"):
        piped(b"y", tmp_path, monkeypatch, "-", "-")
    with refusal(InputMissing, "standard input"):
        piped(b"", tmp_path, monkeypatch)
    with refusal(BadSetting, "standard input", "count-ngrams"):
        find_files([Path("-")])


@pytest.mark.parametrize("pattern", ["", "*", "p*", "**/*"])
def test_a_pipe_in_a_folder_is_left_out_and_told(tmp_path, capsys, pattern):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "page.txt").write_text("x")
    assert [file.name for file in find_files([tmp_path / pattern])] == ["page.txt"]
    assert len([line for line in capsys.readouterr().err.splitlines() if "pipe" in line]) == 1


# ---- reached twice, deep, and with awkward names -----------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        ("corpus", "corpus/law/notes.txt"),
        ("corpus/law/notes.txt", "corpus"),
        ("corpus", "corpus"),
        ("corpus", "corpus/../corpus"),
        ("corpus/*", "corpus/**/*.txt"),
        ("corpus", "linked"),
        ("corpus", "link.txt"),
        ("corpus", "hard.txt"),
    ],
)
def test_a_file_reached_twice_is_counted_once_and_that_is_said(corpus, monkeypatch, capsys, given):
    monkeypatch.chdir(corpus.parent)
    Path("linked").symlink_to("corpus/law")
    Path("link.txt").symlink_to("corpus/law/notes.txt")
    Path("hard.txt").hardlink_to("corpus/law/notes.txt")
    found = find_files([Path(path) for path in given])
    assert len({file.sha256 for file in found}) == len(found) == 4
    assert "notes.txt" in capsys.readouterr().err or given[0] == given[1] or ".." in given[1]
    assert [file.name for file in find_files([Path(path) for path in given[::-1]])] == [file.name for file in found]


def test_reaching_twice_is_said_in_one_line(corpus, capsys):
    find_files([corpus])
    find_files([corpus / "**" / "*"])  # a folder that matches, and its files that do
    assert capsys.readouterr().err == ""
    find_files([corpus, corpus])
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_folders_of_any_depth(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = Path.cwd()
    try:
        for _ in range(1100):
            Path("d").mkdir()
            os.chdir("d")
        Path("a.txt").write_text("deep")
        os.chdir(here)
        for corpus in (Path(), Path("**/a.*")):
            (file,) = find_files([corpus])
            assert [document.text for document in read_documents(file)] == ["deep"]
    finally:  # what removes `tmp_path` calls itself for every folder
        os.chdir(here)
        for _ in range(1100):
            os.chdir("d")
        Path("a.txt").unlink(missing_ok=True)
        for _ in range(1100):
            os.chdir("..")
            Path("d").rmdir()


@pytest.mark.parametrize(
    "name", ["a:b.txt", "a\nb.txt", "esc\x1b[31m.txt", "a\u202eb.txt", "C:\\a.txt", " .txt", "-.txt"]
)
def test_awkward_names_are_read_and_shown_escaped(tmp_path, name):
    (tmp_path / name).write_text("text")
    for corpus in (tmp_path, tmp_path / name, tmp_path / "*"):
        (file,) = find_files([corpus])
        assert [document.text for document in read_documents(file)] == ["text"]
        assert file.name.isprintable()


def test_names_that_are_no_utf8_are_told_apart(tmp_path):
    try:
        for byte in (b"\xe8", b"\xe9"):
            (tmp_path / os.fsdecode(b"caf" + byte)).write_bytes(byte)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert names(tmp_path) == [r"caf\xe8", r"caf\xe9"]


def test_a_pattern_that_matches_a_link_to_nothing(corpus):
    (corpus / "law" / "gone.txt").symlink_to("nowhere")
    with refusal(InputMissing, "gone.txt", "nowhere"):
        find_files([corpus / "*" / "*.txt"])
