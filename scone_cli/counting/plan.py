"""Plans a count before it begins: its memory, its disk space, and how the work is divided to stay within the limit.

No result depends on a plan. The page cache is not part of the estimate: the system frees it when memory is needed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from scone_cli.errors import BadData, BadSetting
from scone_cli.formatting import bytes_text, count_text
from scone_cli.runtime.resources import MIB

# Measured: resident bytes of idle processes, with shared libraries counted in each process; and what comes on top of the
# arrays that are estimated below.
_PARENT = 110 * MIB
_SERVER = 130 * MIB  # the process that workers are forked from
_WORKER = 190 * MIB
_RAY_DRIVER = 180 * MIB  # the process that talks to the cluster
_RAY_WORKER = 300 * MIB  # as _WORKER, with Ray in it
_PREPARING = 90 * MIB  # what stays in memory after finding files and training the tokenizer, in the process that did it
_TOKENISING = 140 * MIB  # on top, for a worker that also tokenises: tokenizer, text, and a part while it is written

_TOKENS_PER_WORKER = 4_000_000  # fewer tokens are counted in less time than another process takes to start
_PART_TOKENS = 4_000_000  # tokens of one part of tokens/ in memory
_BYTES_PER_PART_TOKEN = 16  # as it is read, and packed
_BYTES_PER_ID = 17  # its count and documents in a part, and whether it is excluded
_LARGEST_BLOCK = 4_000_000
_SMALLEST_BLOCK = 250_000
_BUCKET_RECORDS = 100_000  # so that the tables that count a bucket fit the L2 cache
_LEAST_BITS, _MOST_BITS = 4, 12
_GROUPS_PER_WORKER = 6  # so that all workers end at about the same time
_LARGEST_GROUP = 6_000_000  # records counted at a time, if buckets are no larger
_MOST_ROWS = (1 << 32) - 1  # records and n-grams of a group: their rows have 32 bits
_MOST_DOCUMENTS = (1 << 32) - 1  # the column `docs` has 32 bits
_MOST_TOKENS = 1 << 53  # sums of occurrences are floats in `select-vocab`
_SMALLEST_GROUP = 250_000
_PIECES = 4  # pieces of a bucket that is dealt again are so much smaller than a group: each is in memory twice, beside a table
_COUNTING_BYTES = 20  # per record, beside the record itself: keys, rows, documents, entries
_FOUND_TIMES = 2.5  # memory of a frequent n-gram, in multiples of its row: arrays are copied as they grow, and sorted
_LARGEST_MERGE = 20_000_000  # rows sorted at a time
_SMALLEST_MERGE = 250_000
_MERGE_TIMES = 6  # memory of a row in a merge, in multiples of the row: it is read, sorted, made Arrow and encoded


@dataclass(frozen=True)
class CountingPlan:
    """How the work of one count is divided, and the memory and disk space it needs.

    Attributes:
        num_workers: number of processes on each node.
        num_nodes: number of machines that work together.
        bits: n-grams are dealt into 2**bits buckets.
        block_tokens: positions dealt at a time.
        group_records: records that a process counts at a time; a larger bucket is dealt again, in pieces.
        piece_records: records in such a piece.
        merge_rows: n-grams of one length that are sorted at a time.
        token_bytes: bytes of disk per token: its record, and the frequent n-grams that begin with it.
        memory: estimated peak of all processes of a node together, in bytes.
        room: bytes that a process may take for one document while it tokenises, and holds a part.
    """

    num_workers: int
    num_nodes: int
    bits: int
    block_tokens: int
    group_records: int
    piece_records: int
    merge_rows: int
    token_bytes: int
    memory: int
    room: int | None = None

    def disk(self, num_tokens: int, with_tokens: bool) -> int:
        """Bytes of disk that `num_tokens` tokens need: records and counts, and `tokens/` if `with_tokens`."""
        return num_tokens * (self.token_bytes + (2 if with_tokens else 0))

    def described(self, num_tokens: int, disk: int) -> str:
        """The plan as one line of text."""
        processes = f"{self.num_workers} processes" if self.num_workers > 1 else "1 process"
        if self.num_nodes > 1:
            processes = f"{self.num_nodes} nodes with {processes} each"
        each = " on each node" if self.num_nodes > 1 else ""
        takes = f"{bytes_text(self.memory)} of memory{each} and {bytes_text(disk)} of disk"
        pieces = f"{1 << self.bits:,} buckets, {count_text(self.group_records)} positions at a time"
        return f"up to {count_text(num_tokens)} tokens, {takes}; {processes}, {pieces}"

    def groups(self, bucket_records: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
        """Divide the buckets into groups that are counted together; returns their ranges [first, last)."""
        total = int(bucket_records.sum())
        most = min(self.group_records, max(1, total // (self.num_nodes * self.num_workers * _GROUPS_PER_WORKER)))
        ranges, first, size = [], 0, 0
        for bucket, records in enumerate(bucket_records.tolist()):
            if bucket > first and size + records > most:
                ranges.append((first, bucket))
                first, size = bucket, 0
            size += records
        return [*ranges, (first, len(bucket_records))]


def check_corpus(num_documents: int, num_tokens: int) -> None:
    """Refuse a corpus whose numbers of documents or occurrences might not fit where they are kept.

    Raises:
        BadData: there are more.
    """
    for number, most, what in (
        (num_documents, _MOST_DOCUMENTS, "documents to count in"),
        (num_tokens, _MOST_TOKENS, "tokens"),
    ):
        if number > most:
            raise BadData(
                f"{number:,} {what}, expected at most {most:,}: larger numbers would not be exact",
                "join short documents, or count a part of the corpus",
            )


def record_layout(num_tokens: int, max_n: int) -> tuple[np.dtype[Any], int]:
    """The dtype and the number of columns of a record: one per token, and one for the flag if token ids use every bit.

    The largest value of the dtype stands for 'no token', so no token id may have it.
    """
    if num_tokens <= 1 << 15:
        return np.dtype(np.uint16), max_n
    return (np.dtype(np.uint16), max_n + 1) if num_tokens < 1 << 16 else (np.dtype(np.uint32), max_n)


def _found_bytes(max_n: int, min_count: int) -> float:
    """Bytes of the frequent n-grams of 2 to `max_n` tokens, per token of the corpus.

    An n-gram occurs at least `min_count` times, so at most 1 / min_count of the positions begin a new one. In real text it
    is about 1 / min_count**2. Measured on English books and laws (n = 2 to 5): 1/2 of the positions for a `min_count` of 1,
    1/14 for 2, 1/60 for 5.
    """
    return sum(4 * n + 13 for n in range(2, max_n + 1)) / min_count**2


def document_room(room: int) -> int:
    """What a process may take for one document, of the bytes that it may take beside what an idle one takes."""
    return max(0, room - _PART_TOKENS * _BYTES_PER_PART_TOKEN)


def preparing_room(memory: int) -> int:
    """What the process that finds files and makes the tokenizer may take for one document, of `memory` bytes."""
    return max(0, memory - _WORKER - _PREPARING)


def make_plan(
    num_tokens: int,
    vocab_size: int,
    max_n: int,
    min_count: int,
    memory: int,
    num_workers: int,
    tokenising: bool,
    num_ray_nodes: int = 0,
) -> CountingPlan:
    """Plan the count of about `num_tokens` tokens within `memory` bytes; `tokenising`: the workers also tokenise text.

    With `num_ray_nodes`, `memory` and `num_workers` are those of each node of a Ray cluster; 0 is this machine without Ray.

    Raises:
        BadSetting: `memory` is too small even for one process.
    """
    dtype, width = record_layout(vocab_size, max_n)
    record = width * dtype.itemsize
    found = _found_bytes(max_n, min_count)
    counting = record + _COUNTING_BYTES + math.ceil(_FOUND_TIMES * found)
    merging = _MERGE_TIMES * (4 * max_n + 12)  # bytes per row of the largest length
    part = _PART_TOKENS * _BYTES_PER_PART_TOKEN + _BYTES_PER_ID * vocab_size + (_TOKENISING if tokenising else 0)
    bits = min(max(math.ceil(math.log2(max(1, num_tokens) / _BUCKET_RECORDS)), _LEAST_BITS), _MOST_BITS)
    most = max(_LARGEST_GROUP, 2 * num_tokens >> bits)  # a larger bucket would be dealt again
    most = min(most, _MOST_ROWS * min_count // (max_n - 1), _MOST_ROWS)  # also if all its n-grams are frequent
    alone = _WORKER + (_PREPARING if tokenising else 0)
    num_nodes = max(1, num_ray_nodes)
    for workers in range(min(num_workers, -(-(1 + num_tokens // _TOKENS_PER_WORKER) // num_nodes)), 0, -1):
        if num_ray_nodes:
            base = _PARENT + _RAY_DRIVER + workers * _RAY_WORKER
        else:  # with one worker, the process itself does the work
            base = _PARENT + _SERVER + workers * _WORKER if workers > 1 else alone
        room = (memory - base) // workers
        block = min(_LARGEST_BLOCK, (room - part) // (record + 4))
        group = min(most, room // counting)
        merge = min(_LARGEST_MERGE, room // merging)
        if block < _SMALLEST_BLOCK or group < _SMALLEST_GROUP or merge < _SMALLEST_MERGE:
            continue
        used = max(  # a small corpus does not fill the buffers
            part + min(block, num_tokens) * (record + 4),
            min(group, num_tokens) * counting,
            min(merge, num_tokens // min_count) * merging,
        )
        token_bytes, peak = record + math.ceil(found), base + workers * used
        sizes = (bits, block, group, group // _PIECES, merge)
        return CountingPlan(workers, num_nodes, *sizes, token_bytes, peak, document_room(room))
    smallest = (part + _SMALLEST_BLOCK * (record + 4), _SMALLEST_GROUP * counting, _SMALLEST_MERGE * merging)
    least = (_PARENT + _RAY_DRIVER + _RAY_WORKER if num_ray_nodes else alone) + max(smallest)
    raise BadSetting(
        f"--memory: {memory:,} bytes, counting needs at least {least:,}", f"give --memory {least // MIB + 1}MiB or more"
    )
