import io
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from messages import refusal

from scone_cli.corpus import readers
from scone_cli.corpus.files import find_files
from scone_cli.corpus.readers import BadDocument, read_documents
from scone_cli.corpus.separators import Separator
from scone_cli.errors import BadSetting

WIKITEXT = (
    " \n = Robert Boulter = \n \n Robert <unk> is an actor . \n = = Career = = \n \n In 2000 , \n \n"
    " = Du Fu = \n \n Du Fu was \n"
)


def split(pattern: str, text: str, most: int = 1 << 20) -> list[tuple[int, str]]:
    return [(line, part.decode()) for line, part, _ in Separator(pattern).split(io.BytesIO(text.encode()), most)]


def read(path: Path, pattern: str) -> list[tuple[str, str]]:
    (file,) = find_files([path])
    return [(document.name, document.text) for document in read_documents(file, separator=Separator(pattern))]


def test_wikitext():
    assert split("^ = [^=]", WIKITEXT) == [
        (2, " = Robert Boulter = \n \n Robert <unk> is an actor . \n = = Career = = \n \n In 2000 , \n \n"),
        (9, " = Du Fu = \n \n Du Fu was \n"),
    ]


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("-----", "a\n-----\nb\n", [(1, "a\n"), (3, "b\n")]),
        ("-----", "a\r\n-----\r\nb\r\n", [(1, "a\r\n"), (3, "b\r\n")]),
        ("-----", "-----\n-----\na\n----- \n\n-----", [(3, "a\n")]),
        ("-----", "a -----\n------\n -----\n", [(1, "a -----\n------\n -----\n")]),
        ("<|endoftext|>", "a\n<|endoftext|>\nb", [(1, "a\n"), (3, "b")]),
        ("", "a\nb\n\n \t\nc\n", [(1, "a\nb\n"), (5, "c\n")]),
        ("a.c", "a.c\nabc\n", [(2, "abc\n")]),  # a line, no expression
        ("^a.c", "x\nabc\ny\n", [(1, "x\n"), (2, "abc\ny\n")]),
        ("^$", "a\r\n\r\nb\n", [(1, "a\r\n"), (2, "\r\nb\n")]),
        ("^\\^", "a\n^b\n", [(1, "a\n"), (2, "^b\n")]),
        ("^", "a\nb\nc", [(1, "a\n"), (2, "b\n"), (3, "c")]),
        ("^Ä", "\ufeffÄ\nb\nÄ", [(1, "\ufeffÄ\nb\n"), (3, "Ä")]),
        ("x", "", []),
    ],
)
def test_where_documents_begin(pattern, text, expected):
    assert split(pattern, text) == expected


@given(st.text("ab -\n"), st.sampled_from(["-", "", "^-", "^a", "^"]))
def test_nothing_but_separators_and_blanks_is_lost(text, pattern):
    separator = Separator(pattern)
    parts = [part.decode() for _, part, _ in separator.split(io.BytesIO(text.encode()), 1 << 20)]
    lines = text.splitlines(keepends=True)
    kept = [line for line in lines if pattern.startswith("^") or line.rstrip() != pattern]
    assert re.sub(r"\s", "", "".join(parts)) == re.sub(r"\s", "", "".join(kept))
    most = max(map(len, lines), default=1)  # so long is a text at least
    cut = [part.decode() for _, part, _ in Separator(pattern).split(io.BytesIO(text.encode()), most)]
    assert cut == [start for part in parts if (start := part[: most + 1]).strip()]


def test_text_that_is_not_utf8_is_one_bad_document(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a\n--\nb\xff\n--\nc\n")
    (file,) = find_files([tmp_path])
    bad: list[BadDocument] = []
    found = [document.name for document in read_documents(file, on_bad=bad.append, separator=Separator("--"))]
    assert (found, [error.name for error in bad]) == (["a.txt:1", "a.txt:5"], ["a.txt:3"])
    with refusal(BadDocument, "a.txt", "line 3", "UTF-8"):
        list(read_documents(file, separator=Separator("^b")))


@pytest.mark.parametrize("line", ["x" * 500, "x\n" * 250])
def test_a_document_beyond_the_largest_is_left_out_and_reading_goes_on(tmp_path, monkeypatch, line):
    monkeypatch.setattr(readers, "_LARGEST_DOCUMENT", 40)
    (tmp_path / "a.txt").write_text(f"a\n--\n{line}\n--\nb\n")
    (file,) = find_files([tmp_path])
    bad: list[BadDocument] = []
    found = [document.text for document in read_documents(file, on_bad=bad.append, separator=Separator("--"))]
    assert (found, [error.name for error in bad]) == (["a\n", "b\n"], ["a.txt:3"])


def test_records_of_json_lines_are_not_divided(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "a\n--\nb"}) + "\n")
    assert read(tmp_path, "--") == [("a.jsonl:1", "a\n--\nb")]


@pytest.mark.parametrize("pattern", ["^(", "a\nb", "^[", "a\r", r"^\d{99999999999}", "^" + "(" * 9999])
def test_a_pattern_that_cannot_be_used(pattern):
    with refusal(BadSetting, "--document-separator"):
        Separator(pattern)
