"""Computing the rows of all f-grams: in pieces that any process may do, into the files of the table.

The vocabulary is closed under prefixes, so it is a trie, and in the order of their tokens f-grams share what they have in common:
one token-forward each. That order is cut into pieces of `PIECE_BYTES` of rows, and a piece into what a `RowMaker` does
at a time. These cuts depend on the model, the format and the kind of device alone: so the bytes are the same with any number of
processes and threads, and after any interruption. A piece is marked when its rows are in the files.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from scone_cli.artifacts import write_atomically
from scone_cli.errors import BadSetting
from scone_cli.launch import Launch
from scone_cli.model import SconeModel
from scone_cli.ngrams import I64
from scone_cli.progress import Progress
from scone_cli.quantities import bytes_text, count_text
from scone_cli.row_files import RowFiles
from scone_cli.row_formats import Raw, encode
from scone_cli.row_maker import CPU_FGRAMS, RowMaker
from scone_cli.table_size import PART_BYTES
from scone_cli.trie import FgramTrie

MIB = 1 << 20
PIECE_BYTES = 16 * MIB  # of rows: what a crash may cost, for each process

# Measured: resident bytes of a process before it has work, and of what it takes for each f-gram of the vocabulary, which
# is read, put in order and indexed.
_PROCESS = 420 * MIB
_BYTES_AN_FGRAM = 110
_WEIGHT_TIMES = 3  # what the model takes, of its files: as it is read, they are mapped, in memory, and in the model
_FRAME_TIMES = 3  # what making a file of rows takes, of the file: it is encoded once, of zeros
_VECTORS_A_NODE = 30  # of the model's width: what a thread holds of each f-gram that it computes


@dataclass(frozen=True)
class MemoryPlan:
    """What precomputing takes: `memory` bytes, estimated, of all processes together, at `num_threads` threads in each."""

    num_processes: int
    num_threads: int
    memory: int

    def described(self, num_fgrams: int, row_bytes: int) -> str:
        """The plan in one line."""
        processes = f"{self.num_processes} processes of " if self.num_processes > 1 else ""
        takes = f"{bytes_text(self.memory)} of memory, {bytes_text(num_fgrams * row_bytes)} of disk"
        return f"{count_text(num_fgrams)} rows of {row_bytes:,} bytes, {processes}{self.num_threads} threads, {takes}"


def plan_memory(
    memory: int, num_processes: int, threads: int, dim: int, weight_bytes: int, row_bytes: int, num_fgrams: int
) -> MemoryPlan:
    """As many threads in each process, of the `threads` that it may have, as fit into `memory` bytes.

    Raises:
        BadSetting: it is too little for one thread.
    """
    of_thread = 4 * dim * _VECTORS_A_NODE * CPU_FGRAMS
    pieces = 3 * (PIECE_BYTES + row_bytes * CPU_FGRAMS)  # one as it is computed, put together and written
    frame = _FRAME_TIMES * min(PART_BYTES, num_fgrams * row_bytes)
    fixed = _PROCESS + _BYTES_AN_FGRAM * num_fgrams + max(_WEIGHT_TIMES * weight_bytes + pieces, frame)
    fitting = min(threads, (memory // num_processes - fixed) // of_thread)
    if fitting < 1:
        least = num_processes * (fixed + of_thread)
        raise BadSetting(
            f"--memory: {memory:,} bytes, precomputing {num_fgrams:,} rows needs at least {least:,}",
            f"give --memory {least // MIB + 1}MiB or more",
        )
    return MemoryPlan(num_processes, fitting, num_processes * (fixed + fitting * of_thread))


def compute_rows(
    model: SconeModel,
    trie: FgramTrie,
    dtype: str,
    files: RowFiles,
    marks: Path,
    num_threads: int,
    launch: Launch,
    progress: Progress,
) -> None:
    """Compute the rows of the pieces that are this process's and not yet marked, and write them into `files`."""
    maker = RowMaker(model, trie)
    order = trie.token_order()
    at_a_time = maker.num_fgrams
    size = at_a_time * max(1, PIECE_BYTES // (files.row_bytes * at_a_time))
    mine = range(launch.rank, -(-len(order) // size), launch.size)
    total = sum(len(order[size * piece : size * (piece + 1)]) for piece in mine)
    done, waiting = 0, Future[None]()
    waiting.set_result(None)
    progress("precomputing", 0, total, "rows")

    def rows_of(ids: I64) -> Raw:
        return encode(maker(ids), dtype)

    def write(piece: int, ids: I64, raw: Raw) -> None:
        files.write(ids, raw)
        write_atomically(marks / f"piece-{piece:06d}", b"")

    with _pool(num_threads) as makers, _pool(1) as writer:
        for piece in mine:
            ids = order[size * piece : size * (piece + 1)]
            if not (marks / f"piece-{piece:06d}").exists():
                cuts = range(0, len(ids), at_a_time)
                made = list(makers.map(rows_of, [ids[first : first + at_a_time] for first in cuts]))
                waiting.result()  # while one piece is written the next is computed, and no more
                waiting = writer.submit(write, piece, ids, np.concatenate(made))
            done += len(ids)
            progress("precomputing", done, total, "rows")
        waiting.result()


@contextlib.contextmanager
def _pool(num_threads: int) -> Iterator[ThreadPoolExecutor]:
    """Threads in each of which torch uses no other; what they have not begun when an error comes is not done."""
    pool = ThreadPoolExecutor(num_threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
