"""Computing the rows of all f-grams into the files of a table, piece by piece, in any number of processes and threads.

The vocabulary is closed under prefixes, so it is a trie: in the order of their tokens, f-grams share their prefixes, and
each costs about one token-forward. That order is cut into `Pieces`, and each piece into batches for a `RowMaker`. The
cuts depend only on the model, the format and the kind of device, so the bytes are the same with any number of processes
and threads, and after any interruption. A `Store` says which pieces are done.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scone_cli.arrays import I64
from scone_cli.errors import BadSetting, SconeError
from scone_cli.formatting import amount_text, bytes_text, count_text
from scone_cli.model.blocks import Block
from scone_cli.model.devices import CUDA_LIBRARIES
from scone_cli.model.model import FgramModel, SconeModel
from scone_cli.progress import Progress
from scone_cli.table.fgram_forward import CPU_FGRAMS, RowMaker
from scone_cli.table.pieces import MIB, PIECE_BYTES, Pieces, Store
from scone_cli.table.row_files import RowFiles
from scone_cli.table.row_formats import FORMATS, Raw, decode, encode
from scone_cli.table.sizes import PART_BYTES
from scone_cli.vocab.index import FgramIndex
from scone_cli.vocab.trie import FgramTrie

_PIECES_AT_A_TIME = 3  # so that no thread waits for the end of a piece, or for the disk

# Measured, in resident bytes: this includes mapped files (which the system could take back) but not the page cache.
_PROCESS = 560 * MIB + CUDA_LIBRARIES  # before any work: libraries, and the first compilation of the numba loops
_READING = 230  # per f-gram while the vocabulary is read, which takes more than sorting it
_KEPT = 50  # per f-gram: vocabulary, suffixes and order; later, when the rows are there, the index and its copy
_NUMBER = 4  # per f-gram of another vocabulary than that of the training: the number of its learned row
_LEARNED = 25  # per learned row, for such a vocabulary: its f-gram, and the index that finds it
_FRAME_TIMES = 4  # making a file of rows takes so many times its size: it is encoded once, filled with zeros
_VECTORS_PER_NODE = 30  # of the model's width: what a thread holds for each f-gram that it computes


@dataclass(frozen=True)
class Sizes:
    """Sizes that memory depends on: model width, bytes of its files and of A_f-gram alone, bytes per row, f-grams.

    num_learned: the model's learned rows, if the vocabulary is not that of its training, else 0.
    """

    dim: int
    weight_bytes: int
    fgram_bytes: int
    row_bytes: int
    num_fgrams: int
    num_learned: int = 0

    @property
    def kept_bytes(self) -> int:
        """Bytes that are held for f-grams while rows are computed."""
        other = _NUMBER * self.num_fgrams + _LEARNED * self.num_learned if self.num_learned else 0
        return _KEPT * self.num_fgrams + other


@dataclass(frozen=True)
class MemoryPlan:
    """Plan for precomputing: processes, threads in each process, and the estimated memory of all together in bytes."""

    num_processes: int
    num_threads: int
    memory: int

    def described(self, num_fgrams: int, row_bytes: int) -> str:
        """The plan in one line."""
        processes = f"{self.num_processes} processes of " if self.num_processes > 1 else ""
        threads = amount_text(self.num_threads, "threads")
        takes = f"{bytes_text(self.memory)} of memory, {bytes_text(num_fgrams * row_bytes)} of disk"
        return f"{count_text(num_fgrams)} rows of {row_bytes:,} bytes, {processes}{threads}, {takes}"


def plan_memory(memory: int, num_processes: int, threads: int, sizes: Sizes, is_alone: bool = True) -> MemoryPlan:
    """Choose the largest number of threads per process, at most `threads`, that fits into `memory` bytes.

    The peaks come one after the other: making the files; reading the model (mapped, and in memory); reading the
    vocabulary; computing, with the matrices of A_f-gram held twice; and where other machines work too (not `is_alone`),
    putting files of rows together.

    Raises:
        BadSetting: `memory` is too little for one thread.
    """
    model, num_fgrams = sizes.weight_bytes + sizes.fgram_bytes, sizes.num_fgrams
    frame = _FRAME_TIMES * min(PART_BYTES, num_fgrams * sizes.row_bytes)
    before = max(frame, 2 * sizes.weight_bytes, model + _READING * max(num_fgrams, sizes.num_learned))
    pieces = (_PIECES_AT_A_TIME + 1) * (PIECE_BYTES + sizes.row_bytes * CPU_FGRAMS)  # + 1: one piece is being joined
    if not is_alone:
        before = max(before, model + sizes.kept_bytes + frame + min(PART_BYTES, num_fgrams * sizes.row_bytes))
    computing = model + sizes.kept_bytes + min(pieces, 2 * num_fgrams * sizes.row_bytes)
    of_thread = 4 * sizes.dim * _VECTORS_PER_NODE * CPU_FGRAMS

    def needed(threads: int) -> int:
        return num_processes * (_PROCESS + max(before, computing + threads * of_thread))

    fitting = next((some for some in range(threads, 0, -1) if needed(some) <= memory), 0)
    if not fitting:
        raise BadSetting(
            f"--memory: {memory:,} bytes, precomputing {num_fgrams:,} rows needs at least {needed(1):,}",
            f"give --memory {-(-needed(1) // MIB)}MiB or more",
        )
    return MemoryPlan(num_processes, fitting, needed(fitting))


def compute_rows(
    maker: RowMaker,
    pieces: Pieces,
    dtype: str,
    store: Store,
    numbers: Sequence[int],
    num_threads: int,
    progress: Progress,
) -> None:
    """Compute the pieces `numbers` that are not in `store` yet."""
    at_a_time = maker.num_fgrams
    total, done = sum(len(pieces[piece]) for piece in numbers), 0

    def rows_of(some: I64) -> Raw:
        return encode(maker(some), dtype)

    def write(piece: int, made: list[Future[Raw]]) -> None:
        store.write(piece, pieces[piece], np.concatenate([each.result() for each in made]))

    progress("precomputing", 0, total, "rows")
    begun = deque[tuple[int, Future[None]]]()

    def end(most: int) -> None:
        """Wait until at most `most` pieces are under way."""
        nonlocal done
        while len(begun) > most:
            piece, written = begun.popleft()
            written.result()
            done += len(pieces[piece])
            progress("precomputing", done, total, "rows")

    with _pool(1) as writer, _pool(num_threads) as makers:
        for piece in numbers:
            if store.has(piece):
                done += len(pieces[piece])
                continue
            ids = pieces[piece]
            made = [makers.submit(rows_of, ids[first : first + at_a_time]) for first in range(0, len(ids), at_a_time)]
            begun.append((piece, writer.submit(write, piece, made)))
            end(_PIECES_AT_A_TIME - 1)
        end(0)


@contextlib.contextmanager
def _pool(num_threads: int) -> Iterator[ThreadPoolExecutor]:
    """A thread pool whose threads each run torch with one thread; an error cancels the tasks that have not begun."""
    pool = ThreadPoolExecutor(num_threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


# ---- a check against rows computed the slow way, before a table is published -------------------------------------
#
# Each f-gram runs alone, as a sequence padded to K tokens: no trie, no shared prefixes, torch's own causal attention. Its
# suffixes are looked up in the index instead of followed in the trie. The row that it is compared with is read from the
# files.

SAMPLE = 256  # rows
_ROUNDING = 1e-3  # tolerance as a share of a row's largest number: another order of additions may change so much


def check_rows(
    model: SconeModel, trie: FgramTrie, index: FgramIndex, files: RowFiles, dtype: str, seed: int, progress: Progress
) -> int:
    """Compare a random sample of the rows in `files` with `row_alone`; returns the number of rows compared.

    Raises:
        SconeError: a row differs by more than its format and rounding explain; the message names the first such row.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for a single row, starting more threads costs more than they save
    try:
        return _check_rows(model, trie, index, files, dtype, seed, progress)
    finally:
        torch.set_num_threads(threads)


def _check_rows(
    model: SconeModel, trie: FgramTrie, index: FgramIndex, files: RowFiles, dtype: str, seed: int, progress: Progress
) -> int:
    size = min(SAMPLE, trie.num_fgrams)
    ids = np.sort(np.random.default_rng(seed).choice(trie.num_fgrams, size, replace=False))
    progress("checking rows", 0, size, "rows")
    for done, (i, tokens) in enumerate(zip(ids.tolist(), trie.tokens_of(ids), strict=True)):
        found = decode(files.read(np.array([i])), dtype, model.config.dim)[0].float()
        expected = row_alone(model, index, tokens).cpu()
        room = (FORMATS[dtype].error + _ROUNDING) * float(expected.abs().max())
        apart = (found - expected).abs()
        if not bool((apart <= room).all()):
            at = int(apart.nan_to_num(torch.inf).argmax())
            raise SconeError(
                f"row {i} (tokens {' '.join(map(str, tokens))}) is not what its f-gram gives alone: number {at} of it "
                f"is {float(found[at]):.6g}, expected {float(expected[at]):.6g} within {room:.2g}",
                "give the same command again: it begins anew; if it ends like this again, please report it",
            )
        progress("checking rows", done + 1, size, "rows")
    return size


@torch.inference_mode()
def row_alone(model: SconeModel, index: FgramIndex, tokens: Sequence[int]) -> Tensor:
    """Compute the row [D] of one f-gram alone, the slow and simple way."""
    if model.donor is not None:
        assert model.fgram is not None
        output = model.fgram(model.donor.read([list(tokens)]).half().to(model.device))
    elif model.has_fgram_model:
        output = _output_alone(model, tokens)
    else:
        output = torch.zeros(1, model.config.dim, device=model.device)
    learned = None
    if model.learned is not None:
        learned = torch.zeros(1, model.config.dim, device=model.device)
        for number in _endings(model.learned.index or index, tokens):
            if number < len(model.learned.weight):
                learned += model.learned.weight[number]
    row: Tensor = model.main.row(torch.tensor([tokens[-1]], device=model.device), output, learned)[0]
    return row


def _output_alone(model: SconeModel, tokens: Sequence[int]) -> Tensor:
    """A_f-gram's output [1, D] for one f-gram."""
    fgram = model.fgram
    assert isinstance(fgram, FgramModel)
    padded = torch.tensor([[*tokens, *[0] * (model.config.max_n - len(tokens))]], device=model.device)
    x = fgram.enter(model.main.for_fgrams(padded)) + fgram.positions.weight  # [1, K, F]
    for block in fgram.blocks:
        assert isinstance(block, Block)
        q, k, v = (part.transpose(1, 2) for part in block.project(x).unbind(-3))  # [1, H, K, E]
        x = block.finish(x, F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2))
    return fgram.leave(x)[:, len(tokens) - 1]


def _endings(index: FgramIndex, tokens: Sequence[int]) -> list[int]:
    """Ids of the f-gram `tokens` and of its suffixes that are f-grams."""
    found = []
    for first in range(len(tokens) - 1):
        ids, lengths = index.match(np.array(tokens[first:], np.uint32))
        if lengths[-1] == len(tokens) - first:
            found.append(int(ids[-1]))
    return found
