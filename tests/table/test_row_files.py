"""The files of rows while they are made: what is written in any order is what Parquet would have written at once."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scone_cli.artifacts.publish import write_parquet
from scone_cli.artifacts.schemas import table_schema
from scone_cli.table.layout import locate_rows
from scone_cli.table.row_files import RowFiles

SHAPES = [(1, 1, 1), (50, 7, 100), (50, 7, 7), (300, 520, 1 << 20), (40, 2000, 30_000)]


def random_raw(num_rows: int, row_bytes: int) -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(num_rows, row_bytes), dtype=np.uint8)


def write_at_once(folder: Path, raw: np.ndarray, rows_per_part: int) -> None:
    """The same files from all rows: the slow twin."""
    for number, first in enumerate(range(0, len(raw), rows_per_part)):
        part = raw[first : first + rows_per_part]
        column = pa.array([bytes(row) for row in part], pa.binary(raw.shape[1]))
        write_parquet(
            folder / f"rows-{number:05d}.parquet",
            table_schema(raw.shape[1]),
            pa.table([column], schema=table_schema(raw.shape[1])),
            row_group_size=len(part),
            compression="none",
            use_dictionary=False,
            write_statistics=False,
            data_page_size=part.nbytes,
            max_rows_per_page=len(part),
            write_batch_size=len(part),
        )


@pytest.mark.parametrize(("num_rows", "row_bytes", "part_bytes"), SHAPES)
def test_rows_written_in_any_order_make_the_files_that_all_rows_at_once_make(tmp_path, num_rows, row_bytes, part_bytes):
    raw, order = random_raw(num_rows, row_bytes), np.random.default_rng(1).permutation(num_rows)
    files = RowFiles(tmp_path / "some", num_rows, row_bytes, part_bytes)
    for folder in ("some", "once"):
        (tmp_path / folder).mkdir()
    files.create()
    for ids in np.array_split(order, 3):
        files.write(ids, raw[ids])
    write_at_once(tmp_path / "once", raw, files.rows_per_part)
    found, expected = (sorted((tmp_path / folder).iterdir()) for folder in ("some", "once"))
    assert [path.name for path in found] == [path.name for path in expected]
    assert [path.read_bytes() for path in found] == [path.read_bytes() for path in expected]
    some = np.sort(order[: num_rows // 2])
    assert np.array_equal(files.read(some), raw[some])


def test_before_they_are_written_rows_are_zeros_in_files_that_take_their_disk(tmp_path):
    RowFiles(tmp_path, 1000, 512, 300 * 512).create()
    paths = sorted(tmp_path.iterdir())
    assert [locate_rows(path, 512)[1] for path in paths] == [300, 300, 300, 100]
    assert pq.read_table(paths[3])["embedding"].to_pylist() == [bytes(512)] * 100
    assert sum(path.stat().st_blocks * 512 for path in paths) >= 1000 * 512
    assert sum(path.stat().st_size for path in paths) <= 1.02 * 1000 * 512


def test_files_that_are_there_are_kept(tmp_path):
    """As after a crash: what is in them stays, what is missing is made."""
    files, raw = RowFiles(tmp_path, 20, 8, 80), random_raw(20, 8)
    files.create()
    files.write(np.arange(20), raw)
    (tmp_path / "rows-00001.parquet").unlink()
    files.create()
    assert np.array_equal(files.read(np.arange(10)), raw[:10])
    assert not files.read(np.arange(10, 20)).any()


def test_what_the_system_refuses_to_write_is_said(tmp_path):
    files = RowFiles(tmp_path, 100, 800)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, before[1]))
        with pytest.raises(OSError, match="File too large"):
            files.create()
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        files.create()
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, before[1]))
        files.write(np.arange(40), random_raw(40, 800))
        with pytest.raises(OSError, match="File too large"):
            files.write(np.arange(40, 60), random_raw(20, 800))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
