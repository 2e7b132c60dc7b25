"""An exported table whose files are damaged: the errors of a table, never a wrong row."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
from exports import TEXT, make_exported, raw_rows
from messages import refusal
from safetensors.torch import load_file, save_file
from spoiling import spoil
from workspaces import manifest, write_manifest

from scone_cli.errors import DamagedArtifact, SconeError
from scone_cli.table.table import PLACEMENTS, Table
from scone_cli.table.tensor_files import header_of


def rewrite_unnoticed(path: Path, content: bytes) -> None:
    """Write a file of an export, as if it had been so when it was published."""
    described = manifest(path.parent)
    described["files"].pop(path.name)
    write_manifest(path.parent, described)
    path.write_bytes(content)


def file_of(dtype: str, shape: list[int], name: str = "rows") -> bytes:
    size = {"F16": 2, "BF16": 2, "U8": 1, "U32": 4}[dtype]
    return header_of({name: (dtype, shape)}) + bytes(int(np.prod(shape)) * size)


HINT = ("scone export --to safetensors",)


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        (lambda _: b"", ["safetensors"]),
        (lambda _: b"hello" * 100, ["safetensors"]),
        (lambda content: content[:-1], ["safetensors"]),
        (lambda content: content + b"0", ["safetensors"]),
        (lambda content: content.replace(b"F16", b"F32"), ["safetensors"]),
        (lambda content: content.replace(b"F16", b"I16"), ["rows I16 [150, 9]", "rows F16 [_, 9]"]),
        (lambda content: content.replace(b"rows", b"cols"), ["cols F16 [150, 9]", "rows F16 [_, 9]"]),
        (lambda content: content.replace(b"[150,9]", b"[75,18]"), ["rows F16 [75, 18]", "rows F16 [_, 9]"]),
        (lambda content: content.replace(b"[150,9]", b"[1350] "), ["rows F16 [1350]", "rows F16 [_, 9]"]),
        (lambda _: header_of({"a": ("U8", [1]), "rows": ("F16", [1, 9])}) + bytes(19), ["a U8 [1]", "rows F16 [1, 9]"]),
        (lambda _: file_of("F16", [149, 9]), ["399 rows", "400 rows"]),
        (lambda _: file_of("BF16", [150, 9]), ["BF16", "F16"]),
        (lambda _: file_of("U8", [150, 18]), ["U8", "F16"]),
    ],
)
def test_rows_that_are_none_are_refused(tmp_path, change, facts):
    path = make_exported(tmp_path) / "rows-00001.safetensors"
    rewrite_unnoticed(path, change(path.read_bytes()))
    with refusal(DamagedArtifact, *facts, hint=HINT):
        Table.open(path.parent)


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        (lambda _: b"no index", ["safetensors"]),
        (lambda content: content[:-64], ["safetensors"]),
        (lambda content: content.replace(b"U32", b"I32"), ["lines I32", "lines U32 [_, 16]"]),
        (lambda _: file_of("U32", [1, 16], "lines"), ["1 lines", "400"]),
    ],
)
def test_an_index_that_is_none_is_refused(tmp_path, change, facts):
    path = make_exported(tmp_path) / "index.safetensors"
    rewrite_unnoticed(path, change(path.read_bytes()))
    with refusal(DamagedArtifact, "index.safetensors", *facts, hint=HINT):
        Table.open(path.parent)


def test_data_that_do_not_begin_at_a_cache_line_are_refused(tmp_path):
    """As the library itself writes them, which aligns them to 8 bytes."""
    folder = make_exported(tmp_path)
    path = folder / "index.safetensors"
    lines = load_file(path)
    save_file(lines, tmp_path / "lines", {"more": "x" * 8})
    content = (tmp_path / "lines").read_bytes()
    assert (len(content) - lines["lines"].nbytes) % 64
    rewrite_unnoticed(path, content)
    with refusal(DamagedArtifact, "index.safetensors", 64):
        Table.open(folder)


@pytest.mark.parametrize("name", ["rows-00000.safetensors", "index.safetensors", "fgrams.safetensors"])
def test_a_flipped_bit_is_found_when_every_byte_is_read(tmp_path, name):
    folder = make_exported(tmp_path)
    content = bytearray((folder / name).read_bytes())
    content[-30] ^= 1
    (folder / name).write_bytes(content)
    Table.open(folder)
    with refusal(DamagedArtifact, name, "SHA-256", hint=HINT) as caught:
        Table.open(folder, hashes=True)
    assert "--force" not in caught.value.hint


@pytest.mark.parametrize("name", ["rows-00001.safetensors", "index.safetensors", "fgrams.safetensors"])
def test_a_file_that_is_cut_or_gone_is_found(tmp_path, name):
    path = make_exported(tmp_path) / name
    os.truncate(path, path.stat().st_size - 20)
    with refusal(DamagedArtifact, name, "bytes", hint=HINT):
        Table.open(path.parent)
    path.unlink()
    with refusal(DamagedArtifact, name, "missing", hint=HINT):
        Table.open(path.parent)


def test_a_missing_part_is_found(tmp_path):
    path = make_exported(tmp_path) / "rows-00002.safetensors"
    rewrite_unnoticed(path, b"")
    path.unlink()
    with refusal(DamagedArtifact, "300 rows", "400 rows", hint=HINT):
        Table.open(path.parent)


def test_spoilt_exports_are_refused_or_say_the_same(tmp_path):
    """With all bytes checked nothing that was spoilt gives another answer; without, it is a named error or an answer."""
    folder = make_exported(tmp_path)
    paths = sorted(path for path in folder.iterdir() if path.name != "tokenizer.json")
    sound = {path: path.read_bytes() for path in paths}
    with Table.open(folder) as table:
        ids, expected = table.matcher().match(TEXT).tolist(), raw_rows(table)
    chance, refused = random.Random(0), 0
    for number in range(300):
        path = chance.choice(paths)
        path.write_bytes(spoilt := spoil(sound[path], chance))
        all_bytes = chance.random() < 0.7
        try:
            table = Table.open(folder, chance.choice(PLACEMENTS), hashes=all_bytes)
            found, answer = table.matcher().match(TEXT).tolist(), raw_rows(table)
        except SconeError:
            refused += 1
        else:
            is_same = found == ids and np.array_equal(answer, expected)
            assert is_same or not all_bytes, (number, path.name, spoilt[:2000])
        path.write_bytes(sound[path])
    assert 150 < refused <= 300
