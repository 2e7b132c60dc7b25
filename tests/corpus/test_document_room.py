"""Compressed files that are larger than they look: memory stays small, and no result depends on it."""

import bz2
import gzip
import json
import lzma
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from messages import refusal

from scone_cli.corpus import readers
from scone_cli.corpus.document_room import documents_within, largest_window
from scone_cli.corpus.encode import encode_texts
from scone_cli.corpus.files import find_files
from scone_cli.corpus.held_out import HeldOut
from scone_cli.corpus.parquet_pages import largest_page
from scone_cli.corpus.readers import BadDocument, read_documents
from scone_cli.corpus.separators import Separator
from scone_cli.corpus.tokenizer import Tokenizer, train_tokenizer
from scone_cli.errors import NotEnoughMemory

MIB = 1 << 20
COMPRESS = {"gz": gzip.compress, "zst": zstandard.compress, "bz2": bz2.compress, "xz": lzma.compress}


def bomb(path: Path, size: int, compression: str) -> Path:
    """Three documents; the second has `size` bytes."""
    first, last = (f"{json.dumps({'text': text})}\n".encode() for text in ("first", "last"))
    pieces = (first + b'{"text": "', b"0" * MIB, b'"}\n' + last)
    one, zeros, two = map(COMPRESS[compression], pieces)
    path.write_bytes(one + zeros * (size // MIB) + two)
    return path


def texts(path: Path, room: int | None, **options: Any) -> list[str]:
    (file,) = find_files([path])
    with documents_within(room):
        return [document.text for document in read_documents(file, **options)]


def test_a_bomb_is_left_out_in_little_memory(tmp_path):
    """A process that may take 48 MiB more than it has reads around documents of 56 MiB, in every compression."""
    for compression in COMPRESS:
        bomb(tmp_path / f"a.jsonl.{compression}", 56 * MIB, compression)
    program = """
        import resource, sys
        from pathlib import Path
        from scone_cli.corpus import readers
        from scone_cli.corpus.document_room import documents_within
        from scone_cli.corpus.files import find_files

        readers._LARGEST_DOCUMENT = 50 << 20
        files, bad = find_files([Path(sys.argv[1])]), []
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + (48 << 20),) * 2)
        with documents_within(64 << 20):
            for file in files:
                print([each.text for each in readers.read_documents(file, on_bad=bad.append)], bad.pop().name)
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), tmp_path], capture_output=True, text=True, check=False
    )
    assert ended.stderr == ""
    assert sorted(ended.stdout.splitlines()) == sorted(f"['first', 'last'] a.jsonl.{each}:2" for each in COMPRESS)


@pytest.mark.parametrize("form", ["lines", "whole", "separated"])
def test_a_document_that_more_memory_could_hold_is_an_error_even_if_bad_ones_are_skipped(tmp_path, monkeypatch, form):
    path, options = tmp_path / "a.gz", {}
    if form == "lines":
        bomb(path, MIB, "gz")
    else:
        path.write_bytes(gzip.compress(b"first\n--\n" + b"0" * MIB + b"\n--\nlast\n"))
        options = {"separator": Separator("--")} if form == "separated" else {}
    bad: list[BadDocument] = []
    for on_bad in (None, bad.append):
        with refusal(NotEnoughMemory, str(path), "more than", "--memory", hint=("--memory", "--workers")):
            texts(path, MIB, on_bad=on_bad, **options)
    assert len(texts(path, 32 * MIB, **options)) == (1 if form == "whole" else 3)
    (tmp_path / "a.txt").write_bytes(gzip.decompress(path.read_bytes()))
    assert texts(tmp_path / "a.txt", MIB, **options) == texts(path, None, **options)
    monkeypatch.setattr(readers, "_LARGEST_DOCUMENT", MIB // 2)
    texts(path, MIB, on_bad=bad.append, **options)
    assert len(bad) == 1


@pytest.mark.parametrize("compression", ["zst", "xz"])
def test_windows(tmp_path, compression):
    """A frame says how much memory its decoder needs."""
    content = os.urandom(MIB).hex().encode()
    if compression == "zst":
        parameters = zstandard.ZstdCompressionParameters(window_log=24, compression_level=1)
        packing = zstandard.ZstdCompressor(compression_params=parameters).compressobj()  # it does not know the size
        packed = packing.compress(content) + packing.flush()
    else:
        packed = lzma.compress(content, filters=[{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 16 * MIB}])
    (tmp_path / "a").write_bytes(packed)
    assert texts(tmp_path / "a", 1 << 30) == texts(tmp_path / "a", None) == [content.decode()]
    with documents_within(40 * MIB):
        assert largest_window() == 8 * MIB
    with refusal(NotEnoughMemory, "window", "8.0 MiB", hint=("--memory",)):
        texts(tmp_path / "a", 40 * MIB)


def test_a_text_with_a_token_for_every_byte(tmp_path):
    """Encoding it takes ten times the memory of other text of this length."""
    tokenizer = Tokenizer(train_tokenizer(iter(["word " * 100]), 300), "t.json")
    for name, text in (("words", "word " * MIB), ("bytes", "\N{GRINNING FACE}\n" * MIB)):
        (tmp_path / name).write_bytes(gzip.compress(text.encode()))
    words, others = (find_files([tmp_path / name]) for name in ("words", "bytes"))
    with documents_within(100 * MIB):
        assert sum(batch.num_tokens for batch in encode_texts(words, tokenizer, "text", HeldOut(0.0))) < 2 * MIB
        with refusal(NotEnoughMemory, "bytes", "5.0 MiB", "tokens", "--memory"):
            list(encode_texts(others, tokenizer, "text", HeldOut(0.0)))


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("dictionary", [False, True])
def test_the_largest_page_of_parquet(tmp_path, version, dictionary):
    """What headers of pages tell adds up to what pyarrow tells of the column; the largest has the long text."""
    values = [f"text {number}" * (number % 50) for number in range(5000)]
    values[2500] = "0" * MIB
    options = {
        "data_page_version": version,
        "use_dictionary": dictionary,
        "row_group_size": 2000,
        "data_page_size": 4096,
    }
    pq.write_table(pa.table({"id": range(5000), "text": values}), tmp_path / "a", compression="zstd", **options)
    metadata = pq.read_metadata(tmp_path / "a")
    sizes = [metadata.row_group(group).column(1).total_uncompressed_size for group in range(3)]
    with (tmp_path / "a").open("rb") as content:
        assert MIB < largest_page(content, metadata, 1) <= max(sizes)
        assert largest_page(content, metadata, 0) < 64 << 10
    assert texts(tmp_path / "a", None) == texts(tmp_path / "a", 16 * MIB) == list(filter(None, values))
    with refusal(NotEnoughMemory, "page", "'text'", hint=("--memory",)):
        texts(tmp_path / "a", 2 * MIB)


def test_damaged_headers_of_pages_are_left_to_who_reads_the_rows(tmp_path):
    pq.write_table(pa.table({"text": ["some", "text"] * 99}), tmp_path / "a")
    metadata, whole = pq.read_metadata(tmp_path / "a"), (tmp_path / "a").read_bytes()
    for damaged in (whole[:4] + b"\xff" * 60 + whole[64:], whole[:20], whole[:4] + bytes(60) + whole[64:]):
        (tmp_path / "b").write_bytes(damaged)
        with (tmp_path / "b").open("rb") as content:
            assert largest_page(content, metadata, 0) == 0
