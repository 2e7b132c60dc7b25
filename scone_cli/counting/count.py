"""Counts n-grams by idempotent tasks over files (paper, section 3.1): deal, count, merge.

*Deal* turns a shard of tokens into records, grouped in buckets by their first two tokens. *Count* reads a group of buckets
from all shards and writes a run: the group's frequent n-grams of every length, sorted. *Merge* turns the runs of one length
into `counts/n=<n>.parquet`. Each task is a plain function from files to files. Output files appear complete or not at all,
and a task does nothing if they exist: it can be cancelled, repeated, or run by another executor. Only the tasks import the
kernels: that saves half a second in the process that starts the tasks.

The paper scans the corpus once per length. Here one scan is enough: all n-grams that begin with the same two tokens are in
one bucket.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from scone_cli.artifacts.opening import to_read
from scone_cli.artifacts.schemas import TRAIN
from scone_cli.counting.job import CountingJob
from scone_cli.counting.merge import appearing, merge_runs, num_rows, write_counts, write_run
from scone_cli.counting.plan import record_layout
from scone_cli.errors import DamagedArtifact
from scone_cli.progress import Clock, Progress, Seconds
from scone_cli.runtime.engine import Pool, Task
from scone_cli.runtime.resources import check_disk
from scone_cli.runtime.worker_pool import give_back_memory

if TYPE_CHECKING:
    from scone_cli.corpus.token_stream import TokenStream
    from scone_cli.counting.partition import U32, Records, Segments

KERNELS = (
    "scone_cli.counting.partition",
    "scone_cli.counting.merge",
    "scone_cli.counting.aggregate",
    "scone_cli.counting.again",
)  # the modules that a worker loads

I64 = npt.NDArray[np.int64]


def count_ngrams(
    job: CountingJob, parts: Sequence[tuple[Path, str | None]], out: Path, pool: Pool, progress: Progress
) -> tuple[list[dict[str, int]], Seconds]:
    """Count the train split of the tokens in `parts` (path, and SHA-256 to check) into `out/n=1..max_n.parquet`.

    Returns n, the number of n-grams and their occurrences for every length from 2, and the processor seconds of all
    processes for each kind of work.

    Raises:
        DamagedArtifact: a part does not have its SHA-256.
    """
    spent = Seconds()
    names = [path.name for path, _ in parts]
    missing = [(path, sha256) for path, sha256 in parts if not job.dealt(path.name).exists()]
    sizes = {path: path.stat().st_size for path, _ in parts}
    done, total = sum(sizes.values()) - sum(sizes[path] for path, _ in missing), sum(sizes.values())
    progress("dealing n-grams into buckets", done, total, "B")
    for number, _ in pool.run((deal_part, (job, path, sha256)) for path, sha256 in missing):
        done += sizes[missing[number][0]]
        progress("dealing n-grams into buckets", done, total, "B")
    _give_back_room()
    for name in names:
        spent += _dealing_seconds(job, name)
    for left in job.scratch.glob("again-*"):  # of a run that was killed
        shutil.rmtree(left, ignore_errors=True)
    groups = job.plan.groups(_bucket_sizes(job, names))
    frequent = np.zeros(job.max_n + 1, np.int64)
    progress("counting buckets", 0, len(groups), "groups")
    tasks: Iterator[Task] = ((count_group, (job, names, group)) for group in groups)
    for num_done, (_, (found, seconds)) in enumerate(pool.run(tasks), 1):
        spent += seconds
        frequent += found
        progress("counting buckets", num_done, len(groups), "groups", f"{int(frequent.sum()):,} frequent n-grams")
    _give_back_room()
    lengths = sorted(range(2, job.max_n + 1), key=lambda n: -frequent[n])  # the largest task first
    rows_done, rows = 0, int(frequent.sum())
    progress("putting n-grams in order", 0, rows, "n-grams")
    occurrences = {}
    tasks = ((finish, (job, names, groups, n, out)) for n in [*lengths, 1])
    for number, (num_occurrences, seconds) in pool.run(tasks):
        spent += seconds
        if number < len(lengths):
            rows_done += int(frequent[lengths[number]])
            occurrences[lengths[number]] = num_occurrences
        progress("putting n-grams in order", rows_done, rows, "n-grams")
    kept = [{"n": n, "ngrams": int(frequent[n]), "occurrences": occurrences[n]} for n in range(2, job.max_n + 1)]
    return kept, spent


# ---- the tasks ---------------------------------------------------------------------------------------------------


def deal_part(job: CountingJob, path: Path, sha256: str | None) -> None:
    """Deal the train documents of one part of `tokens/`."""
    from scone_cli.corpus.token_stream import continues_of, documents_of  # heavy: see above

    seconds = Seconds()
    clock = Clock(seconds)
    with path.open("rb") as file:
        content = file.read()
    if sha256 is not None:
        _check(path, content, sha256)
    table = pq.ParquetFile(pa.BufferReader(content)).read(["split", "continues", "tokens"], use_threads=False)
    lists = table.column("tokens").combine_chunks()
    starts = lists.offsets.to_numpy().astype(np.int64)
    is_train = np.array(table.column("split").to_pylist()) == TRAIN
    document = documents_of(continues_of(table)).astype(np.uint32)
    clock("reading tokens")
    segments = starts[:-1][is_train], starts[1:][is_train], document[is_train]
    deal(job, path.name, lists.values.to_numpy(), segments, seconds)


def deal_documents(job: CountingJob, name: str, stream: TokenStream) -> None:
    """Deal the train documents of a part of `tokens/` right after it was written."""
    segments = stream.starts[:-1], stream.starts[1:], stream.document_of.astype(np.uint32)
    deal(job, name, stream.tokens, segments, Seconds())


def _check(path: Path, content: bytes, sha256: str) -> None:
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise DamagedArtifact(
            f"{path}: SHA-256 {found[:16]}…, the manifest says {sha256[:16]}…",
            "make it again: scone count-ngrams CORPUS --force",
        )


def deal(job: CountingJob, name: str, tokens: U32, segments: Segments, seconds: Seconds) -> None:
    """Deal the documents of the shard `name` into buckets of records, one block of positions at a time.

    `seconds`: the time that was spent on this shard before.
    """
    from scone_cli.counting.partition import Dealer, count_tokens  # heavy: see above

    mark = job.dealt(name)
    if mark.exists():
        return
    clock = Clock(seconds)
    dtype, width = record_layout(job.num_tokens, job.max_n)
    small: Any = tokens.astype(dtype, copy=False)
    excluded = np.zeros(job.num_tokens, np.uint8)
    excluded[list(job.excluded)] = 1
    dealer = Dealer.of(small, segments, excluded, job.max_n, job.plan.bits)
    unigrams = count_tokens(small, segments, job.num_tokens)
    clock("packing tokens")
    size = min(job.plan.block_tokens, max(1, small.size))
    room = _room(job.plan.block_tokens * (4 + width * dtype.itemsize))
    where = room[: 4 * job.plan.block_tokens].view(np.uint32)
    records = room[where.nbytes :].view(dtype).reshape(-1, width)
    all_offsets = []
    for block, begin in enumerate(range(0, max(1, small.size), size)):
        offsets = dealer.deal(begin, min(begin + size, small.size), where, records)
        clock("dealing records")
        with appearing(job.records(name, block), job.lasting) as file:
            records[: offsets[-1]].tofile(file)
        all_offsets.append(offsets)
        clock("writing records")
    with appearing(mark, job.lasting) as file:
        np.save(file, np.array(all_offsets))
        for column in unigrams:
            np.save(file, column)
        file.write(json.dumps(seconds).encode())


def _give_back_room() -> None:
    """Free the memory of a finished step: with a single process the next step, with other arrays, needs it."""
    _room.cache_clear()
    give_back_memory()


@functools.lru_cache(maxsize=1)  # one buffer is enough: dealing has ended when counting begins
def _room(size: int) -> Any:
    """A scratch buffer that a process reuses: the first use of new memory costs as much time as the work done in it."""
    return np.empty(size, np.uint8)


def count_group(
    job: CountingJob, names: Sequence[str], group: tuple[int, int]
) -> tuple[npt.NDArray[np.int64], Seconds]:
    """Count the buckets first..last - 1 of all shards into a run; returns its number of n-grams by length, and the seconds."""
    from scone_cli.counting.again import nothing
    from scone_cli.counting.aggregate import count_buckets
    from scone_cli.counting.sort import in_order  # heavy: see above

    seconds = Seconds()
    lengths = range(2, job.max_n + 1)
    marks = [job.run(group, n) for n in lengths]
    if not all(mark.exists() for mark in marks):
        clock = Clock(seconds)
        segments = [
            (job.records(name, block), offsets)
            for name in names
            for block, offsets in enumerate(job.offsets(name, *group))
        ]
        limits = (job.max_n, job.min_count, job.min_docs)
        num_records = sum(int(offsets[-1] - offsets[0]) for _, offsets in segments)
        if job.parts(group).is_dir():  # and this process, or an earlier one, ended just then
            levels = nothing(job.max_n)
        elif num_records > job.plan.group_records:
            _count_in_parts(job, segments, group, clock)
            levels = nothing(job.max_n)
        else:
            records, bounds = _read_group(job, segments, num_records)
            clock("reading records")
            levels = count_buckets(records, bounds, *limits)
            clock("counting")
        for mark, ngrams in zip(marks, levels, strict=True):
            write_run(mark, in_order(ngrams), job.lasting)
        clock("writing runs")
    found = np.zeros(job.max_n + 1, np.int64)
    found[2:] = [sum(num_rows(run, n) for run in job.runs(group, n)) for n in lengths]
    return found, seconds


def _count_in_parts(
    job: CountingJob, segments: Sequence[tuple[Path, I64]], group: tuple[int, int], clock: Clock
) -> None:
    """Count a bucket that is larger than memory into several runs, in a folder that appears whole.

    Raises:
        StorageFailure: there is no room for a copy of the bucket.
    """
    from scone_cli.counting.again import Files, count_again  # heavy: see above
    from scone_cli.counting.sort import in_order

    dtype, width = record_layout(job.num_tokens, job.max_n)
    folder = job.scratch / f"again-{uuid.uuid4().hex}"  # of this process alone: another may count the same bucket
    num_records = sum(int(offsets[-1] - offsets[0]) for _, offsets in segments)
    check_disk(job.scratch, num_records * width * dtype.itemsize, "a second copy of a large bucket")
    runs = folder / "runs"
    runs.mkdir(parents=True)
    files = Files(
        lambda some, size: _read_group(job, some, size),
        lambda some: _pieces(job, some),
        folder,
        job.plan.group_records,
    )
    for number, found in enumerate(count_again(files, segments, job.max_n, job.min_count, job.min_docs)):
        clock("counting")
        for n, ngrams in enumerate(found, 2):
            if len(ngrams):
                write_run(runs / f"{number:06}.n={n}", in_order(ngrams), job.lasting)
        clock("writing runs")
    with contextlib.suppress(OSError):  # they are there, by another process
        runs.rename(job.parts(group))
    shutil.rmtree(folder)
    assert job.parts(group).is_dir()


def _read_group(job: CountingJob, segments: Sequence[tuple[Path, I64]], num_records: int) -> tuple[Records, I64]:
    """Read the records of a group, segment after segment; also returns where each bucket of each segment begins."""
    dtype, width = record_layout(job.num_tokens, job.max_n)
    room = _room(max(job.plan.group_records, 1) * width * dtype.itemsize).view(dtype)
    filled, bounds = 0, []
    for path, offsets in segments:
        size = int(offsets[-1] - offsets[0]) * width
        with path.open("rb", buffering=0) as file:
            file.seek(int(offsets[0]) * width * dtype.itemsize)
            _read_into(file, room[filled : filled + size])
        bounds.append(filled // width + offsets - offsets[0])
        filled += size
    return room[: num_records * width].reshape(num_records, width), np.array(bounds)


def _pieces(job: CountingJob, segments: Sequence[tuple[Path, I64]]) -> Iterator[Records]:
    """Read the records of one bucket in pieces of at most `piece_records`, to keep to the memory limit."""
    dtype, width = record_layout(job.num_tokens, job.max_n)
    for path, offsets in segments:
        with path.open("rb", buffering=0) as file:
            file.seek(int(offsets[0]) * width * dtype.itemsize)
            for begin in range(int(offsets[0]), int(offsets[-1]), job.plan.piece_records):
                records = np.empty((min(job.plan.piece_records, int(offsets[-1]) - begin), width), dtype)
                _read_into(file, records.reshape(-1))
                yield records


def finish(
    job: CountingJob, names: Sequence[str], groups: Sequence[tuple[int, int]], n: int, out: Path
) -> tuple[int, Seconds]:
    """Write `out/n=<n>.parquet`; returns the total occurrences of its n-grams, and the seconds."""
    seconds = Seconds()
    clock = Clock(seconds)
    target = out / f"n={n}.parquet"
    if target.exists():
        counts = pq.ParquetFile(to_read(target)).read(["count"]).column(0)
        return int(np.sum(counts.to_numpy(), dtype=np.uint64)), seconds
    _room.cache_clear()
    if n == 1:
        counts = _write_unigrams(job, names, target)
        clock("writing counts")
        return int(counts.sum()), seconds
    runs = [run for group in groups for run in job.runs(group, n)]
    return merge_runs(runs, n, target, job.plan.merge_rows, clock, job.lasting), seconds


def _write_unigrams(job: CountingJob, names: Sequence[str], target: Path) -> npt.NDArray[np.uint64]:
    """Write the counts of single tokens in the train split, including rare ones: n-gram counts are compared with them."""
    from scone_cli.counting.sort import Ngrams, in_order  # heavy: see above

    counts, docs = np.zeros(job.num_tokens, np.uint64), np.zeros(job.num_tokens, np.uint32)
    for name in names:
        with job.dealt(name).open("rb") as file:
            np.load(file)
            counts += np.load(file)
            docs += np.load(file)
    ids = np.flatnonzero(counts)
    write_counts(target, in_order(Ngrams(ids.astype(np.uint32)[:, None], counts[ids], docs[ids])), job.lasting)
    return counts


# ---- what several tasks read ------------------------------------------------------------------------------------


def _dealing_seconds(job: CountingJob, name: str) -> Seconds:
    """The processor seconds spent on dealing a shard, in whichever process did it."""
    with job.dealt(name).open("rb") as file:
        for _ in range(3):
            np.load(file)
        return Seconds(json.loads(file.read()))


def _bucket_sizes(job: CountingJob, names: Sequence[str]) -> I64:
    """The number of records in each bucket, summed over all shards [2**bits]."""
    sizes = np.zeros(1 << job.plan.bits, np.int64)
    for name in names:
        sizes += np.diff(job.offsets(name, 0, sizes.size)).sum(axis=0)
    return sizes


def _read_into(file: BinaryIO, array: Any) -> None:
    """Fill an array from the file's current position; one read may return fewer bytes than were asked for."""
    view = memoryview(array).cast("B")
    while view:
        size = file.readinto(view)  # type: ignore[attr-defined] # an unbuffered file has it
        assert size, "a file of records ends too early"
        view = view[size:]
