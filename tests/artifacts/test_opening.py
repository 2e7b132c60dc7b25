"""Files opened for libraries: any name, and no flipped bit that ends the process."""

import os
import re
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

import scone_cli
from scone_cli.artifacts.opening import load_weights, scan, to_read, to_write, utf8_name
from scone_cli.errors import SconeError
from scone_cli.report.describe import _read
from scone_cli.table.layout import locate_rows, write_rows

TABLE = pa.table({"a": [1, 2, 3]})


@pytest.mark.parametrize("name", ["run:1", "s3:", "~", "a*[b]?", "a\nb", "%20", os.fsdecode(b"caf\xe9"), "x" * 200])
def test_a_name_is_only_a_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    folder = Path(name)
    folder.mkdir()
    with to_write(folder / "a") as file:
        pq.write_table(TABLE, file)
    assert pq.read_table(to_read(folder / "a")).equals(TABLE)
    assert scan(folder / "a").filter(pl.col("a") > 1).collect().to_dict(as_series=False) == {"a": [2, 3]}
    save_file({"w": torch.ones(2)}, folder / "b")
    assert load_weights(folder / "b")["w"].tolist() == [1, 1]
    with utf8_name(folder / "b") as said:
        assert Path(said).read_bytes() == (folder / "b").read_bytes()


def test_no_library_is_given_a_name():
    """It would not be seen until somebody has a colon in a path."""
    by_name = re.compile(
        r"pq\.(?:read_\w+|ParquetFile|ParquetWriter)\((?!\s*(?:to_read|content|file|self\._file|pa\.))|pl\.(?:scan|read)_|safe_open\((?!name)"
    )
    sources = {path: path.read_text() for path in Path(scone_cli.__file__).parent.rglob("*.py")}
    assert [path.name for path, source in sources.items() if by_name.search(source)] == ["opening.py"]


def test_files_are_closed_again(tmp_path):
    with to_write(tmp_path / "a") as file:
        pq.write_table(TABLE, file)
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    for _ in range(50):
        pq.ParquetFile(to_read(tmp_path / "a")).read()
        scan(tmp_path / "a").collect()
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) <= before + 5


def test_no_bit_of_a_footer_ends_the_process(tmp_path):
    """Asked for some properties of a damaged footer, pyarrow aborts."""
    write_rows(tmp_path, np.arange(40, dtype=np.uint8).reshape(10, 4))
    (path,) = tmp_path.glob("rows-*.parquet")
    whole = path.read_bytes()
    refused = 0
    for at in range(len(whole) - 260, len(whole)):
        for value in (whole[at] ^ 0x3F, 0x7C):
            path.write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
            try:
                locate_rows(path, 4)
                _read(path, lambda file: file.metadata.num_rows)
            except SconeError:
                refused += 1
    assert refused > 100
