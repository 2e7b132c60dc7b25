"""The rows of a table by tasks on several machines: plain functions from files to files, as a Ray cluster runs them.

`make_pieces` computes pieces into files of their own; when all are there, `gather_parts` puts the files of the table
together. The model and the vocabulary are opened once in a process. Both tasks do nothing that is done already.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from scone_cli.artifacts.publish import write_atomically
from scone_cli.model.devices import find_device
from scone_cli.model.model import SconeModel
from scone_cli.progress import Progress, silent
from scone_cli.runtime.engine import Pool
from scone_cli.table.fgram_forward import RowMaker
from scone_cli.table.pieces import PieceFiles, Pieces, gather, part_groups
from scone_cli.table.precompute import compute_rows
from scone_cli.table.row_files import RowFiles
from scone_cli.vocab.vocabulary import Vocabulary

_TASKS_PER_WORKER = 8  # so that all workers end at about the same time
_MOST_PIECES = 16  # in a task


@dataclass(frozen=True)
class RowJob:
    """What all tasks of one table share.

    Attributes:
        model, vocab: their folders.
        files: the rows of the finished table.
        scratch: the folder of intermediate files.
        num_tokens, max_n: of the vocabulary.
        dtype: the row format.
        device: where to compute: `cpu` or `cuda`.
        piece_size: f-grams in a piece.
        num_threads: threads of a process.
        room: bytes of memory for rows that are put together.
    """

    model: Path
    vocab: Path
    files: RowFiles
    scratch: Path
    num_tokens: int
    max_n: int
    dtype: str
    device: str
    piece_size: int
    num_threads: int
    room: int

    @property
    def store(self) -> PieceFiles:
        """The files of the pieces."""
        return PieceFiles(self.scratch, self.files.row_bytes, self.piece_size)

    def gathered(self, part: int) -> Path:
        """The mark of a file of the table: an unfinished run on one machine leaves files of their full size."""
        return self.scratch / f"gathered-{part:05d}"


def compute_on(pool: Pool, job: RowJob, progress: Progress) -> None:
    """Compute all rows in the processes of `pool`."""
    total, size = job.files.num_rows, job.piece_size
    missing = [piece for piece in range(-(-total // size)) if not job.store.has(piece)]
    at_a_time = max(1, min(_MOST_PIECES, len(missing) // (_TASKS_PER_WORKER * pool.num_workers)))
    tasks = [missing[first : first + at_a_time] for first in range(0, len(missing), at_a_time)]
    done = total - sum(_rows_in(piece, size, total) for piece in missing)
    progress("precomputing", done, total, "rows")
    for number, _ in pool.run((make_pieces, (job, task)) for task in tasks):
        done += sum(_rows_in(piece, size, total) for piece in tasks[number])
        progress("precomputing", done, total, "rows")
    groups, total = part_groups(job.files, job.room, pool.num_workers), job.files.num_parts
    groups = [group for group in groups if not all(job.gathered(part).exists() for part in group)]
    done = total - sum(map(len, groups))
    progress("putting rows in order", done, total, "files")
    for number, _ in pool.run((gather_parts, (job, group)) for group in groups):
        done += len(groups[number])
        progress("putting rows in order", done, total, "files")


def _rows_in(piece: int, size: int, total: int) -> int:
    return min(size, total - size * piece)


# ---- the tasks ---------------------------------------------------------------------------------------------------


def make_pieces(job: RowJob, numbers: Sequence[int]) -> None:
    """Compute some pieces that are not there yet."""
    maker, pieces = _opened(job)
    compute_rows(maker, pieces, job.dtype, job.store, numbers, job.num_threads, silent)


def gather_parts(job: RowJob, parts: Sequence[int]) -> None:
    """Put together some files of the table (consecutive ones) that are not there yet."""
    if not all(job.gathered(part).exists() for part in parts):
        gather(_opened(job)[1], job.store, job.files, parts)
    for part in parts:
        write_atomically(job.gathered(part), b"")


@functools.lru_cache(maxsize=1)
def _opened(job: RowJob) -> tuple[RowMaker, Pieces]:
    """The model and the order of the f-grams, opened once in a process."""
    network = SconeModel.load(job.model).to(find_device(job.device, 0))
    trie = Vocabulary.read(job.vocab, job.num_tokens, job.max_n).trie
    pa.default_memory_pool().release_unused()  # what reading took
    return RowMaker(network, trie), Pieces(trie.token_order(), job.piece_size)
