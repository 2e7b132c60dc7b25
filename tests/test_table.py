"""The table: what is written is what is mapped, for any Parquet reader too; bad files are refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from builders import make_table, random_documents, raw_of, slow_ranking, tiny_model, trie_of
from torch import Tensor

from scone_cli.artifacts import MANIFEST, Manifest, write_parquet
from scone_cli.errors import DamagedArtifact, MismatchedArtifacts
from scone_cli.progress import silent
from scone_cli.schemas import table_schema
from scone_cli.stages import precompute
from scone_cli.table import DTYPES, Table, map_rows, token_order_chunks, write_rows

NUM_TOKENS, MAX_N = 7, 4
FGRAMS = slow_ranking(random_documents(0, NUM_TOKENS, [300]), MAX_N, 50, 1)
TRIE = trie_of(FGRAMS, NUM_TOKENS, MAX_N)
PARAMETRIZE_DTYPE = pytest.mark.parametrize("dtype", DTYPES)


def random_rows(num_rows: int, dim: int, dtype: str = "float16") -> Tensor:
    return torch.randn(num_rows, dim, generator=torch.Generator().manual_seed(0)).to(DTYPES[dtype])


# ---- written = mapped --------------------------------------------------------------------------------------------


@PARAMETRIZE_DTYPE
@pytest.mark.parametrize(("num_rows", "dim"), [(1, 1), (1, 64), (50, 3), (50, 17), (37, 128)])
@pytest.mark.parametrize("rows_a_part", [1000, 7, 1])
def test_mapped_rows_are_the_written_ones(tmp_path, dtype, num_rows, dim, rows_a_part):
    rows = random_rows(num_rows, dim, dtype)
    row_bytes = dim * rows.element_size()
    table = Table.open(make_table(tmp_path, TRIE, rows, part_bytes=rows_a_part * row_bytes + 1))
    assert len(table.parts) == -(-num_rows // rows_a_part)
    assert (table.num_rows, table.dim, table.dtype, table.row_bytes) == (num_rows, dim, rows.dtype, row_bytes)
    order = np.random.default_rng(0).integers(num_rows, size=80).astype(np.uint32)
    for ids in (order, order[:1], order[:0]):
        found = table.rows(ids)
        assert found.dtype == rows.dtype
        assert torch.equal(found, rows[ids.astype(np.int64)])


def test_a_row_wider_than_a_part_is_a_part_of_its_own(tmp_path):
    table = Table.open(make_table(tmp_path, TRIE, random_rows(3, 64), part_bytes=100))
    assert [len(part) for part in table.parts] == [1, 1, 1]


def test_large_rows_make_one_page(tmp_path):
    """Some MB, far more than what Parquet writers put into a page if they may choose."""
    raw = np.random.default_rng(0).integers(256, size=(3000, 1500), dtype=np.uint8)
    write_rows(tmp_path, raw)
    assert np.array_equal(map_rows(tmp_path / "rows-00000.parquet", 1500), raw)


def test_any_parquet_reader_reads_the_rows(tmp_path):
    rows = random_rows(50, 5)
    folder = make_table(tmp_path, TRIE, rows, part_bytes=200)
    raw = [bytes(row) for row in raw_of(rows)]
    paths = sorted(folder.glob("rows-*.parquet"))
    assert len(paths) == 3
    assert pl.read_parquet(paths)["embedding"].to_list() == raw
    assert [row["embedding"] for path in paths for row in pq.ParquetFile(path).read().to_pylist()] == raw
    assert pq.read_schema(paths[0]).equals(table_schema(10))


def test_the_index_is_found_again_at_16_bytes_an_fgram(tmp_path):
    table = Table.open(make_table(tmp_path, TRIE, random_rows(50, 4)))
    text = np.array(random_documents(1, NUM_TOKENS, [200])[0], np.uint32)
    expected = TRIE.index().match(text)
    assert [found.tolist() for found in table.index.match(text)] == [found.tolist() for found in expected]
    assert table.matcher().match(text).tolist() == expected[0].tolist()
    bytes_ = table.index.slots.nbytes + table.index.values.nbytes
    assert 16 * 50 - 12 <= bytes_ <= 16 * 50 + 12 * 8  # and a few spare slots, which matter to tiny tables only


# ---- precompute --------------------------------------------------------------------------------------------------


@PARAMETRIZE_DTYPE
def test_precomputed_rows_are_the_live_ones(tmp_path, monkeypatch, dtype):
    """In chunks of 8 that do not fit 50, written back in the order of ids."""
    monkeypatch.setattr(precompute, "CHUNK", 8)
    model = tiny_model(NUM_TOKENS, MAX_N, combine="add", learned_rows=20)
    raw = precompute._compute_rows(model, TRIE, dtype, tmp_path, silent)
    table = Table.open(make_table(tmp_path, TRIE, torch.from_numpy(np.array(raw)).view(DTYPES[dtype])))
    ids = np.arange(50)[::-3]
    live = model.rows(TRIE, ids).detach()
    exact = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1e-2}[dtype]
    torch.testing.assert_close(table.rows(ids.astype(np.uint32)).float(), live, rtol=exact, atol=exact)


def test_chunks_are_in_token_order():
    chunks = token_order_chunks(TRIE.token_order(), 8)
    assert [len(chunk) for chunk in chunks] == [8] * 6 + [2]
    assert [FGRAMS[i] for chunk in chunks for i in chunk] == sorted(FGRAMS)
    scattered = token_order_chunks(np.random.default_rng(0).permutation(50), 8)
    assert sum(TRIE.subtrie(c)[0].num_nodes for c in chunks) < sum(TRIE.subtrie(c)[0].num_nodes for c in scattered)


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
    assert bytes(map_rows(path, 64)[39]) == bytes([39] * 64)
    write_parquet(path, table_schema(64), EMBEDDINGS, **SOUND | options)
    with pytest.raises(DamagedArtifact, match=r"rows-00000\.parquet"):
        map_rows(path, 64)


@pytest.mark.parametrize("row_bytes", [32, 63, 65, 128])
def test_rows_of_another_width_are_refused(tmp_path, row_bytes):
    write_rows(tmp_path, raw_of(random_rows(50, 32)))
    with pytest.raises(DamagedArtifact, match=f"rows of 64 bytes.*expected rows of {row_bytes}"):
        map_rows(tmp_path / "rows-00000.parquet", row_bytes)


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
        map_rows(path, 8)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"hello" * 100])
def test_what_is_no_parquet_file_is_refused(tmp_path, content):
    path = tmp_path / "rows.parquet"
    path.write_bytes(content)
    with pytest.raises(DamagedArtifact, match="not a Parquet file"):
        map_rows(path, 8)


def test_a_truncated_file_is_refused(tmp_path):
    folder = make_table(tmp_path, TRIE, random_rows(50, 8))
    path = folder / "rows-00000.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DamagedArtifact, match="bytes, expected"):
        Table.open(folder)
    with pytest.raises(DamagedArtifact, match="not a Parquet file"):
        map_rows(path, 16)


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
    model = Manifest("model", 1, "train-fgram", 1, "m" * 64, {}, {}, "t" * 64, 0, {})
    assert Table.open(folder, model=model).num_rows == 50
    with pytest.raises(MismatchedArtifacts, match=f"rows of model {'m' * 12}, expected those of {'n' * 12}") as caught:
        Table.open(folder, model=dataclasses.replace(model, fingerprint="n" * 64))
    assert caught.value.hint == "run: scone precompute"


def test_rows_of_an_earlier_format_are_refused(tmp_path):
    folder = make_table(tmp_path, TRIE, random_rows(50, 8))
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | {"schema_version": 1}))
    with pytest.raises(MismatchedArtifacts, match="rows in format 1, expected format 2"):
        Table.open(folder)


def forget_the_size_of(folder: Path, name: str) -> None:
    """Leave a file out of the manifest, as if it had been of that size when it was published."""
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text.replace(f'"{name}"', '"vocab.parquet"'))
    (folder / "vocab.parquet").write_bytes((folder / name).read_bytes())


@pytest.mark.parametrize(
    "array",
    [None, np.zeros(80, np.int64), np.zeros((40, 2), np.uint64), np.zeros(20, np.uint64)],
    ids=["no array", "other type", "two axes", "too short"],
)
def test_an_index_that_is_none_is_refused(tmp_path, array):
    folder = make_table(tmp_path, TRIE, random_rows(50, 8))
    path = folder / "index.slots.npy"
    forget_the_size_of(folder, path.name)
    if array is None:
        path.write_bytes(b"no array")
    else:
        np.save(path, array)
    with pytest.raises(DamagedArtifact):
        Table.open(folder)


def test_a_missing_part_is_found(tmp_path):
    folder = make_table(tmp_path, TRIE, random_rows(50, 8), part_bytes=500)
    forget_the_size_of(folder, "rows-00001.parquet")
    (folder / "rows-00001.parquet").unlink()
    with pytest.raises(DamagedArtifact, match=r"31 rows .* expected 50 rows"):
        Table.open(folder)
