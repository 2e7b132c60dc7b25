"""The table: what is written is what is mapped, for any Parquet reader too; bad files are refused."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from builders import make_table, random_documents, raw_of, slow_ranking, trie_of
from messages import refusal
from torch import Tensor
from workspaces import manifest, write_manifest

from scone_cli.artifacts.manifest import FileStamp, Manifest
from scone_cli.artifacts.publish import write_parquet
from scone_cli.artifacts.schemas import table_schema
from scone_cli.errors import BadSetting, DamagedArtifact, ForeignArtifact, MismatchedArtifacts
from scone_cli.table.given_out import DTYPES
from scone_cli.table.layout import locate_rows, write_index, write_rows
from scone_cli.table.row_formats import FORMATS, decode, encode
from scone_cli.table.sizes import index_bytes
from scone_cli.table.table import PLACEMENTS, Table
from scone_cli.vocab.index import NONE

NUM_TOKENS, MAX_N = 7, 4
FGRAMS = slow_ranking(random_documents(0, NUM_TOKENS, [300]), MAX_N, 50, 1)
TRIE = trie_of(FGRAMS, NUM_TOKENS, MAX_N)
PARAMETRIZE_DTYPE = pytest.mark.parametrize("dtype", DTYPES)


def random_rows(num_rows: int, dim: int, dtype: str = "float16") -> Tensor:
    return torch.randn(num_rows, dim, generator=torch.Generator().manual_seed(0)).to(DTYPES[dtype])


def stored_rows(path: Path, row_bytes: int) -> np.ndarray:
    start, rows = locate_rows(path, row_bytes)
    return np.fromfile(path, np.uint8)[start : start + rows * row_bytes].reshape(rows, row_bytes)


def num_parts(folder: Path) -> int:
    return len(list(folder.glob("rows-*.parquet")))


# ---- written = mapped --------------------------------------------------------------------------------------------


@PARAMETRIZE_DTYPE
@pytest.mark.parametrize(("num_rows", "dim"), [(1, 1), (1, 64), (50, 3), (50, 17), (37, 128)])
@pytest.mark.parametrize("rows_per_part", [1000, 7, 1])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_rows_are_the_written_ones(tmp_path, dtype, num_rows, dim, rows_per_part, placement):
    rows = random_rows(num_rows, dim, dtype)
    row_bytes = dim * rows.element_size()
    table = Table.open(make_table(tmp_path, TRIE, rows, part_bytes=rows_per_part * row_bytes + 1), placement)
    assert num_parts(tmp_path / "table") == -(-num_rows // rows_per_part)
    assert (table.num_rows, table.dim, table.dtype, table.row_bytes) == (num_rows, dim, rows.dtype, row_bytes)
    order = np.random.default_rng(0).integers(num_rows, size=80).astype(np.uint32)
    for ids in (order, order[:1], order[:0]):
        found = table.rows(ids)
        assert found.dtype == rows.dtype
        assert torch.equal(found, rows[ids.astype(np.int64)])


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("out_dtype", [torch.float16, torch.float32])
def test_rows_into_what_is_given(tmp_path, placement, out_dtype):
    """Where there is no f-gram, what was there stays; what is beyond the ids is not touched."""
    rows = random_rows(50, 6)
    table = Table.open(make_table(tmp_path, TRIE, rows), placement)
    ids = np.array([3, NONE, 49, 3, NONE], np.uint32)
    out = torch.full((7, 6), 5, dtype=out_dtype)
    assert table.rows(ids, out) is out
    assert torch.equal(out[[0, 2, 3]], rows[[3, 49, 3]].to(out_dtype))
    assert (out[[1, 4, 5, 6]] == 5).all()
    assert (table.rows(ids)[[1, 4]] == 0).all()
    every_other = torch.full((10, 6), 5, dtype=out_dtype)[::2]
    assert torch.equal(table.rows(ids, every_other), out[:5])


@pytest.mark.parametrize("shape", [(2, 6), (3, 5), (3, 7), (18,)])
def test_a_place_that_does_not_fit_is_refused(tmp_path, shape):
    table = Table.open(make_table(tmp_path, TRIE, random_rows(50, 6)))
    with refusal(ValueError, "[3, 6]"):
        table.rows(np.zeros(3, np.uint32), torch.zeros(shape, dtype=torch.float16))


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_an_id_of_no_row_is_refused(tmp_path, placement):
    table = Table.open(make_table(tmp_path, TRIE, random_rows(50, 6)), placement)
    for _ in range(70):  # as soon as it has been opened, and when its rows are known to be in the page cache
        with refusal(IndexError, "f-gram 50", "50 rows"):
            table.rows(np.array([1, 50, NONE], np.uint32))
        table.rows(np.array([1], np.uint32))


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("is_known_to_be_cached", [False, True])
def test_ids_of_another_type_are_the_same_ids_or_refused(tmp_path, placement, is_known_to_be_cached):
    """Of one id and of several: -1 is no row before the first, nor 2**32 + 3 row 3."""
    rows = random_rows(50, 6)
    table = Table.open(make_table(tmp_path, TRIE, rows), placement)
    table.stored._careful = 0 if is_known_to_be_cached else 1000
    for ids in ([3], [3, 49], [49, NONE, 0]):
        expected = table.rows(np.array(ids, np.uint32))
        assert torch.equal(table.rows(np.array(ids)), expected)
        assert torch.equal(table.rows(np.array(ids), torch.zeros(len(ids), 6)), expected.float())
    for ids in ([-1], [2**32 + 3], [-1, 3], [3, 2**32 + 3]):
        for out in (None, torch.zeros(len(ids), 6)):
            with pytest.raises(IndexError, match="f-gram"):
                table.rows(np.array(ids), out)
    with refusal(ValueError, "(2, 2)", "one dimension"):
        table.rows(np.zeros((2, 2), np.uint32))


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_table_is_not_copied(tmp_path, placement):
    """The copy would read memory that goes with the first."""
    with refusal(TypeError, "copied"):
        copy.deepcopy(Table.open(make_table(tmp_path, TRIE, random_rows(50, 6)), placement))


@pytest.mark.parametrize("name", sorted(set(FORMATS) - set(DTYPES)))
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_rows_with_a_scale_are_decoded(tmp_path, name, placement):
    rows = random_rows(50, 9, "float32")
    raw = encode(rows, name)
    folder = make_table(tmp_path, TRIE, rows)
    for path in (folder / "rows-00000.parquet", folder / "index.bin"):
        path.unlink()
    write_rows(folder, raw)
    write_index(folder, TRIE.index(), 9, name)
    described = manifest(folder)
    described["settings"]["dtype"] = name
    described["files"] = {}
    write_manifest(folder, described)
    table = Table.open(folder, placement)
    ids = np.array([7, NONE, 49], np.uint32)
    found = table.rows(ids)
    assert (found.dtype, table.row_bytes) == (torch.float32, raw.shape[1])
    assert torch.equal(found[[0, 2]], decode(raw[[7, 49]], name, 9))
    assert torch.equal(table.rows(ids, torch.zeros(3, 9)), found)


def test_a_row_wider_than_a_part_is_a_part_of_its_own(tmp_path):
    table = Table.open(make_table(tmp_path, TRIE, random_rows(3, 64), part_bytes=100))
    assert (table.num_rows, num_parts(tmp_path / "table")) == (3, 3)


def test_large_rows_make_one_page(tmp_path):
    """Some MB, far more than what Parquet writers put into a page if they may choose."""
    raw = np.random.default_rng(0).integers(256, size=(3000, 1500), dtype=np.uint8)
    write_rows(tmp_path, raw)
    assert np.array_equal(stored_rows(tmp_path / "rows-00000.parquet", 1500), raw)


def test_any_parquet_reader_reads_the_rows(tmp_path):
    rows = random_rows(50, 5)
    folder = make_table(tmp_path, TRIE, rows, part_bytes=200)
    raw = [bytes(row) for row in raw_of(rows)]
    paths = sorted(folder.glob("rows-*.parquet"))
    assert len(paths) == 3
    assert pl.read_parquet(paths)["embedding"].to_list() == raw
    assert [row["embedding"] for path in paths for row in pq.ParquetFile(path).read().to_pylist()] == raw
    assert pq.read_schema(paths[0]).equals(table_schema(10))


def test_the_index_is_found_again(tmp_path):
    table = Table.open(make_table(tmp_path, TRIE, random_rows(50, 4)))
    text = np.array(random_documents(1, NUM_TOKENS, [200])[0], np.uint32)
    expected = TRIE.index().match(text)
    assert [found.tolist() for found in table.index.match(text)] == [found.tolist() for found in expected]
    assert table.matcher().match(text).tolist() == expected[0].tolist()
    assert table.index.nbytes == index_bytes(50, NUM_TOKENS)


# ---- bad tables --------------------------------------------------------------------------------------------------

EMBEDDINGS = pa.table({"embedding": pa.array([bytes([i] * 64) for i in range(40)], pa.binary(64))}, table_schema(64))
SOUND = {
    "row_group_size": 40,
    "compression": "none",
    "use_dictionary": False,
    "max_rows_per_page": 40,
    "write_batch_size": 40,
    "write_statistics": False,
}


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "zstd"},
        {"use_dictionary": True},
        {"row_group_size": 20},
        {"max_rows_per_page": 20, "write_batch_size": 20},
        {"max_rows_per_page": 39, "write_batch_size": 39},
        {"data_page_version": "2.0"},
    ],
    ids=str,
)
def test_rows_that_do_not_lie_in_one_piece_are_refused(tmp_path, options):
    """All of these are sound Parquet files with the right rows, as another program may write them."""
    path = tmp_path / "rows-00000.parquet"
    write_parquet(path, table_schema(64), EMBEDDINGS, **SOUND)
    assert bytes(stored_rows(path, 64)[39]) == bytes([39] * 64)
    write_parquet(path, table_schema(64), EMBEDDINGS, **SOUND | options)
    with pytest.raises(DamagedArtifact, match=r"rows-00000\.parquet"):
        locate_rows(path, 64)


@pytest.mark.parametrize("row_bytes", [32, 63, 65, 128])
def test_rows_of_another_width_are_refused(tmp_path, row_bytes):
    write_rows(tmp_path, raw_of(random_rows(50, 32)))
    with refusal(DamagedArtifact, 64, row_bytes):
        locate_rows(tmp_path / "rows-00000.parquet", row_bytes)


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"embedding": pa.array([1, 2], pa.int64())}),
        pa.table({"embedding": pa.array([b"12345678"] * 2), "more": [1, 2]}),
        pa.table({"embedding": pa.array([b"12345678", None], pa.binary(8))}),
        pa.table({"embedding": pa.array([], pa.binary(8))}),
    ],
    ids=["integers", "two columns", "nulls", "no rows"],
)
def test_a_foreign_parquet_file_is_refused(tmp_path, table):
    path = tmp_path / "rows.parquet"
    write_parquet(path, table.schema, table, compression="none", use_dictionary=False)
    with pytest.raises(DamagedArtifact):
        locate_rows(path, 8)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"hello" * 100])
def test_what_is_no_parquet_file_is_refused(tmp_path, content):
    path = tmp_path / "rows.parquet"
    path.write_bytes(content)
    with pytest.raises(DamagedArtifact, match="Parquet"):
        locate_rows(path, 8)


def test_a_truncated_file_is_refused(tmp_path):
    folder = make_table(tmp_path, TRIE, random_rows(50, 8))
    path = folder / "rows-00000.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DamagedArtifact, match="bytes"):
        Table.open(folder)
    with pytest.raises(DamagedArtifact, match="Parquet"):
        locate_rows(path, 16)


def test_a_flipped_bit_is_found_when_every_byte_is_read(tmp_path):
    folder = make_table(tmp_path, TRIE, random_rows(50, 8))
    path = folder / "rows-00000.parquet"
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    Table.open(folder)
    with pytest.raises(DamagedArtifact, match="SHA-256"):
        Table.open(folder, hashes=True)


def test_rows_of_another_model_are_refused(tmp_path):
    folder = make_table(tmp_path, TRIE, random_rows(50, 8))
    model = Manifest("model", 1, "train-fgram", 1, "m" * 64, {}, {"vocab": "v" * 64}, "t" * 64, {})
    assert Table.open(folder, model=model).num_rows == 50
    trained_with_another = dataclasses.replace(model, inputs={"vocab": "w" * 64})
    assert Table.open(folder, model=trained_with_another).num_rows == 50
    for changed, facts in (
        ({"fingerprint": "n" * 64}, ["model", "m" * 12, "n" * 12]),
        ({"tokenizer": "u" * 64}, ["tokenizer", "t" * 12, "u" * 12]),
        ({"files": {"main.safetensors": FileStamp(1, "0")}}, ["weights"]),
    ):
        with refusal(MismatchedArtifacts, *facts, hint=("scone precompute",)):
            Table.open(folder, model=dataclasses.replace(model, **changed))


def test_rows_of_an_earlier_format_are_refused(tmp_path):
    folder = make_table(tmp_path, TRIE, random_rows(50, 8))
    write_manifest(folder, manifest(folder) | {"schema_version": 1})
    with refusal(MismatchedArtifacts, "format", "1", "4"):
        Table.open(folder)


def rewrite_unnoticed(path: Path, content: bytes) -> None:
    """Write a file of a table, as if it had been so when it was published."""
    described = manifest(path.parent)
    described["files"].pop(path.name)
    write_manifest(path.parent, described)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        (lambda _: b"no index", ["index"]),
        (lambda _: b"", ["index"]),
        (lambda content: content[:-64], ["bytes"]),
        (lambda content: content + bytes(64), ["bytes"]),
        (lambda content: content.replace(b'"dim": 8', b'"dim": 9'), ["'dim': 9", "manifest", "'dim': 8"]),
        (lambda content: content.replace(b'"max_n": 4', b'"max_n": 3'), ["'max_n': 3", "manifest", "'max_n': 4"]),
        (
            lambda content: content.replace(b"float16", b"bfloat16").replace(b"  ", b" ", 1),
            ["'bfloat16'", "manifest", "'float16'"],
        ),
    ],
)
def test_an_index_that_is_none_is_refused(tmp_path, change, facts):
    path = make_table(tmp_path, TRIE, random_rows(50, 8)) / "index.bin"
    rewrite_unnoticed(path, change(path.read_bytes()))
    with refusal(DamagedArtifact, *facts):
        Table.open(path.parent)


@pytest.mark.parametrize("setting", ["dtype", "dim", "num_fgrams", "num_tokens", "max_n"])
def test_a_manifest_that_does_not_say_how_to_read_is_refused(tmp_path, setting):
    folder = make_table(tmp_path, TRIE, random_rows(50, 8))
    described = manifest(folder)
    del described["settings"][setting]
    write_manifest(folder, described)
    with refusal(ForeignArtifact, setting):
        Table.open(folder)


def test_there_are_two_placements(tmp_path):
    with refusal(BadSetting, "placement", "'disk'", "mmap", "ram"):
        Table.open(make_table(tmp_path, TRIE, random_rows(50, 8)), "disk")


def test_parts_in_another_order_are_refused(tmp_path):
    """The last may have fewer rows than the others, not more."""
    folder = make_table(tmp_path, TRIE, random_rows(50, 8), part_bytes=500)
    parts = [folder / f"rows-0000{number}.parquet" for number in range(2)]
    for path, content in zip(parts, [path.read_bytes() for path in reversed(parts)], strict=True):
        rewrite_unnoticed(path, content)
    with refusal(DamagedArtifact, "31 rows"):
        Table.open(folder)


def test_a_missing_part_is_found(tmp_path):
    folder = make_table(tmp_path, TRIE, random_rows(50, 8), part_bytes=500)
    rewrite_unnoticed(folder / "rows-00001.parquet", b"")
    (folder / "rows-00001.parquet").unlink()
    with refusal(DamagedArtifact, "31 rows", "50 rows"):
        Table.open(folder)
