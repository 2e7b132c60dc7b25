"""A table whose files change or fail: one named error each, never a wrong row."""

from __future__ import annotations

import errno
import gc
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import make_table, random_documents, slow_ranking, trie_of
from messages import refusal
from spoiling import spoil

from scone_cli.artifacts.manifest import Manifest
from scone_cli.errors import DamagedArtifact, SconeError, StorageFailure
from scone_cli.table import fetch, stored_file
from scone_cli.table.table import PLACEMENTS, Table

NUM_TOKENS, MAX_N, DIM, NUM_ROWS = 20, 4, 256, 400
FGRAMS = slow_ranking(random_documents(0, NUM_TOKENS, [3000]), MAX_N, NUM_ROWS, 1)
TRIE = trie_of(FGRAMS, NUM_TOKENS, MAX_N)
TEXT = np.array(random_documents(1, NUM_TOKENS, [300])[0], np.uint32)
EVERY = np.arange(NUM_ROWS, dtype=np.uint32)
MODEL = Manifest("model", 1, "train-fgram", 1, "m" * 64, {}, {"vocab": "v" * 64}, "t" * 64, {})


def rows() -> torch.Tensor:
    return torch.randn(NUM_ROWS, DIM, generator=torch.Generator().manual_seed(0)).half()


@pytest.fixture
def remote(monkeypatch):
    """All files lie on the file system of another machine."""
    monkeypatch.setattr("scone_cli.table.table.is_local", lambda _: False)


# ---- files of another machine ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("remote")
def test_rows_of_another_machine_are_read_and_none_is_mapped(tmp_path):
    folder = make_table(tmp_path, TRIE, rows(), part_bytes=100 * DIM * 2)
    table = Table.open(folder)
    for _ in range(2 * fetch._CAREFUL):  # however long all of them are in the page cache
        assert torch.equal(table.rows(EVERY[::-1].copy()), rows().flip(0))
    assert str(folder) not in Path("/proc/self/maps").read_text()
    with pytest.raises(IndexError, match=f"{NUM_ROWS} rows"):
        table.rows(np.array([3, NUM_ROWS], np.uint32))


@pytest.mark.usefixtures("remote")
@pytest.mark.parametrize("cut", [10_000, 3 * 4096, 1])
def test_rows_of_a_file_that_shrinks(tmp_path, cut):
    """Where files are read. Rows before the cut are right, those beyond it are an error, and stay one."""
    folder = make_table(tmp_path, TRIE, rows(), part_bytes=100 * DIM * 2)
    table, path = Table.open(folder), folder / "rows-00001.parquet"
    part = table.stored._parts[1]
    os.truncate(path, part.start + part.num_rows * DIM * 2 - cut)
    assert torch.equal(table.rows(EVERY[:100]), rows()[:100])
    for _ in range(2):
        with refusal(DamagedArtifact, "rows-00001.parquet"):
            table.rows(EVERY[100:200])
    with pytest.raises(DamagedArtifact):
        table.rows(EVERY[199:200])


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/home/user/table", True),
        ("/data/table", False),
        ("/data/local disk/table", True),  # mounted below
        ("/database", True),
        ("/cloud/x", False),
        ("/twice/x", False),
        ("/données/x", False),
    ],
)
def test_what_is_local(tmp_path, path, expected):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        "40 22 0:40 / /data rw shared:2 master:1 - nfs4 server:/export rw\n"
        "41 40 8:2 / /data/local\\040disk rw - xfs /dev/sdb rw\n"
        "42 22 0:41 / /cloud rw - fuse.s3fs s3fs rw\n"
        "43 22 8:3 / /twice rw - ext4 /dev/sdc rw\n"
        "44 22 0:42 / /twice rw - cifs //server/share rw\n"
        "45 22 0:43 / /données rw - nfs server:/x rw\n"
    )
    with mounts.open("ab") as file:
        file.write(b"46 22 0:44 / /mnt/caf\xe9 rw - ext4 /dev/sdd rw\n")  # no UTF-8
    assert stored_file.is_local(Path(path), mounts) == expected
    assert stored_file.is_local(Path(path), tmp_path / "none")


# ---- files that change -------------------------------------------------------------------------------------------


def test_a_table_that_was_replaced_is_read_to_its_end(tmp_path):
    """As publishing does it: who has the old one open keeps it."""
    folder = make_table(tmp_path / "table", TRIE, rows())
    table = Table.open(folder)
    folder.rename(tmp_path / "old")
    make_table(tmp_path / "table", TRIE, -rows())
    shutil.rmtree(tmp_path / "old")
    assert torch.equal(table.rows(EVERY), rows())


def test_an_index_with_a_hole_answers_nothing(tmp_path):
    """As a file system may leave one after a power cut: lines of zeros, which no index has."""
    folder = make_table(tmp_path, TRIE, rows())
    content = (folder / "index.bin").read_bytes()
    (folder / "index.bin").write_bytes(content[:256] + bytes(len(content) - 256))
    table = Table.open(folder)
    with pytest.raises(DamagedArtifact, match="index"):
        table.index.match(TEXT)
    with pytest.raises(DamagedArtifact, match="index"):
        table.matcher().match(TEXT)
    one_by_one = table.matcher()
    with pytest.raises(DamagedArtifact, match="index"):
        [one_by_one.match(token) for token in np.split(TEXT, TEXT.size)]


def test_a_table_in_memory_needs_its_files_no_longer(tmp_path):
    folder = make_table(tmp_path, TRIE, rows())
    table = Table.open(folder, "ram")
    expected = table.index.match(TEXT)[0]
    for path in folder.iterdir():
        os.truncate(path, 0)
    assert torch.equal(table.rows(EVERY), rows())
    assert table.matcher().match(TEXT).tolist() == expected.tolist()


@pytest.mark.slow
def test_opening_a_table_leaves_signals_alone(tmp_path):
    """In a process of its own: pytest catches signals itself."""
    folder = make_table(tmp_path, TRIE, rows())
    code = f"""
import numpy as np
from pathlib import Path
from scone_cli.table import Table
def caught(): return next(line for line in open("/proc/self/status") if line.startswith("SigCgt"))
before = caught()
table = Table.open(Path({str(folder)!r}))
table.rows(np.zeros(1, np.uint32))
assert {str(folder)!r} in open("/proc/self/maps").read()
print(caught() == before)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.stdout, ended.stderr) == ("True\n", "")


def test_files_are_given_back(tmp_path):
    folder = make_table(tmp_path, TRIE, rows())
    gc.collect()  # of other tests
    num_files = len(list(Path("/proc/self/fd").iterdir()))
    table = Table.open(folder)
    assert str(folder) in Path("/proc/self/maps").read_text()
    assert torch.equal(table.rows(EVERY), rows())
    del table
    gc.collect()
    assert str(folder) not in Path("/proc/self/maps").read_text()
    assert len(list(Path("/proc/self/fd").iterdir())) == num_files


# ---- disks that fail ---------------------------------------------------------------------------------------------


def drop_from_cache(folder: Path) -> None:
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


@pytest.mark.skipif(not fetch.CAN_READ_WITHOUT_WAITING, reason="the page cache cannot be asked here")
def test_rows_that_are_not_in_the_page_cache_are_read(tmp_path):
    folder = make_table(tmp_path, TRIE, rows(), part_bytes=100 * DIM * 2)
    table = Table.open(folder)
    for ids in (EVERY[::-1].copy(), np.full(20, 7, np.uint32), EVERY[:1]):
        drop_from_cache(folder)
        assert torch.equal(table.rows(ids), rows()[ids.astype(np.int64)])


def test_a_disk_that_fails_a_read(tmp_path, monkeypatch):
    """As far as it can be played without one: the descriptor that the kernel has is none, and then Python's read fails too."""
    folder = make_table(tmp_path, TRIE, rows(), part_bytes=100 * DIM * 2)
    table = Table.open(folder)
    table.stored._described[fetch._ROWS_BYTES :].view(fetch._PART)["descriptor"] = 10_000
    assert torch.equal(table.rows(EVERY), rows())  # what the kernel has not read is read again

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    with refusal(StorageFailure, "rows-00000.parquet"):
        table.rows(EVERY)


def test_a_disk_that_fails_as_a_table_is_opened(tmp_path, monkeypatch):
    """What pyarrow raises then; that the file is none it says with an OSError as well, but one without a number."""
    folder = make_table(tmp_path, TRIE, rows())

    def fail(_):
        raise OSError(errno.EIO, "Error reading bytes from file")

    monkeypatch.setattr("scone_cli.table.layout.pq.read_metadata", fail)
    with refusal(StorageFailure, "rows-00000.parquet"):
        Table.open(folder)


# ---- fuzz --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [300, pytest.param(3_000, marks=pytest.mark.slow)])
def test_spoilt_tables_are_refused_or_say_the_same(tmp_path, count):
    """With all bytes checked nothing that was spoilt gives another answer; without, it is a named error or an answer."""
    folder = make_table(tmp_path, TRIE, rows())
    paths = sorted(folder.iterdir())
    sound = {path: path.read_bytes() for path in paths}
    ids = Table.open(folder).index.match(TEXT)[0]
    chance = random.Random(count)
    refused = 0
    for number in range(count):
        path = chance.choice(paths)
        path.write_bytes(spoilt := spoil(sound[path], chance))
        all_bytes = chance.random() < 0.7
        try:
            table = Table.open(folder, chance.choice(PLACEMENTS), model=MODEL, hashes=all_bytes)
            found, answer = table.matcher().match(TEXT), table.rows(EVERY)
        except SconeError:
            refused += 1
        else:
            is_same = found.tolist() == ids.tolist() and torch.equal(answer, rows())
            assert is_same or not all_bytes, (number, path.name, spoilt[:2000])
        path.write_bytes(sound[path])
    assert count / 2 < refused <= count
