import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from messages import names, refusal

from scone_cli.corpus import files as sources
from scone_cli.corpus import readers
from scone_cli.corpus.files import find_files
from scone_cli.corpus.readers import BadDocument, read_documents
from scone_cli.errors import BadData, BadSetting, InputMissing, StorageFailure

COMPRESS = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}
COMPRESSED = [suffix for suffix in COMPRESS if suffix]


def read(path: Path, text_field: str = "text") -> list[tuple[str, str]]:
    (file,) = find_files([path])
    return [(document.name, document.text) for document in read_documents(file, text_field)]


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def lines(*records: object) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def parquet(table: dict[str, pa.Array], **options: object) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(table), sink, **options)
    return sink.getvalue()


def fails(path: Path, *expected: str, text_field: str = "text") -> None:
    """Reading is BadData in one line that names the file and everything expected."""
    with refusal(BadData, str(path), *expected):
        read(path, text_field)


# ---- finding -----------------------------------------------------------------------------------------------------


def test_folder_is_walked_and_hidden_files_are_left_out(tmp_path):
    for name in ("b.txt", "sub/deep/a.txt", ".hidden", ".git/config", "sub/.x.txt"):
        write(tmp_path / "corpus" / name, name.encode())
    assert sorted(file.name for file in find_files([tmp_path / "corpus"])) == ["b.txt", "sub/deep/a.txt"]


def test_file_has_its_size_and_hash(tmp_path):
    (file,) = find_files([write(tmp_path / "a.txt", b"abc")])
    assert (file.name, file.bytes) == ("a.txt", 3)
    assert file.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_order_is_of_contents_not_of_names(tmp_path):
    contents = [b"one", b"two", b"three", b"four"]
    for number, content in enumerate(contents):
        write(tmp_path / "x" / f"{number}.txt", content)
        write(tmp_path / "y" / f"{9 - number}.txt", content)
    x, y = (find_files([tmp_path / folder]) for folder in "xy")
    assert [file.path.read_bytes() for file in x] == [file.path.read_bytes() for file in y]


def test_names_tell_several_corpora_apart(tmp_path):
    write(tmp_path / "law" / "0.txt", b"a")
    write(tmp_path / "code" / "0.txt", b"b")
    found = find_files([tmp_path / "law", tmp_path / "code", write(tmp_path / "c.txt", b"c")])
    assert sorted(file.name for file in found) == ["c.txt", "code/0.txt", "law/0.txt"]


def test_two_files_of_one_name_are_refused(tmp_path):
    first, second = write(tmp_path / "x" / "a.txt", b"a"), write(tmp_path / "y" / "a.txt", b"b")
    with refusal(BadSetting, "a.txt") as caught:
        find_files([first, second])
    assert str(first) in caught.value.message
    assert str(second) in caught.value.message


def test_links_to_files_are_followed_and_broken_ones_refused(tmp_path):
    target = write(tmp_path / "elsewhere.txt", b"text")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "link.txt").symlink_to(target)
    assert read(tmp_path / "corpus") == [("link.txt", "text")]
    target.unlink()
    with refusal(InputMissing, "link.txt"):
        find_files([tmp_path / "corpus"])


def test_links_to_folders_are_followed(tmp_path):
    write(tmp_path / "elsewhere" / "sub" / "a.txt", b"a")
    write(tmp_path / "corpus" / "b.txt", b"b")
    for name in ("x", "y", ".hidden"):  # one folder reached twice is no loop, and its files count once
        (tmp_path / "corpus" / name).symlink_to(tmp_path / "elsewhere")
    found = sorted(file.name for file in find_files([tmp_path / "corpus"]))
    assert found == ["b.txt", "x/sub/a.txt"]
    (tmp_path / "corpus" / "elsewhere").symlink_to("../elsewhere")
    (tmp_path / "alias").symlink_to(tmp_path / "corpus")
    assert sorted(file.name for file in find_files([tmp_path / "alias"])) == ["b.txt", "elsewhere/sub/a.txt"]


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("corpus/sub/link", "corpus/sub"),
        ("corpus/sub/link", "corpus"),
        ("corpus/sub/link", "."),  # around the corpus
        ("elsewhere/link", "corpus"),  # through another link
        ("elsewhere/link", "elsewhere"),
    ],
)
@pytest.mark.parametrize("relative", [False, True])
def test_links_in_a_loop_are_refused(tmp_path, monkeypatch, link, target, relative):
    write(tmp_path / "corpus" / "sub" / "a.txt", b"a")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "corpus" / "other").symlink_to(tmp_path / "elsewhere")
    (tmp_path / link).symlink_to(tmp_path / target)
    monkeypatch.chdir(tmp_path / "corpus")
    with refusal(BadData, "link", "loop"):
        find_files([Path() if relative else tmp_path / "corpus"])


def test_missing_path_and_empty_folder(tmp_path):
    with refusal(InputMissing, "file"):
        find_files([tmp_path / "nowhere"])
    (tmp_path / "empty" / "sub").mkdir(parents=True)
    write(tmp_path / "empty" / ".hidden", b"x")
    with refusal(InputMissing, "files"):
        find_files([tmp_path / "empty"])


def test_file_name_that_is_no_utf8_becomes_text(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.txt")
    try:
        path.write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert [file.name for file in find_files([tmp_path])] == [r"caf\xe9.txt"]


def test_file_that_goes_away_and_file_that_cannot_be_read(tmp_path, monkeypatch):
    (file,) = find_files([write(tmp_path / "a.txt", b"a")])
    file.path.unlink()
    with refusal(InputMissing, "a.txt"):
        list(read_documents(file))

    def denied(path: str, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(sources, "open", denied, raising=False)  # root, as in containers, may read everything
    with refusal(StorageFailure, "b.txt", "Permission denied"):
        find_files([write(tmp_path / "b.txt", b"b")])


@pytest.mark.parametrize("change", [b"b", b"longer", b"\xff"])
@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("replaced", [False, True])
def test_file_that_changes_after_it_was_found(tmp_path, change, compression, replaced):
    compress = COMPRESS[compression]
    (file,) = find_files([write(tmp_path / f"a.txt{compression}", compress(b"a"))])
    new = write(tmp_path / "new", compress(change))
    os.utime(new, ns=(0, file.mtime_ns + 1))  # a clock may be too coarse to tell two writes apart
    new.replace(file.path) if replaced else (shutil.copyfile(new, file.path), shutil.copystat(new, file.path))
    with refusal(BadData, "changed", hint=("again",)) as caught:
        list(read_documents(file))
    assert "a.txt" in caught.value.message


@pytest.mark.parametrize("tail", [b'{"text": "c"}\n', b'{"te'])
def test_file_that_grows_while_it_is_read(tmp_path, tail):
    (file,) = find_files([write(tmp_path / "a.jsonl", lines(*({"text": "x" * 99} for _ in range(5000))))])
    documents = read_documents(file)
    next(documents)
    with file.path.open("ab") as log:
        log.write(tail)
    with refusal(BadData, "a.jsonl", "changed"):
        list(documents)


def test_parquet_file_that_changes_and_file_that_is_only_read(tmp_path):
    (file,) = find_files([write(tmp_path / "a.parquet", parquet({"text": pa.array(["x"])}))])
    for _ in range(2):
        assert [document.text for document in read_documents(file)] == ["x"]
    os.utime(file.path, ns=(0, file.mtime_ns + 1))
    with refusal(BadData, "a.parquet", "changed"):
        list(read_documents(file))


# ---- reading -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", COMPRESS)
def test_every_format_in_every_compression(tmp_path, suffix):
    compress = COMPRESS[suffix]
    plain = write(tmp_path / f"a.txt{suffix}", compress("Grüße\n".encode()))
    assert read(plain) == [(plain.name, "Grüße\n")]
    for kind in (".jsonl", ".ndjson", ".JSONL"):
        path = write(
            tmp_path / f"b{kind}{suffix}", compress(lines({"text": "x"}, {"text": ""}, {"id": 3, "text": "ü"}))
        )
        assert read(path) == [(f"{path.name}:1", "x"), (f"{path.name}:3", "ü")]
    path = write(tmp_path / f"c.parquet{suffix}", compress(parquet({"text": pa.array(["x", "", "ü"])})))
    assert read(path) == [(f"{path.name}:0", "x"), (f"{path.name}:2", "ü")]


def test_num_bytes_is_the_utf8_length(tmp_path):
    (file,) = find_files([write(tmp_path / "a.txt", "Grüße".encode())])
    assert [document.num_bytes for document in read_documents(file)] == [7]


@pytest.mark.parametrize("text", ["a\r\nb\rc\n", "nul \0 inside", "\ufeffmark", "\u2028 \x85 \x0c \x1c", " \n "])
def test_text_is_taken_as_it_is(tmp_path, text):
    assert read(write(tmp_path / "a.txt", text.encode())) == [("a.txt", text)]
    assert read(write(tmp_path / "b.jsonl", lines({"text": text}))) == [("b.jsonl:1", text)]
    raw = json.dumps({"text": text}, ensure_ascii=False).encode()
    assert read(write(tmp_path / "c.jsonl", raw)) == [("c.jsonl:1", text)]
    assert read(write(tmp_path / "d.parquet", parquet({"text": pa.array([text])}))) == [("d.parquet:0", text)]


def test_json_lines_with_windows_ends_blank_lines_and_a_mark(tmp_path):
    path = write(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"text": "a"}\r\n\r\n{"text": "b"}\r\n  \n{"text": "c"}')
    assert read(path) == [("a.jsonl:1", "a"), ("a.jsonl:3", "b"), ("a.jsonl:5", "c")]


def test_other_text_field(tmp_path):
    assert read(write(tmp_path / "a.jsonl", lines({"body": "x"})), "body") == [("a.jsonl:1", "x")]
    path = write(tmp_path / "a.parquet", parquet({"n": pa.array([1]), "body": pa.array(["x"])}))
    assert read(path, "body") == [("a.parquet:0", "x")]


def test_empty_files_have_no_document(tmp_path):
    assert read(write(tmp_path / "a.txt", b"")) == []
    assert read(write(tmp_path / "a.jsonl", b"")) == []
    assert read(write(tmp_path / "a.jsonl.zst", COMPRESS[".zst"](b""))) == []


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_all_frames_are_read(tmp_path, suffix):
    frames = [lines({"text": f"{number} " * 50_000}) for number in range(5)]
    path = write(tmp_path / f"a.jsonl{suffix}", b"".join(map(COMPRESS[suffix], frames)))
    assert [text[:2] for _, text in read(path)] == ["0 ", "1 ", "2 ", "3 ", "4 "]


@pytest.mark.parametrize("suffix", COMPRESSED)
@pytest.mark.parametrize("keep", [0, 1, 9, 0.5, 0.99, -1])
@pytest.mark.parametrize("frames_before", [0, 2])
def test_truncated_compression_is_found(tmp_path, suffix, keep, frames_before):
    frame = COMPRESS[suffix](lines(*({"text": f"text {number}"} for number in range(2000))))
    size = int(keep * len(frame)) if isinstance(keep, float) else keep % len(frame)
    path = write(tmp_path / f"a.jsonl{suffix}", frame * frames_before + frame[:size])
    if size == 0 and frames_before:
        assert len(read(path)) == 2000 * frames_before  # cut between two frames, a file is a whole file
    else:
        fails(path, "truncated", suffix)


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_damaged_compression_is_found(tmp_path, suffix):
    content = bytearray(COMPRESS[suffix](lines(*({"text": f"text {number}"} for number in range(2000)))))
    content[len(content) * 3 // 4] ^= 1
    fails(write(tmp_path / f"a.jsonl{suffix}", bytes(content)), "damaged")
    content[:2] = b"\xff\0"  # it does not even begin as such a file does
    fails(write(tmp_path / f"b.jsonl{suffix}", bytes(content)), "damaged", suffix)


@pytest.mark.parametrize("suffix", COMPRESS)
def test_text_that_is_not_utf8(tmp_path, suffix):
    compress = COMPRESS[suffix]
    fails(write(tmp_path / f"a.txt{suffix}", compress(b"caf\xe9 au lait")), "UTF-8", "0xe9", "3")
    fails(write(tmp_path / f"a.jsonl{suffix}", compress(b'{"text": "x"}\n{"text": "\xff"}\n')), "line 2", "UTF-8")
    column = pa.array([b"ok", b"\xff"]).view(pa.string())
    fails(write(tmp_path / f"a.parquet{suffix}", compress(parquet({"text": column}))), "row 1", "UTF-8")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"text": ', "JSON"),
        (b"hello", "JSON"),
        (b"[" * 100_000, "line 2"),
        (b'{"text": ' + b"9" * 5000 + b"}", "line 2"),
        (b'["text"]', "array"),
        (b'"text"', "string"),
        (b"3", "number"),
        (b'{"id": 1, "body": "x"}', "'id', 'body'"),
        (b"{}", "'text'"),
        (b'{"text": null}', "null"),
        (b'{"text": true}', "boolean"),
        (b'{"text": ["x"]}', "array"),
        (b'{"text": "a\\ud800b"}', "U+D800"),
    ],
)
def test_bad_json_lines(tmp_path, line, expected):
    path = write(tmp_path / "a.jsonl", b'{"text": "fine"}\n' + line + b'\n{"text": "fine"}\n')
    fails(path, "line 2", expected)


def test_parquet_text_columns_of_every_kind(tmp_path):
    for kind in (pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())):
        path = write(tmp_path / "a.parquet", parquet({"text": pa.array(["x", "y", "x"], pa.string()).cast(kind)}))
        assert [text for _, text in read(path)] == ["x", "y", "x"]


def test_a_parquet_column_whose_name_is_the_path_of_another(tmp_path):
    content = parquet({"text": pa.array([{"en": "no"}]), "text.en": pa.array(["yes"])})
    assert [text for _, text in read(write(tmp_path / "a.parquet", content), "text.en")] == ["yes"]


def test_marks_before_json_records_are_no_part_of_them(tmp_path):
    records = [
        b'{"text": "a"}\n',
        b'\xef\xbb\xbf{"text": "b"}\n',
        b'\x1e{"text": "c"}\n',
    ]  # files put together; RFC 7464
    for order in (records, records[::-1]):
        path = write(tmp_path / "a.jsonl", b"".join(order))
        assert sorted(text for _, text in read(path)) == ["a", "b", "c"]


def test_parquet_of_many_row_groups(tmp_path):
    texts = [f"text {number}" for number in range(1000)]
    path = write(tmp_path / "a.parquet", parquet({"text": pa.array(texts)}, row_group_size=70))
    assert read(path) == [(f"a.parquet:{row}", text) for row, text in enumerate(texts)]


def test_bad_parquet(tmp_path):
    whole = parquet({"text": pa.array([f"text {number}" for number in range(5000)])}, compression="zstd")
    fails(write(tmp_path / "a.parquet", b"no parquet"), "Parquet")
    fails(write(tmp_path / "b.parquet", whole[: len(whole) // 2]), "Parquet")
    fails(write(tmp_path / "c.parquet", whole[:200] + bytes(2000) + whole[2200:]), "damaged")
    fails(write(tmp_path / "d.parquet.gz", gzip.compress(whole)[:-9]), "truncated")
    fails(write(tmp_path / "e.parquet", b""), "Parquet")


def test_parquet_column_missing_of_another_type_or_null(tmp_path):
    path = write(tmp_path / "a.parquet", parquet({"id": pa.array([1]), "body": pa.array(["x"])}))
    fails(path, "'text'", "'id', 'body'")
    fails(path, "'id'", "int64", "string", text_field="id")
    path = write(tmp_path / "b.parquet", parquet({"text": pa.array(["x"] * 300 + [None, "y"])}))
    fails(path, "row 300", "null")


def test_plain_text_too_large_for_one_document(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "_LARGEST_DOCUMENT", 10)
    assert read(write(tmp_path / "a.txt", b"x" * 10))
    fails(write(tmp_path / "b.txt", b"x" * 11), "10 bytes")


def test_documents_come_as_a_stream(tmp_path):
    (file,) = find_files([write(tmp_path / "a.jsonl", b'{"text": "first"}\nnot JSON\n')])
    documents = read_documents(file)
    assert next(documents).text == "first"
    with refusal(BadData, "line 2"):
        next(documents)


# ---- documents that are left out ---------------------------------------------------------------------------------


def skipping(path: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """The texts that can be read, and name and cause of those that cannot."""
    bad: list[BadDocument] = []
    (file,) = find_files([path])
    texts = [document.text for document in read_documents(file, on_bad=bad.append)]
    return texts, [(error.name, error.cause) for error in bad]


def test_bad_lines_are_left_out_and_told_of(tmp_path):
    content = b'{"text": "a"}\nnot JSON\n\n{"text": "\\ud800"}\n{"text": "\xff"}\n{"body": 1}\n{"text": "b"}\n'
    texts, bad = skipping(write(tmp_path / "a.jsonl", content))
    assert texts == ["a", "b"]
    assert [name for name, _ in bad] == ["a.jsonl:2", "a.jsonl:4", "a.jsonl:5", "a.jsonl:6"]
    for (_, cause), expected in zip(bad, ("JSON", "surrogate", "UTF-8", "'text'"), strict=True):
        assert names(cause, expected)


def test_the_place_in_a_line_is_told_once(tmp_path):
    ((_, cause),) = skipping(write(tmp_path / "a.jsonl", b'{"text": "a\tb"}\n'))[1]
    assert cause.startswith("not JSON (Invalid control character at column 12)")


def test_bad_rows_and_files_are_left_out_and_told_of(tmp_path):
    column = pa.array([b"ok", b"\xff", None, b"fine"]).view(pa.string())
    texts, bad = skipping(write(tmp_path / "a.parquet", parquet({"text": column})))
    assert (texts, [name for name, _ in bad]) == (["ok", "fine"], ["a.parquet:1", "a.parquet:2"])
    assert skipping(write(tmp_path / "a.txt", b"\xff"))[1][0][0] == "a.txt"


@pytest.mark.parametrize("suffix", COMPRESS)
def test_documents_beyond_the_largest_are_left_out_and_reading_goes_on(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(readers, "_LARGEST_DOCUMENT", 40)
    monkeypatch.setattr(readers, "_SMALL_BYTES", 16)
    content = lines({"text": "a"}, {"text": "x" * 500}, {"text": "b"}, {"text": "y" * 27}, {"text": "z" * 28})
    path = write(tmp_path / f"a.jsonl{suffix}", COMPRESS[suffix](content))
    texts, bad = skipping(path)
    assert texts == ["a", "b", "y" * 27]  # its line is 40 bytes long, with its end
    assert [name for name, _ in bad] == [f"{path.name}:{line}" for line in (2, 5)]
    assert all("40 bytes" in cause for _, cause in bad)
    fails(path, "line 2", "40 bytes")
    whole = write(tmp_path / f"b.txt{suffix}", COMPRESS[suffix](b"x" * 41))
    assert skipping(whole)[1][0][0] == whole.name
    assert read(write(tmp_path / f"c.txt{suffix}", COMPRESS[suffix](b"x" * 40))) == [(f"c.txt{suffix}", "x" * 40)]


def test_a_damaged_file_is_an_error_even_so(tmp_path):
    whole = gzip.compress(lines(*({"text": f"text {number}"} for number in range(2000))))
    with refusal(BadData, "truncated"):
        skipping(write(tmp_path / "a.jsonl.gz", whole[:-9]))
    with refusal(BadData, "'text'"):
        skipping(write(tmp_path / "a.parquet", parquet({"body": pa.array(["x"])})))


def test_an_error_of_a_document_survives_the_way_out_of_a_worker(tmp_path):
    (file,) = find_files([write(tmp_path / "a.jsonl", b"not JSON\n")])
    with pytest.raises(BadDocument) as caught:
        list(read_documents(file))
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (type(copy), copy.message, copy.hint) == (BadData, caught.value.message, caught.value.hint)
