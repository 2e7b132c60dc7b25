"""What a bucket costs that is larger than what a process may count at a time, in time and in memory.

    python benchmarks/bench_buckets.py --workspace demo/scone-work --bits 4 --times 0,2,8,32

The train tokens of the workspace are dealt once into 2**bits buckets. Then all buckets are counted by one process that may
hold 1/`times` of the mean bucket's records (0: the largest bucket, so that all fit; the others are measured against it). Every
count is a new process, which counts the first bucket untimed; rounds in turn, A B C A B C, medians. All must find the same
n-grams. `memory` is the peak beside what the process has by then; `planned` is what the plan allows it there.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from measuring import arguments, finish

from scone_cli.counting.count import KERNELS, _bucket_sizes, count_group, deal_part
from scone_cli.counting.job import CountingJob
from scone_cli.counting.merge import _read_rows, num_rows
from scone_cli.counting.plan import make_plan
from scone_cli.runtime.worker_pool import Pool, give_back_memory

MAX_N, MIN_COUNT = 5, 5


def job_of(scratch: Path, vocab_size: int, bits: int, group_records: int) -> CountingJob:
    plan = make_plan(10**9, vocab_size, MAX_N, MIN_COUNT, 64 << 30, 1, False)
    plan = dataclasses.replace(plan, bits=bits, group_records=group_records, piece_records=group_records // 4)
    return CountingJob.begin(scratch, vocab_size, (), MAX_N, MIN_COUNT, 1, plan, lasting=False)


def resident(name: str) -> int:
    """A size of this process in bytes: VmRSS, or VmHWM, the largest since the last reset."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0]) << 10


def count_all(scratch: Path, vocab_size: int, bits: int, group_records: int) -> dict[str, Any]:
    """Count every bucket in this process; the processor seconds of counting, the memory, a hash of the runs."""
    job, names = job_of(scratch, vocab_size, bits, group_records), sorted(path.stem for path in scratch.glob("*.dealt"))
    with Pool(1, KERNELS):
        groups = [(bucket, bucket + 1) for bucket in range(1 << bits)]
        count_group(job, names, groups[0])  # loads the kernels, which takes some 100 MiB
        give_back_memory()
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        before, started, cpu = resident("VmRSS"), time.perf_counter(), time.process_time()
        for group in groups[1:]:
            count_group(job, names, group)
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    memory, rows = resident("VmHWM") - before, 0
    for run in [each for each in scratch.rglob("*.n=*") if each.is_file()]:
        n = int(run.name.rpartition("=")[2])
        rows = (rows + sum_of_rows(_read_rows(run, n, 0, num_rows(run, n)))) % (1 << 64)
        run.unlink()
    for parts in scratch.glob("run-*.parts"):
        parts.rmdir()
    return {"seconds": seconds, "cpu": cpu, "memory": memory, "rows": rows}


def sum_of_rows(rows: tuple[Any, Any, Any]) -> int:
    """A sum of hashes of n-grams, with their counts and documents, in any order."""
    tokens, counts, docs = rows
    mixed = np.zeros(len(counts), np.uint64)
    for column in (*tokens.T, counts, docs):
        mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15) + column.astype(np.uint64)
        mixed *= np.uint64(0xD6E8FEB86659FD93)
    return int(mixed.sum(dtype=np.uint64))


def main() -> None:
    options = arguments(__doc__ or "", "tokens", bits=4, times="0,2,8,32", repeats=3, count="")
    if options.count:
        scratch, *numbers = options.count.split(",")
        print(json.dumps(count_all(Path(scratch), *map(int, numbers))))
        return
    folder = options.workspace / "tokens"
    vocab_size = json.loads((folder / "manifest.json").read_text())["summary"]["vocab_size"]
    scratch = Path(tempfile.mkdtemp(dir=options.workspace))
    try:
        job = job_of(scratch, vocab_size, options.bits, 1)
        for part in sorted(folder.glob("part-*.parquet")):
            deal_part(job, part, None)
        sizes = _bucket_sizes(job, [part.name for part in sorted(folder.glob("part-*.parquet"))])
        largest, mean = int(sizes.max()), float(sizes.mean())
        groups = {times: largest if times == 0 else int(mean / times) for times in map(int, options.times.split(","))}
        found: dict[int, list[dict[str, Any]]] = {times: [] for times in groups}
        for _ in range(options.repeats):
            for times, records in groups.items():
                child = f"{scratch},{vocab_size},{options.bits},{records}"
                command = [sys.executable, __file__, "--workspace", options.workspace, "--count", child]
                ended = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
                found[times].append(json.loads(ended.stdout.splitlines()[-1]))
    finally:
        shutil.rmtree(scratch)
    assert len({each["rows"] for all_ in found.values() for each in all_}) == 1, "the counts differ"
    print(f"{int(sizes.sum()):,} records, {1 << options.bits} buckets, mean {mean:,.0f}, largest {largest:,}")
    median = {
        t: {k: statistics.median(e[k] for e in all_) for k in ("seconds", "cpu", "memory")} for t, all_ in found.items()
    }
    bytes_each = 10 + 20 + 11  # as counting/plan.py plans for records of ten bytes and a least count of five
    for times, of in median.items():
        records = groups[times]
        print(
            f"times {times:3}: {records:11,} records at a time, cpu {of['cpu']:6.2f} s "
            f"(x {of['cpu'] / median[0]['cpu']:.2f}), wall {of['seconds']:6.2f} s, "
            f"memory {of['memory'] / 2**20:7.0f} MiB, planned {records * bytes_each / 2**20:7.0f} MiB"
        )
    finish("buckets larger than memory", options.workspace, **{f"times {t}": of for t, of in median.items()})


if __name__ == "__main__":
    main()
