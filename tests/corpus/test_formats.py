"""What a file is, by its content: the same under every name, in every compression, and from standard input."""

import bz2
import gzip
import io
import json
import lzma
import struct
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.orc
import pyarrow.parquet as pq
import pytest
import zstandard
from messages import refusal

from scone_cli.corpus import formats
from scone_cli.corpus.files import find_files
from scone_cli.corpus.formats import LINES, TEXT, format_of
from scone_cli.corpus.readers import BadDocument, read_documents
from scone_cli.errors import BadData

COMPRESS = {"gz": gzip.compress, "zst": zstandard.compress, "bz2": bz2.compress, "xz": lzma.compress}
RECORDS = "".join(json.dumps({"id": number, "text": f"document {number}"}) + "\n" for number in range(5)).encode()
TABLE = pa.table({"text": ["one", "two"]})


def archive(kind: str = "w", form: int = tarfile.PAX_FORMAT) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode=kind, format=form) as tar:
        info = tarfile.TarInfo("corpus/a.txt")
        info.size = 5
        tar.addfile(info, io.BytesIO(b"hello"))
    return sink.getvalue()


def zipped() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as zip_file:
        zip_file.writestr("a.txt", "hello")
    return sink.getvalue()


def written(write) -> bytes:
    sink = io.BytesIO()
    write(sink)
    return sink.getvalue()


def texts(path: Path) -> list[str]:
    return [document.text for file in find_files([path]) for document in read_documents(file)]


# ---- what is read ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["", *COMPRESS])
@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.json", "a.txt", "a", "a.jsonl.gz", "a.json.zstd", "c4.00000-of-01024.json.xz"]
)
def test_json_lines_under_any_name(tmp_path, compression, name):
    path = tmp_path / name
    path.write_bytes(COMPRESS.get(compression, bytes)(RECORDS))
    assert texts(path) == [f"document {number}" for number in range(5)]


@pytest.mark.parametrize("name", ["a.parquet", "a.parq", "a", "a.txt"])
def test_parquet_under_any_name(tmp_path, name):
    pq.write_table(TABLE, tmp_path / name)
    assert texts(tmp_path / name) == ["one", "two"]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b'{"text": "a"}', LINES),
        (b'\n  {  "id" : 1, "text": "a" }\r\n{"text": "b"}', LINES),
        (b'\xef\xbb\xbf{"text": "a"}\n', LINES),
        (b'{ "meta": "' + b"x" * 70_000, LINES),  # the beginning of a long line
        (b'{"text": "broken\n{"text": "fine"}\n', LINES),  # its first line is a bad one
        (b'{"text": "broken', LINES),
        (b"{}\n", LINES),
        (b'\x1e{"text": "a"}\n', LINES),  # as RFC 7464 has it: reading says what is wrong
        (b'{"a": 1,\n "b": 2}\n', "a JSON document of several lines"),
        (b'{\n  "text": "a"\n}\n{\n  "text": "b"\n}\n', "a JSON document of several lines"),
        (b'[\n {"text": "a"},\n {"text": "b"}\n]', "a JSON array"),
        (b'[{"text": "a"}]', "a JSON array"),
        (b'["one", "two"]\n', "a JSON array"),
        (b'["' + b"x" * 70_000, "a JSON array"),
        (b"[1]\n", TEXT),  # a reference
        (b'["Foo"](http://foo) is a link', TEXT),
        (b"[[Category:Foo]]", TEXT),
        (b"{not JSON}\nat all", TEXT),
        (b"{\n  int a;\n}", TEXT),
        (b"{'a': 1}", TEXT),
        (b"", TEXT),
        (b"nul \0 in\0side", TEXT),
        (b"PAR1 is a gene, ORC a format", TEXT),
        (b"ORC\n", TEXT),
        (b"BZh9 is what bzip2 writes", TEXT),
        (b"x\x01", TEXT),
    ],
)
def test_what_a_beginning_tells(content, kind):
    for location in ("a.txt", "a", "a.md", "standard input"):
        assert format_of(content, location) == (kind, "")


@pytest.mark.parametrize("content", [b"hello", b"[1, 2]", b'"text"', b"// {}", b"{a: 1}"])
def test_what_is_called_json_is_never_plain_text(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with refusal(BadDocument, "a.json", "JSON"):
        texts(tmp_path / "a.json")
    (tmp_path / "a.json").write_bytes(b" \n")
    assert texts(tmp_path / "a.json") == []


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b'[{"text": "a"}]', "JSON array"),
        (b'{\n "text": "a"}', "JSON document"),
        ("Grüße".encode("utf-16"), "UTF-16"),
        ("Grüße".encode("utf-32"), "UTF-32"),
        ("Latin text without a mark".encode("utf-16-le"), "UTF-16"),
        ("Latin text without a mark".encode("utf-16-be"), "UTF-16"),
        (b"%PDF-1.7 text", "PDF"),
        (b"{\\rtf1 text}", "RTF"),
    ],
)
@pytest.mark.parametrize("compression", ["", "gz"])
def test_a_document_in_another_form_is_a_bad_one(tmp_path, content, named, compression):
    path = tmp_path / "a.txt"
    path.write_bytes(COMPRESS.get(compression, bytes)(content))
    with refusal(BadDocument, str(path), named, hint=("--on-bad-document skip",)):
        texts(path)


# ---- what is refused ---------------------------------------------------------------------------------------------


REFUSED = {
    "tar archive": archive(),
    "zip archive": zipped(),
    "7z archive": b"7z\xbc\xaf\x27\x1c\0\x04",
    "rar archive": b"Rar!\x1a\x07\x01\0",
    "ar archive": b"!<arch>\ndebian-binary",
    "WARC": b"WARC/1.0\r\nWARC-Type: response\r\n",
    "lz4": b"\x04\x22\x4d\x18\x64\x40\xa7",
    "snappy": b"\xff\x06\0\0sNaPpY",
    "lzma": lzma.compress(RECORDS, lzma.FORMAT_ALONE),
    "lzip": b"LZIP\x01\x0c",
    "zlib": zlib.compress(RECORDS),
    "ORC": written(lambda sink: pa.orc.write_table(TABLE, sink)),
    "Avro": b"Obj\x01\x04\x16avro.schema",
    "SQLite": b"SQLite format 3\0",
    "HDF5": b"\x89HDF\r\n\x1a\n\0",
    "pickle": b"\x80\x04\x95\x0f\0\0\0\0\0\0\0]\x94(\x8c\x03one\x94e.",
    "twice": gzip.compress(RECORDS),
}


@pytest.mark.parametrize(
    ("what", "compression"),
    [(what, each) for what in REFUSED for each in ("", *COMPRESS) if (what, each) != ("twice", "")],  # once is read
)
def test_what_is_not_read_is_named_and_refused(tmp_path, what, compression):
    path = tmp_path / "a.jsonl"
    path.write_bytes(COMPRESS.get(compression, bytes)(REFUSED[what]))
    with refusal(BadData, str(path), *what.split(), hint=()) as caught:
        find_files([path])
    assert not isinstance(caught.value, BadDocument)  # it may hold many: it is not skipped as one
    assert caught.value.hint


def test_what_has_no_mark_is_named_by_its_ending(tmp_path):
    (tmp_path / "a.txt.br").write_bytes(b"\x8b\x02\x80hello\x03")
    with refusal(BadData, "a.txt.br", ".br"):
        find_files([tmp_path])
    (tmp_path / "a.txt.br").write_text("plain after all")
    assert texts(tmp_path) == ["plain after all"]


def test_an_old_tar_without_a_mark(tmp_path):
    header = bytearray(archive(form=tarfile.USTAR_FORMAT))
    header[257:265] = bytes(8)
    total = sum(header[:148]) + 8 * 32 + sum(header[156:512])
    header[148:156] = f"{total:06o}\0 ".encode()
    (tmp_path / "a.txt").write_bytes(header)
    with refusal(BadData, "a.txt", "tar"):
        find_files([tmp_path])


def test_token_files_are_told_by_their_names(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"PK\x03\x04" * 4)  # ids may be any numbers
    assert find_files([tmp_path])[0].kind == formats.TOKENS


def test_standard_input_is_refused_before_all_of_it_is_read(tmp_path, monkeypatch):
    stream = io.BytesIO(archive() + bytes(8 << 20))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stream))
    with refusal(BadData, "standard input", "tar"):
        find_files([Path("-")], stdin_folder=tmp_path)
    assert stream.tell() < 8 << 20
    assert not list(tmp_path.iterdir())


# ---- frames and what lies between them ---------------------------------------------------------------------------

SKIPPABLE = b"\x5a\x2a\x4d\x18" + struct.pack("<I", 5) + b"notes"


@pytest.mark.parametrize("place", ["first", "between", "last", "twice"])
def test_skippable_frames_anywhere(tmp_path, place):
    one, two = (zstandard.compress(json.dumps({"text": text}).encode() + b"\n") for text in ("a", "b"))
    content = {
        "first": SKIPPABLE + one + two,
        "between": one + SKIPPABLE + two,
        "last": one + two + SKIPPABLE,
        "twice": SKIPPABLE * 2 + one + two,
    }[place]
    (tmp_path / "a").write_bytes(content)
    assert texts(tmp_path) == ["a", "b"]


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz"])
@pytest.mark.parametrize("size", [1, 512, 1 << 17])
def test_padding_after_members_is_harmless(tmp_path, compression, size):
    one, two = (COMPRESS[compression](json.dumps({"text": text}).encode() + b"\n") for text in ("a", "b"))
    (tmp_path / "a").write_bytes(one + bytes(size) + two + bytes(size))
    assert texts(tmp_path) == ["a", "b"]


@pytest.mark.parametrize("compression", COMPRESS)
def test_what_follows_the_last_member_is_damage(tmp_path, compression):
    (tmp_path / "a").write_bytes(COMPRESS[compression](b"text") + b"garbage" * 9)
    with refusal(BadData, "damaged"):
        texts(tmp_path)


def test_a_beginning_that_expands_a_lot_is_looked_at_in_little_memory(tmp_path):
    (tmp_path / "a").write_bytes(bz2.compress(bytes(40 << 20)))
    assert find_files([tmp_path])[0].kind == TEXT
