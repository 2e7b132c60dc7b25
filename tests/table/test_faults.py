"""A table whose files change, shrink or fail: one named error each, never a wrong row, and the process lives on."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import make_table, random_documents, slow_ranking, trie_of
from messages import refusal

from scone_cli.artifacts.manifest import Manifest
from scone_cli.errors import DamagedArtifact, SconeError, StorageFailure
from scone_cli.table import fetch, mapped_files
from scone_cli.table.mapped_files import MappedFile
from scone_cli.table.table import PLACEMENTS, Table

NUM_TOKENS, MAX_N, DIM, NUM_ROWS = 20, 4, 256, 400
FGRAMS = slow_ranking(random_documents(0, NUM_TOKENS, [3000]), MAX_N, NUM_ROWS, 1)
TRIE = trie_of(FGRAMS, NUM_TOKENS, MAX_N)
TEXT = np.array(random_documents(1, NUM_TOKENS, [300])[0], np.uint32)
EVERY = np.arange(NUM_ROWS, dtype=np.uint32)
MODEL = Manifest("model", 1, "train-fgram", 1, "m" * 64, {}, {"vocab": "v" * 64}, "t" * 64, 0, {})


def rows() -> torch.Tensor:
    return torch.randn(NUM_ROWS, DIM, generator=torch.Generator().manual_seed(0)).half()


def rows_are_known_to_be_cached(table: Table) -> None:
    """From now on they are copied from the mapped files; it takes some reads, and on a busy machine more."""
    table.rows(EVERY)
    table.stored._careful = 0


needs_mapping = pytest.mark.skipif(not mapped_files.can_map(), reason="files are read into memory here")


# ---- files that shrink -------------------------------------------------------------------------------------------


@needs_mapping
@pytest.mark.parametrize("are_cached", [False, True])
@pytest.mark.parametrize("cut", [10_000, 3 * 4096, 1])
def test_rows_of_a_file_that_shrinks(tmp_path, are_cached, cut):
    """Rows before the cut are right, those beyond it are an error, and stay one."""
    folder = make_table(tmp_path, TRIE, rows(), part_bytes=100 * DIM * 2)
    table, path = Table.open(folder), folder / "rows-00001.parquet"
    if are_cached:
        rows_are_known_to_be_cached(table)
    part = table.stored._parts[1]
    os.truncate(path, part.start + part.num_rows * DIM * 2 - cut)
    assert torch.equal(table.rows(EVERY[:100]), rows()[:100])
    for _ in range(2):
        with refusal(DamagedArtifact, "rows-00001.parquet"):
            table.rows(EVERY[100:200])
    with pytest.raises(DamagedArtifact):
        table.rows(EVERY[199:200])


@needs_mapping
def test_what_befalls_one_table_is_no_other_ones(tmp_path):
    first, second = (make_table(tmp_path / name, TRIE, rows()) for name in "ab")
    tables = [Table.open(folder) for folder in (first, second)]
    for table in tables:
        rows_are_known_to_be_cached(table)
    os.truncate(first / "rows-00000.parquet", 4096)
    with pytest.raises(DamagedArtifact):
        tables[0].rows(EVERY)
    assert torch.equal(tables[1].rows(EVERY), rows())


@needs_mapping
@pytest.mark.parametrize("size", [0, 256, 256 + 64 * 30 + 7])
def test_an_index_that_shrinks(tmp_path, size):
    folder = make_table(tmp_path, TRIE, rows())
    table = Table.open(folder)
    os.truncate(folder / "index.bin", size)
    with pytest.raises(DamagedArtifact, match="index"):
        table.index.match(TEXT)
    with pytest.raises(DamagedArtifact, match="index"):
        table.matcher().match(TEXT)


@needs_mapping
@pytest.mark.parametrize("cut", [4, 12, 36, 50, 63])
def test_a_line_of_the_index_that_is_cut_through_answers_nothing(tmp_path, cut):
    """Each bigram is asked for alone: those whose line is whole too, as nobody can know."""
    folder = make_table(tmp_path, TRIE, rows())
    content = (folder / "index.bin").read_bytes()
    for line in (0, 100, len(content) // 64 - 5):
        (folder / "index.bin").write_bytes(content)
        table = Table.open(folder)
        os.truncate(folder / "index.bin", 256 + 64 * line + cut)
        for fgram in [fgram for fgram in FGRAMS if len(fgram) == 2]:
            tokens, one_by_one = np.array(fgram, np.uint32), table.matcher()
            with pytest.raises(DamagedArtifact, match="index"):
                table.index.match(tokens)
            with pytest.raises(DamagedArtifact, match="index"):
                table.matcher().match(tokens)
            with pytest.raises(DamagedArtifact, match="index"):
                [one_by_one.match(token) for token in np.split(tokens, 2)]


def test_a_table_in_memory_needs_its_files_no_longer(tmp_path):
    folder = make_table(tmp_path, TRIE, rows())
    table = Table.open(folder, "ram")
    expected = table.index.match(TEXT)[0]
    for path in folder.iterdir():
        os.truncate(path, 0)
    assert torch.equal(table.rows(EVERY), rows())
    assert table.matcher().match(TEXT).tolist() == expected.tolist()


def num_mapped() -> int:
    return len(mapped_files._taken) - len(mapped_files._freed)


@needs_mapping
def test_mapped_files_are_given_back(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(10_000))
    before = num_mapped()
    files = [MappedFile(path) for _ in range(3)]
    assert len({file.address for file in files}) == 3
    middle, kept = files[1].address, files[0].bytes()
    del files
    assert num_mapped() == before + 1  # the array keeps its file
    assert kept.sum() == 0
    again = MappedFile(path)
    assert again.address == middle


@needs_mapping
def test_a_fault_that_is_not_ours_ends_the_process_as_ever(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(8192))
    code = f"""
import mmap, os
from scone_cli.table.mapped_files import can_map
assert can_map()
with open({str(path)!r}, "r+b") as file:
    mapped = mmap.mmap(file.fileno(), 8192)
    os.truncate({str(path)!r}, 0)
    print(mapped[5000])
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert ended.returncode == -7
    assert not ended.stdout


def test_a_page_that_is_lost_as_others_are_looked_for_is_not_forgotten(tmp_path, monkeypatch):
    """By another thread, for example: the next read must look again."""
    table, lost = Table.open(make_table(tmp_path, TRIE, rows())), [7]
    monkeypatch.setattr(fetch, "lost_pages", lambda: lost[0])
    monkeypatch.setattr(MappedFile, "damage", lambda _: lost.insert(0, 8))
    table.stored._explain(fetch.SUSPECT, EVERY)
    assert table.stored._numbers[fetch.KNOWN] == 7


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


@needs_mapping
def test_a_disk_that_fails_a_read(tmp_path):
    """As far as it can be played without one: the file's descriptor is gone, and its pages are not in memory."""
    folder = make_table(tmp_path, TRIE, rows())
    table = Table.open(folder)
    table.stored._numbers[fetch.PARTS + 1] = 10_000
    with refusal(StorageFailure, "rows-00000.parquet"):
        table.rows(EVERY)


def test_a_disk_that_fails_as_a_table_is_opened(tmp_path, monkeypatch):
    """What pyarrow raises then; that the file is none it says with an OSError as well, but one without a number."""
    folder = make_table(tmp_path, TRIE, rows())

    def fail(_):
        raise OSError(errno.EIO, "Error reading bytes from file")

    monkeypatch.setattr("scone_cli.table.table.pq.read_metadata", fail)
    with refusal(StorageFailure, "rows-00000.parquet"):
        Table.open(folder)


# ---- fuzz --------------------------------------------------------------------------------------------------------


def spoil(content: bytes, chance: random.Random) -> bytes:
    """A bit, a byte or a stretch is another, or it is shorter or longer, somewhere."""
    at, spoilt = chance.randrange(len(content)), bytearray(content)
    match chance.randrange(6):
        case 0 | 1:
            spoilt[at] ^= 1 << chance.randrange(8)
        case 2:
            spoilt[at] = chance.randrange(256)
        case 3:
            end = min(len(content), at + chance.choice([2, 8, 100]))
            spoilt[at:end] = chance.randbytes(end - at)
        case 4:
            del spoilt[at : at + chance.choice([1, 8, len(content)])]
        case _:
            spoilt[at:at] = chance.choice([b"0", b" ", bytes(8), b"9" * 20])
    return bytes(spoilt)


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
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
