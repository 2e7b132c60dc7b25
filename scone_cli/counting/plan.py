"""How much memory and disk counting takes, worked out before it begins; and how the work is cut up to keep to it.

No result depends on a plan. What it leaves out: the page cache, which the system gives and takes as it likes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from scone_cli.errors import BadSetting
from scone_cli.formatting import bytes_text, count_text
from scone_cli.runtime.resources import MIB

# Measured: resident bytes of processes before they have work, libraries that they share counted in each; and what
# comes on top of the arrays that are counted below.
_PARENT = 110 * MIB
_SERVER = 130 * MIB  # what workers are forked from
_WORKER = 190 * MIB
_PREPARING = 90 * MIB  # what is left of finding files and making the tokenizer, in the process that did it
_TOKENISING = 140 * MIB  # a worker that makes tokens too: tokenizer, text, and a part as it is written

_TOKENS_A_WORKER = 4_000_000  # fewer are counted sooner than another process is there
_PART_TOKENS = 4_000_000  # of one part of tokens/ in memory: as it is read, and packed
_BYTES_A_PART_TOKEN = 16
_BYTES_AN_ID = 17  # its count and documents in a part, and whether it is excluded
_LARGEST_BLOCK = 4_000_000
_SMALLEST_BLOCK = 250_000
_BUCKET_RECORDS = 100_000  # so that what a bucket is counted in fits the second cache
_LEAST_BITS, _MOST_BITS = 4, 12
_GROUPS_A_WORKER = 6  # so that all end at about the same time
_LARGEST_GROUP = 6_000_000  # records
_SMALLEST_GROUP = 250_000
_COUNTING_BYTES = 20  # a record, beside itself: keys, rows, documents, entries
_FOUND_TIMES = 2.5  # what a frequent n-gram takes, of its row: as rows are moved to where there is room, and sorted
_LARGEST_MERGE = 20_000_000  # rows
_SMALLEST_MERGE = 250_000
_MERGE_TIMES = 6  # what a row takes, of itself, as it is read, ordered, made Arrow and encoded


@dataclass(frozen=True)
class CountingPlan:
    """How one count is cut up.

    Attributes:
        num_workers: processes.
        bits: n-grams are dealt into 2**bits buckets.
        block_tokens: positions dealt at a time.
        group_records: records that a process counts at a time; a bucket with more is read in pieces.
        piece_records: records in such a piece.
        merge_rows: n-grams of one length put in order at a time.
        token_bytes: of disk for one token: its record, and the frequent n-grams that begin with it.
        memory: estimated peak of all processes together, in bytes.
    """

    num_workers: int
    bits: int
    block_tokens: int
    group_records: int
    piece_records: int
    merge_rows: int
    token_bytes: int
    memory: int

    def disk(self, num_tokens: int, with_tokens: bool) -> int:
        """Bytes of disk that `num_tokens` tokens need: records, counts and perhaps `tokens/`."""
        return num_tokens * (self.token_bytes + (2 if with_tokens else 0))

    def described(self, num_tokens: int, disk: int) -> str:
        """The plan in one line."""
        processes = f"{self.num_workers} processes" if self.num_workers > 1 else "1 process"
        takes = f"{bytes_text(self.memory)} of memory and {bytes_text(disk)} of disk"
        pieces = f"{1 << self.bits:,} buckets, {count_text(self.group_records)} positions at a time"
        return f"up to {count_text(num_tokens)} tokens, {takes}; {processes}, {pieces}"

    def groups(self, bucket_records: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
        """Ranges [first, last) of buckets that are counted together."""
        total = int(bucket_records.sum())
        most = min(self.group_records, max(1, total // (self.num_workers * _GROUPS_A_WORKER)))
        ranges, first, size = [], 0, 0
        for bucket, records in enumerate(bucket_records.tolist()):
            if bucket > first and size + records > most:
                ranges.append((first, bucket))
                first, size = bucket, 0
            size += records
        return [*ranges, (first, len(bucket_records))]


def record_layout(num_tokens: int, max_n: int) -> tuple[np.dtype[Any], int]:
    """The type and the number of a record's columns: one a token, and one more if no token has a bit to spare for the flag.

    The largest value of the type stands for 'no token', so no token may have it.
    """
    if num_tokens <= 1 << 15:
        return np.dtype(np.uint16), max_n
    return (np.dtype(np.uint16), max_n + 1) if num_tokens < 1 << 16 else (np.dtype(np.uint32), max_n)


def _found_bytes(max_n: int, min_count: int) -> float:
    """Bytes of the frequent n-grams of 2 to `max_n` tokens, for each token of the corpus.

    At most every `min_count`-th position begins an n-gram that is counted for the first time. Of text it is fewer, by as
    much again: of English books and laws half of all at a minimum of 1, a fourteenth at 2, a sixtieth at 5 (n = 2 to 5).
    """
    return sum(4 * n + 13 for n in range(2, max_n + 1)) / min_count**2


def make_plan(
    num_tokens: int, vocab_size: int, max_n: int, min_count: int, memory: int, num_workers: int, tokenising: bool
) -> CountingPlan:
    """Plan the count of about `num_tokens` tokens, `tokenising` if they must be made first, within `memory` bytes.

    Raises:
        BadSetting: so little memory that one process could not do it.
    """
    dtype, width = record_layout(vocab_size, max_n)
    record = width * dtype.itemsize
    found = _found_bytes(max_n, min_count)
    counting = record + _COUNTING_BYTES + math.ceil(_FOUND_TIMES * found)
    merging = _MERGE_TIMES * (4 * max_n + 12)  # the longest rows
    part = _PART_TOKENS * _BYTES_A_PART_TOKEN + _BYTES_AN_ID * vocab_size + (_TOKENISING if tokenising else 0)
    bits = min(max(math.ceil(math.log2(max(1, num_tokens) / _BUCKET_RECORDS)), _LEAST_BITS), _MOST_BITS)
    most = max(_LARGEST_GROUP, 2 * num_tokens >> bits)  # no smaller than a bucket, or all were read in pieces
    alone = _WORKER + (_PREPARING if tokenising else 0)
    for workers in range(min(num_workers, 1 + num_tokens // _TOKENS_A_WORKER), 0, -1):
        # One worker is the process itself.
        base = _PARENT + _SERVER + workers * _WORKER if workers > 1 else alone
        room = (memory - base) // workers
        block = min(_LARGEST_BLOCK, (room - part) // (record + 4))
        group = min(most, room // counting)
        merge = min(_LARGEST_MERGE, room // merging)
        if block < _SMALLEST_BLOCK or group < _SMALLEST_GROUP or merge < _SMALLEST_MERGE:
            continue
        used = max(  # of what there may be, the corpus may fill less
            part + min(block, num_tokens) * (record + 4),
            min(group, num_tokens) * counting,
            min(merge, num_tokens // min_count) * merging,
        )
        return CountingPlan(workers, bits, block, group, group, merge, record + math.ceil(found), base + workers * used)
    smallest = (part + _SMALLEST_BLOCK * (record + 4), _SMALLEST_GROUP * counting, _SMALLEST_MERGE * merging)
    least = alone + max(smallest)
    raise BadSetting(
        f"--memory: {memory:,} bytes, counting needs at least {least:,}", f"give --memory {least // MIB + 1}MiB or more"
    )
