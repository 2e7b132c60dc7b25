"""Merges runs, the sorted n-grams that each counting task writes, into `counts/n=<n>.parquet`.

A merge goes window by window. A window is one piece of every run; together these pieces are the next rows of the result. A
sample of the rows tells where to cut. So memory does not grow with the number of n-grams. If all n-grams fit, there is one
window.
"""

from __future__ import annotations

import bisect
import contextlib
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from scone_cli.artifacts.opening import to_write
from scone_cli.artifacts.publish import beside_of, fsync
from scone_cli.artifacts.schemas import counts_schema
from scone_cli.progress import Clock

if TYPE_CHECKING:
    from scone_cli.counting.partition import U32, U64
    from scone_cli.counting.sort import Ngrams

ROW_GROUP = 1 << 20  # rows; fixed, so that files do not depend on the memory limit


def write_run(path: Path, ngrams: Ngrams, lasting: bool = False) -> None:
    """Write sorted n-grams of one length as a run: column after column, in the machine's byte order."""
    with appearing(path, lasting) as file:
        for column in (ngrams.tokens, ngrams.counts, ngrams.docs):
            column.tofile(file)


def num_rows(run: Path, n: int) -> int:
    """The number of n-grams in a run, from the size of its file."""
    return run.stat().st_size // (4 * n + 8 + 4)


def _read_rows(run: Path, n: int, begin: int, end: int) -> tuple[U32, U64, U32]:
    """Read the tokens, counts and documents of rows [begin, end) of a run."""
    rows, size = num_rows(run, n), end - begin
    tokens = np.fromfile(run, np.uint32, n * size, offset=4 * n * begin).reshape(size, n)
    counts = np.fromfile(run, np.uint64, size, offset=4 * n * rows + 8 * begin)
    return tokens, counts, np.fromfile(run, np.uint32, size, offset=(4 * n + 8) * rows + 4 * begin)


def merge_runs(runs: Sequence[Path], n: int, target: Path, most_rows: int, clock: Clock, lasting: bool = False) -> int:
    """Merge the runs of one length into `counts/n=<n>.parquet`, with about `most_rows` rows in memory at a time.

    Returns the total occurrences of its n-grams.
    """
    total = 0
    with _CountsWriter(target, n, lasting) as writer:
        for window in _windows(runs, n, most_rows):
            total += _merge_window(window, n, writer, clock)
    clock("writing counts")
    return total


def _merge_window(window: _Window, n: int, writer: _CountsWriter, clock: Clock) -> int:
    from scone_cli.counting.sort import merged  # heavy: only where tasks are run

    bounds = np.cumsum([0, *(end - begin for _, (begin, end) in window)])
    rows = _read_window(window, n)
    clock("reading runs")
    ngrams = merged(rows, bounds)
    del rows
    clock("ordering")
    writer.write(ngrams)
    clock("writing counts")
    return int(ngrams.counts.sum())


def _read_window(window: _Window, n: int) -> Ngrams:
    from scone_cli.counting.sort import Ngrams  # heavy: only where tasks are run

    pieces = [_read_rows(run, n, begin, end) for run, (begin, end) in window]
    return Ngrams(*(np.concatenate(column) for column in zip(*pieces, strict=True)))


_Window = list[tuple[Path, tuple[int, int]]]
_SAMPLED = 64  # every 64th row is sampled, to find where to cut


def _windows(runs: Sequence[Path], n: int, most_rows: int) -> Iterator[_Window]:
    """Cut sorted runs into consecutive windows of the result, of about `most_rows` rows each."""
    rows = {run: num_rows(run, n) for run in runs}
    if sum(rows.values()) <= most_rows:
        yield [(run, (0, rows[run])) for run in runs]
        return
    begins = dict.fromkeys(runs, 0)
    for cut in [*_cuts(runs, n, max(1, most_rows // _SAMPLED)), None]:
        ends = rows if cut is None else {run: _first_row_from(cut, run, n, begins[run]) for run in runs}
        yield [(run, (begins[run], ends[run])) for run in runs]
        begins = ends


# The sort key of a row: minus its count, then its first two tokens. Two tokens are enough to tell rows of different runs
# apart, because no two runs share a bucket. Rows are read, not mapped: mapped files count as memory of the process.
_Key = tuple[int, int, int]


def _cuts(runs: Sequence[Path], n: int, step: int) -> list[_Key]:
    """Every `step`-th of the sampled keys, sorted; sorted as arrays, since there may be millions."""
    sampled = [rows for run in runs for rows in _sampled_rows(run, n)]
    pairs, counts = (np.concatenate(column) for column in zip(*sampled, strict=True))
    chosen = np.lexsort((pairs[:, 1], pairs[:, 0], ~counts))[step::step]
    return [(-int(count), *pair) for count, pair in zip(counts[chosen], pairs[chosen].tolist(), strict=True)]


def _sampled_rows(run: Path, n: int) -> Iterator[tuple[U32, U64]]:
    """The first two tokens and the count of every `_SAMPLED`-th row of a run, in pieces."""
    rows, size = num_rows(run, n), _SAMPLED << 12
    for begin in range(0, rows, size):
        tokens, counts, _ = _read_rows(run, n, begin, min(begin + size, rows))
        yield tokens[::_SAMPLED, :2].copy(), counts[::_SAMPLED].copy()


def _first_row_from(cut: _Key, run: Path, n: int, begin: int) -> int:
    """The first row at or after `begin` whose key is at least `cut`, by bisection."""
    rows = num_rows(run, n)
    with run.open("rb", buffering=0) as file:

        def key(row: int) -> _Key:
            (count,) = struct.unpack("=Q", os.pread(file.fileno(), 8, 4 * n * rows + 8 * row))
            return -count, *struct.unpack("=II", os.pread(file.fileno(), 8, 4 * n * row))

        return bisect.bisect_left(range(rows), cut, begin, key=key)


class _CountsWriter:
    """Writes `counts/n=<n>.parquet` from sorted n-grams, in row groups of `ROW_GROUP` rows."""

    def __init__(self, path: Path, n: int, lasting: bool) -> None:
        self._path, self._schema, self._lasting = path, counts_schema(n), lasting
        self._waiting: list[pa.Table] = []
        self._num_waiting = 0

    def __enter__(self) -> Self:
        self._beside = beside_of(self._path)
        # Counts repeat often, so dictionary encoding pays for them. Lists of token ids hardly repeat.
        options = {"compression": "zstd", "use_dictionary": ["count", "docs"]}
        self._file = to_write(self._beside)
        self._writer = pq.ParquetWriter(self._file, self._schema, **options)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._num_waiting:
            self._flush(self._num_waiting)
        with self._file:
            self._writer.close()
        if kind is None:
            if self._lasting:
                fsync(self._beside)
            self._beside.replace(self._path)

    def write(self, ngrams: Ngrams) -> None:
        self._waiting.append(counts_table(ngrams))
        self._num_waiting += len(ngrams)
        while self._num_waiting >= ROW_GROUP:
            self._flush(ROW_GROUP)

    def _flush(self, size: int) -> None:
        whole = pa.concat_tables(self._waiting)
        self._writer.write_table(whole.slice(0, size).combine_chunks(), size)
        self._waiting, self._num_waiting = [whole.slice(size)], self._num_waiting - size


def write_counts(path: Path, ngrams: Ngrams, lasting: bool = False) -> None:
    """Write sorted n-grams as `counts/n=<n>.parquet`."""
    with _CountsWriter(path, ngrams.tokens.shape[1], lasting) as writer:
        writer.write(ngrams)


def counts_table(ngrams: Ngrams) -> pa.Table:
    """The n-grams as an Arrow table in the schema of `counts/n=<n>.parquet`."""
    schema = counts_schema(ngrams.tokens.shape[1])
    tokens = pa.FixedSizeListArray.from_arrays(pa.array(ngrams.tokens.reshape(-1)), type=schema.field("tokens").type)
    return pa.Table.from_arrays([tokens, pa.array(ngrams.counts), pa.array(ngrams.docs)], schema=schema)


@contextlib.contextmanager
def appearing(path: Path, lasting: bool) -> Iterator[BinaryIO]:
    """Open a file that appears at `path` only when it is complete. It may be lost in a crash: see `publish.staging_folder`.

    With `lasting` it is on the disk before it appears.
    """
    beside = beside_of(path)
    with beside.open("wb") as file:
        yield file
        if lasting:
            file.flush()
            os.fsync(file.fileno())
    beside.replace(path)
