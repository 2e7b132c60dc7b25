"""Counting n-grams over token shards by idempotent hash buckets (paper, section 3.1).

For n = 2..K: *map* turns a shard into one file of locally combined counts, grouped in buckets by key hash; *reduce* turns
a bucket of all shards into the sorted counts of its frequent n-grams; the frequent n-grams get their ids, and *relabel*
writes, for the next n, which of them ends at each position. Every step is a plain function from files to one file that
appears whole: what is there need not be done again, so a run that was killed goes on where it was.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from scone_cli.artifacts import write_parquet
from scone_cli.corpus import TRAIN, iter_shards
from scone_cli.errors import SconeError
from scone_cli.ngrams import NONE, U32, U64, count_shard, hash_table, merge_counts, relabel_shard
from scone_cli.progress import Progress
from scone_cli.schemas import counts_schema

NUM_BUCKETS = 64  # of one shard: small enough for a bucket's hash table to fit the cache

_ENTRY = np.dtype([("key", np.uint64), ("count", np.uint64), ("docs", np.uint32)])


@dataclass(frozen=True)
class FrequentNgrams:
    """All n-grams of one length with at least the minimum count, in lexicographic order of their tokens.

    tokens uint32 [M, n], counts uint64 [M], docs uint32 [M] (documents that hold it).
    """

    tokens: U32
    counts: U64
    docs: U32

    def write(self, path: Path) -> None:
        """Write `counts/n=<n>.parquet`: by count descending, then tokens ascending."""
        order = np.argsort(-self.counts.astype(np.int64), kind="stable")
        schema = counts_schema(self.tokens.shape[1])
        columns = [
            pa.FixedSizeListArray.from_arrays(self.tokens[order].ravel(), type=schema.field("tokens").type),
            pa.array(self.counts[order]),
            pa.array(self.docs[order]),
        ]
        write_parquet(path, schema, pa.Table.from_arrays(columns, schema=schema))


def count_ngrams(
    tokens_folder: Path, scratch: Path, max_n: int, min_count: int, progress: Progress
) -> Iterator[FrequentNgrams]:
    """Yield the frequent n-grams of the train split for n = 2..max_n, shortest first.

    An n-gram never crosses a document boundary. `scratch` holds the work of a run so far; it may be removed afterwards.

    Raises:
        SconeError: there are more frequent n-grams of one length than 32 bits can number.
    """
    shards = _unpack(tokens_folder, scratch, progress)
    shorter: U32 | None = None
    for n in range(2, max_n + 1):
        level = scratch / f"n={n}"
        level.mkdir(exist_ok=True)
        label = f"counting {n}-grams"
        steps = Steps(progress, label, 2 * len(shards) + NUM_BUCKETS)
        steps.run([partial(_map, shard, level, n) for shard in shards])
        steps.run([partial(_reduce, bucket, shards, level, min_count) for bucket in range(NUM_BUCKETS)])
        frequent = np.concatenate([np.load(level / f"bucket-{bucket:03d}.npy") for bucket in range(NUM_BUCKETS)])
        frequent.sort(order="key")
        if frequent.size >= NONE:
            raise SconeError(
                f"{frequent.size:,} different {n}-grams occur {min_count:,} times or more", "raise --min-count"
            )
        if n < max_n:
            table = hash_table(np.ascontiguousarray(frequent["key"]))
            steps.run([partial(_relabel, shard, level, n, table) for shard in shards])
        prefix, last = frequent["key"] >> np.uint64(32), (frequent["key"] & np.uint64(NONE)).astype(np.uint32)
        heads = prefix.astype(np.uint32)[:, None] if shorter is None else shorter[prefix]
        shorter = np.concatenate([heads, last[:, None]], axis=1)
        steps.finish(f"{frequent.size:,} frequent")
        yield FrequentNgrams(shorter, frequent["count"].copy(), frequent["docs"].copy())


class Steps:
    """Runs tasks on all cores and counts them towards one line of progress."""

    def __init__(self, progress: Progress, what: str, total: int) -> None:
        self.progress, self.what, self.total, self.done = progress, what, total, 0
        progress(what, 0, total, "tasks")

    def run(self, tasks: list[Callable[[], None]]) -> None:
        """Run independent tasks; the kernels release the GIL, so threads are enough."""
        with ThreadPoolExecutor(_num_cores()) as pool:
            try:
                for future in [pool.submit(task) for task in tasks]:
                    future.result()
                    self.done += 1
                    self.progress(self.what, min(self.done, self.total - 1), self.total, "tasks")
            except BaseException:  # a full disk, a signal: end now, not after all that waits in the queue
                pool.shutdown(cancel_futures=True)
                raise

    def finish(self, detail: str) -> None:
        """Report the line as complete."""
        self.progress(self.what, self.total, self.total, "tasks", detail)


def _num_cores() -> int:
    """The cores that this process may use, which in a container or under `taskset` are fewer than there are."""
    if hasattr(os, "process_cpu_count"):  # Python 3.13
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# ---- the tasks: files in, one file out ---------------------------------------------------------------------------


def _unpack(tokens_folder: Path, scratch: Path, progress: Progress) -> list[Path]:
    """Lay the train split of each part out as plain arrays that the tasks can map; returns a path stem for each."""
    parts = sorted(tokens_folder.glob("part-*.parquet"))
    stems = [scratch / f"shard-{number:05d}" for number in range(len(parts))]
    if not all(stem.with_suffix(".starts.npy").exists() for stem in stems):
        progress("unpacking tokens", 0, len(parts), "shards")
        for number, (_, stream) in enumerate(iter_shards(tokens_folder, TRAIN)):
            _save(stems[number].with_suffix(".tokens.npy"), stream.tokens)
            _save(stems[number].with_suffix(".starts.npy"), stream.starts)
            progress("unpacking tokens", number + 1, len(parts), "shards")
    return stems


def _load_shard(shard: Path, level: Path, n: int) -> tuple[Any, Any, Any]:
    tokens = np.load(shard.with_suffix(".tokens.npy"), mmap_mode="r")
    starts = np.load(shard.with_suffix(".starts.npy"))
    prefixes = tokens if n == 2 else np.load(level.with_name(f"n={n - 1}") / f"{shard.name}.ids.npy", mmap_mode="r")
    return tokens, starts, prefixes


def _map(shard: Path, level: Path, n: int) -> None:
    path = level / f"{shard.name}.counts.npy"
    if path.exists():
        return
    found = count_shard(*_load_shard(shard, level, n), n, NUM_BUCKETS)
    _save(level / f"{shard.name}.offsets.npy", found.offsets)
    _save(path, _entries(found.keys, found.counts, found.docs))


def _reduce(bucket: int, shards: list[Path], level: Path, min_count: int) -> None:
    path = level / f"bucket-{bucket:03d}.npy"
    if path.exists():
        return
    pieces = []
    for shard in shards:
        first, last = np.load(level / f"{shard.name}.offsets.npy")[bucket : bucket + 2]
        pieces.append(np.load(level / f"{shard.name}.counts.npy", mmap_mode="r")[first:last])
    whole = np.concatenate(pieces)
    keys, counts, docs = (np.ascontiguousarray(whole[name]) for name in ("key", "count", "docs"))
    _save(path, _entries(*merge_counts(keys, counts, docs, min_count)))


def _relabel(shard: Path, level: Path, n: int, table: tuple[U64, U32]) -> None:
    path = level / f"{shard.name}.ids.npy"
    if not path.exists():
        _save(path, relabel_shard(*_load_shard(shard, level, n), n, table))


def _entries(keys: U64, counts: U64, docs: U32) -> npt.NDArray[np.void]:
    entries = np.empty(keys.size, _ENTRY)
    entries["key"], entries["count"], entries["docs"] = keys, counts, docs
    return entries


def _save(path: Path, array: npt.NDArray[Any]) -> None:
    """Write an array so that `path` never holds half of it."""
    beside = path.with_name(f".{path.name}.tmp")
    with beside.open("wb") as file:
        np.save(file, array)
        file.flush()
        os.fsync(file.fileno())  # or a power cut leaves the name with nothing in it, and that is taken for finished
    beside.replace(path)
