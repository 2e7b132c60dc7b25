"""LMDB's size by its rules against LMDB itself, and a dictionary's entry against Python's own count."""

import sys

import pytest

from scone_cli.evaluation.model_cost import DICTIONARY_BYTES, dictionary_bytes, lmdb_bytes


@pytest.mark.parametrize(
    ("rows", "row_bytes", "key_bytes"),
    [
        (1, 1, 1),
        (5000, 4096, 20),  # two pages each, as the paper's rows
        (5000, 4080, 20),  # one page, full
        (5000, 4081, 20),
        (20_000, 512, 12),  # in the leaves
        (3000, 2010, 20),  # the longest that lie there
        (3000, 2011, 20),
        (20_000, 99, 7),  # an odd length
    ],
)
def test_lmdb_takes_what_it_takes(tmp_path, rows, row_bytes, key_bytes):
    lmdb = pytest.importorskip("lmdb")
    environment = lmdb.open(str(tmp_path), map_size=1 << 28, sync=False)
    with environment.begin(write=True) as transaction:
        for row in range(rows):
            transaction.put(row.to_bytes(key_bytes, "big"), b"x" * row_bytes, append=True)
    environment.close()
    assert (tmp_path / "data.mdb").stat().st_size == lmdb_bytes(rows, row_bytes, key_bytes)


def test_no_rows_take_only_what_says_so():
    assert lmdb_bytes(0, 4096, 20) == 2 * 4096
    assert dictionary_bytes(0, 4096) == 0


def test_a_dictionary_takes_what_python_says():
    """Without the rows: tuples of five numbers that no other shares, and the row numbers."""
    count = 50_000
    entries = {tuple(range(10**6 + 5 * row, 10**6 + 5 * row + 5)): 10**6 + row for row in range(count)}
    rounded = 32  # of the 28 bytes of a number, by the allocator
    collected = 16  # before every tuple
    tuples = sum(sys.getsizeof(key) + collected + rounded * len(key) for key in entries)
    found = (sys.getsizeof(entries) + tuples + rounded * count) / count
    assert found == pytest.approx(DICTIONARY_BYTES, rel=0.1)
    assert dictionary_bytes(10, 100) == 10 * (100 + DICTIONARY_BYTES)
