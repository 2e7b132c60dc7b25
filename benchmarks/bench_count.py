"""Benchmark of n-gram counting: `scone count-ngrams` against polars, DuckDB and colibri-core on the same token stream.

    pip install -e '.[bench]'
    python benchmarks/bench_count.py --workspace demo/scone-work
    python benchmarks/bench_count.py --tokens 50000000 --memory 1GiB --rivals scone,polars,duckdb,colibri:5000000

The job: all n-grams, n = 2..5, that occur 5 times or more in the first documents of the train split, with their counts
and the number of documents that hold them. Every run is a cold process (page cache warm, numba's kernels compiled) on
`--workers` cores; the rivals run in turn, A B C A B C. Before the timed runs, each rival runs once with memory sampled.
`name:tokens` gives a shorter stream to a rival that is too slow or needs too much memory. All counts are compared,
n-gram by n-gram.

The rivals do not do exactly the same work:
- scone: the command `count-ngrams` on existing `tokens/`: it reads Parquet, checks hashes, and publishes sorted Parquet
  with hashes, n = 1 too; it keeps to --memory if given. scone-library: the function that the command calls, no hashes.
- polars, duckdb: from a Parquet file that suits them (16-bit tokens, one document number per row) to unsorted Parquet.
  Only DuckDB can be limited to --memory, and it is. `polars-columns`, `duckdb-columns`: the plain query
  (`count_rivals.py`).
- colibri: from its own encoding to its own model; on one core, without documents.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from count_rivals import MAX_N, MIN_COUNT, RIVALS
from measuring import arguments, finish
from processes import Cost, run_cold

from scone_cli.artifacts.schemas import TRAIN
from scone_cli.corpus.token_stream import TokenStream, read_tokens

U64 = npt.NDArray[np.uint64]

_FIRST_CLASS = 6  # of colibri-core: lower classes are reserved, and 0 ends a document


# ---- the stream in each rival's format ---------------------------------------------------------------------------


def prepare(stream: TokenStream, num_tokens: int, folder: Path) -> int:
    """Write the first documents, at most `num_tokens` tokens, in every rival's format; returns the number of tokens."""
    num_docs = max(1, int(np.searchsorted(stream.starts, num_tokens, "right")) - 1)
    starts = stream.starts[: num_docs + 1]
    tokens = stream.tokens[: starts[-1]]
    separator = int(stream.tokens.max()) + 1
    if separator >= 2**16:
        sys.exit(f"token {separator - 1:,} in the workspace: this benchmark writes 16 bits per token")
    folder.mkdir()
    np.insert(tokens, starts[1:], separator).astype("<u2").tofile(folder / "stream.bin")
    docs = np.repeat(np.arange(num_docs, dtype=np.uint32), np.diff(starts))
    pq.write_table(pa.table({"token": tokens.astype(np.uint16), "doc": docs}), folder / "stream.parquet")
    _encode_for_colibri(tokens, starts, folder)
    run_cold(scone_command(folder, separator), _cores(1), os.environ, folder / "log", pss=False)
    return int(tokens.size)


def _encode_for_colibri(tokens: npt.NDArray[np.uint32], starts: npt.NDArray[np.int64], folder: Path) -> None:
    """Write colibri-core's corpus format: a 2-byte header, then classes in 7 bits per byte, low bits first.

    Frequent tokens get low classes, which take fewer bytes.
    """
    by_count = np.argsort(-np.bincount(tokens), kind="stable")
    classes = np.empty(by_count.size, np.uint32)
    classes[by_count] = np.arange(by_count.size) + _FIRST_CLASS
    np.save(folder / "token_of_class.npy", np.concatenate([np.zeros(_FIRST_CLASS, np.int64), by_count]))
    values = np.insert(classes[tokens], starts[1:], 0)
    lengths = 1 + (values >= 1 << 7) + (values >= 1 << 14)
    begins = np.cumsum(lengths) - lengths
    encoded = np.empty(lengths.sum(), np.uint8)
    for k in range(3):
        has = lengths > k
        encoded[begins[has] + k] = values[has] >> 7 * k & 0x7F | (lengths[has] > k + 1).astype(np.uint32) << 7
    (folder / "stream.colibri").write_bytes(b"\xa2\x02" + encoded.tobytes())


# ---- the runs ----------------------------------------------------------------------------------------------------


def scone_command(folder: Path, separator: int, *more: str) -> list[str]:
    """The `count-ngrams` command for the stream; the first run makes `tokens/`, later runs find it up to date."""
    options = {"--separator": separator, "--held-out": 0, "--max-n": MAX_N, "--min-count": MIN_COUNT}
    given = [str(word) for option in options.items() for word in option]
    command = [sys.executable, "-m", "scone_cli", "--workspace", str(folder / "work"), "count-ngrams"]
    return [*command, str(folder / "stream.bin"), *given, *more]


def run(rival: str, folder: Path, separator: int, workers: int, memory: str, pss: bool) -> Cost:
    """Run a rival once in a cold process and return its cost; its counts are in `counts_folder(rival, folder)`."""
    found = counts_folder(rival, folder)
    shutil.rmtree(found, ignore_errors=True)
    if rival == "scone":
        limits = ["--workers", str(workers), *(["--memory", memory] if memory else [])]
        command = scone_command(folder, separator, *limits)
    else:
        found.mkdir()
        command = [sys.executable, str(Path(__file__).with_name("count_rivals.py")), rival, str(folder), str(found)]
    threads = str(workers)
    env = os.environ | {
        "POLARS_MAX_THREADS": threads,
        "OMP_NUM_THREADS": threads,
        "RIVAL_THREADS": threads,
        "RIVAL_MEMORY": memory,
    }
    return run_cold(command, _cores(workers), env, folder / "log", pss)


def counts_folder(rival: str, folder: Path) -> Path:
    """The folder that a rival writes its counts to."""
    return folder / "work" / "counts" if rival == "scone" else folder / rival


def _cores(workers: int) -> list[int]:
    """The last `workers` cores, so that the first is free for sampling memory."""
    return sorted(os.sched_getaffinity(0))[-workers:]


# ---- comparing the counts ----------------------------------------------------------------------------------------


def digest(folder: Path) -> list[tuple[int, int, int, int]]:
    """Digest of a rival's counts per n = 2..5: n-grams, occurrences, sums of hashes over (tokens, count), (tokens, docs)."""
    digests = []
    for n in range(2, MAX_N + 1):
        table = pq.read_table(folder / f"n={n}.parquet")
        if "tokens" in table.column_names:
            tokens = table.column("tokens").combine_chunks().flatten().to_numpy().reshape(-1, n)
            columns = list(tokens.T)
        else:
            columns = [table.column(f"t{k}").to_numpy() for k in range(n)]
        digests.append(_digest(columns, table.column("count").to_numpy(), table.column("docs").to_numpy()))
    return digests


def digest_colibri(folder: Path, stream: Path) -> list[tuple[int, int, int, int]]:
    """Digest of colibri-core's model; it counts no documents, so every number of documents is 0."""
    import colibricore  # noqa: PLC0415 - needed only if it is among the rivals

    model = colibricore.UnindexedPatternModel()
    model.load(str(folder / "counts.colibri"))
    patterns: list[list[bytes]] = [[] for _ in range(MAX_N + 1)]
    counts: list[list[int]] = [[] for _ in range(MAX_N + 1)]
    for pattern, count in model.items():
        patterns[len(pattern)].append(bytes(pattern))
        counts[len(pattern)].append(count)
    token_of_class = np.load(stream / "token_of_class.npy")
    digests = []
    for n in range(2, MAX_N + 1):
        encoded = np.frombuffer(b"".join(patterns[n]), np.uint8).astype(np.int64)
        begins = np.flatnonzero(np.concatenate([[True], encoded[:-1] < 0x80]))
        place = np.arange(encoded.size) - np.repeat(begins, np.diff(np.append(begins, encoded.size)))
        classes = np.add.reduceat((encoded & 0x7F) << 7 * place, begins)
        tokens = token_of_class[classes].reshape(-1, n)
        digests.append(_digest(list(tokens.T), np.array(counts[n]), np.zeros(len(counts[n]))))
    return digests


def _digest(
    columns: Sequence[npt.NDArray[np.generic]], counts: npt.NDArray[np.generic], docs: npt.NDArray[np.generic]
) -> tuple[int, int, int, int]:
    hashed = np.zeros(counts.size, np.uint64)
    for column in columns:
        hashed = _mix(hashed, column)
    sums = [int(_mix(hashed, values).sum()) for values in (counts, docs)]
    return counts.size, int(counts.sum()), sums[0], sums[1]


def _mix(hashed: U64, values: npt.NDArray[np.generic]) -> U64:
    mixed = (hashed ^ values.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(1)
    return mixed ^ (mixed >> np.uint64(29))


def check(rivals: Sequence[tuple[str, Path]]) -> dict[Path, int]:
    """Exit with an error unless all rivals found the same counts; returns the number of n-grams per stream."""
    found: dict[Path, list[tuple[int, int, int, int]]] = {}
    for rival, folder in rivals:
        expected = found.setdefault(folder, digest(folder / "reference"))
        if rival == "colibri":
            counted = digest_colibri(counts_folder(rival, folder), folder)
            agree = [each[:3] for each in counted] == [each[:3] for each in expected]
        else:
            agree = (counted := digest(counts_folder(rival, folder))) == expected
        if not agree:
            sys.exit(f"{rival} and the reference disagree: {counted}, expected {expected}")
    return {folder: sum(each[0] for each in digests) for folder, digests in found.items()}


# ---- the benchmark -----------------------------------------------------------------------------------------------


def main() -> None:
    chosen = arguments(
        __doc__,
        needs="tokens",
        tokens=5_000_000,
        repeats=5,
        rivals="scone,scone-library,polars,duckdb,colibri",
        memory="",
        workers=1,
    )
    asked = dict(name.partition(":")[::2] for name in chosen.rivals.split(","))
    if unknown := set(asked) - {"scone", *RIVALS}:
        sys.exit(f"--rivals {', '.join(sorted(unknown))}: expected of {', '.join(['scone', *RIVALS])}")
    stream = read_tokens(chosen.workspace / "tokens", TRAIN)
    separator = int(stream.tokens.max()) + 1
    with tempfile.TemporaryDirectory(prefix="bench-count-") as scratch:
        folders = {size: Path(scratch) / str(size) for size in {int(size or chosen.tokens) for size in asked.values()}}
        num_tokens = {folder: prepare(stream, size, folder) for size, folder in folders.items()}
        for folder in num_tokens:
            shutil.copytree(folder / "work" / "counts", folder / "reference")
        rivals = [(name, folders[int(size or chosen.tokens)]) for name, size in asked.items()]
        costs: dict[str, list[Cost]] = {name: [] for name, _ in rivals}
        for round_number in range(chosen.repeats + 1):
            for name, folder in rivals:
                cost = run(name, folder, separator, chosen.workers, chosen.memory, pss=round_number == 0)
                costs[name].append(cost)
                print(f"round {round_number} {name:15} {cost.wall_seconds:8.2f} s", file=sys.stderr)
        num_ngrams = check(rivals)
        results = {
            name: figures(
                costs[name], num_tokens[folder], num_ngrams[folder], 1 if name == "colibri" else chosen.workers
            )
            for name, folder in rivals
        }
    limits = {"memory": chosen.memory or None, "workers": chosen.workers, "repeats": chosen.repeats}
    finish("how fast are n-grams counted", chosen.workspace, **limits, counts_agree=True, **results)


def figures(costs: Sequence[Cost], num_tokens: int, num_ngrams: int, cores: int) -> dict[str, float]:
    """Figures of one rival: medians over the timed rounds, and memory in MB from the first run, which was sampled."""
    timed = [asdict(cost) for cost in costs[1:]]
    wall, cpu = (statistics.median(cost[name] for cost in timed) for name in ("wall_seconds", "cpu_seconds"))
    return {
        "tokens": num_tokens,
        "frequent_ngrams": num_ngrams,
        "wall_seconds": wall,
        "cpu_seconds": cpu,
        "tokens_per_second_and_core": num_tokens / wall / cores,
        "tokens_per_cpu_second": num_tokens / cpu,
        "peak_pss_mb": costs[0].pss_bytes / 1e6,
        "peak_rss_mb": max(cost.rss_bytes for cost in costs) / 1e6,
        "largest_process_mb": max(cost.largest_bytes for cost in costs) / 1e6,
    }


if __name__ == "__main__":
    main()
