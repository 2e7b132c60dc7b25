"""Benchmark of the Ray engine: `scone count-ngrams` on this machine's processes against nodes of a Ray cluster on this machine.

    pip install -e '.[ray]'
    python benchmarks/bench_scale.py corpus/ --runs local:1,local:2,local:4,ray:1x1,ray:1x2,ray:1x4,ray:2x1,ray:2x2
    python benchmarks/bench_scale.py zipf/*.bin --separator 4096
    python benchmarks/bench_scale.py corpus/ --small              # what Ray costs where there is hardly any work
    python benchmarks/bench_scale.py --ray-data demo/scone-work   # beside Ray Data's own group-by, --tokens of the workspace

`local:W` is the local pool with W workers; `ray:NxW` is a cluster of N nodes with W cores each. Each run makes a workspace
from nothing, with the tokenizer of the first run, and all artifacts are compared. The cluster is started before the clock;
the head has no core. The nodes share one machine, so more of them than it has cores show what Ray costs, not what it gains.

Memory is the peak of the proportional set sizes of the command, its processes and those that Ray started for it, sampled
four times a second; without Ray's own services, which are told apart.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from measuring import finish

from scone_cli.artifacts.schemas import TRAIN
from scone_cli.corpus.token_stream import iter_shards

RUNS = "local:1,local:2,local:4,ray:1x1,ray:1x2,ray:1x4,ray:2x1,ray:2x2"
_MIB = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, nargs="*", metavar="CORPUS")
    parser.add_argument("--runs", default=RUNS, help=f"[{RUNS}]")
    parser.add_argument("--separator", help="the id between documents of a corpus of token ids")
    parser.add_argument("--memory", default="2GiB", help="of each node [2GiB]")
    parser.add_argument("--repeats", type=int, default=1, help="of each run, in turn [1]")
    parser.add_argument("--small", action="store_true", help="count a corpus of 100 KB")
    parser.add_argument("--ray-data", type=Path, metavar="WORKSPACE", help="compare with Ray Data on its tokens")
    parser.add_argument("--tokens", type=float, default=20e6, help="for --ray-data [20e6]")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-scale-") as folder:
        if chosen.ray_data:
            beside_ray_data(chosen, Path(folder))
        else:
            beside_the_pool(chosen, Path(folder))


# ---- the local pool and Ray ------------------------------------------------------------------------------------


def beside_the_pool(chosen: argparse.Namespace, folder: Path) -> None:
    """Count the corpus by every run, in turn, and compare what they made."""
    corpus = chosen.corpus
    if chosen.small:
        corpus = [folder / "small.txt"]
        corpus[0].write_bytes((Path(sysconfig.get_path("stdlib")) / "argparse.py").read_bytes()[:100_000])
    options = ["--memory", chosen.memory, *(["--separator", chosen.separator] if chosen.separator else [])]
    found: dict[str, list[dict[str, float]]] = {}
    made = set()
    for _ in range(chosen.repeats):
        for run in chosen.runs.split(","):
            cost, hashes = one_run(run, corpus, options, folder)
            found.setdefault(run, []).append(cost)
            made.add(hashes)
            print(f"{run:10} " + ", ".join(f"{name} {value:,.1f}" for name, value in cost.items()), flush=True)
            if not (options[0] == "--tokenizer" or chosen.separator):
                options = ["--tokenizer", str(folder / "tokenizer.json"), *options]
    if len(made) != 1:
        sys.exit(f"{len(made)} different artifacts were made")
    medians = {
        run: {name: statistics.median(each[name] for each in costs) for name in costs[0]}
        for run, costs in found.items()
    }
    finish("what the Ray engine costs", Path(), repeats=chosen.repeats, artifacts="the same bytes", **medians)


def one_run(run: str, corpus: list[Path], options: list[str], folder: Path) -> tuple[dict[str, float], tuple[str, ...]]:
    """Seconds and MiB of one run, and the hashes of what it made."""
    kind, size = run.split(":")
    workspace = folder / "work"
    shutil.rmtree(workspace, ignore_errors=True)
    nodes, workers = map(int, size.split("x")) if kind == "ray" else (0, int(size))
    command = [sys.executable, "-m", "scone_cli", "--workspace", workspace, "count-ngrams", *corpus, *options]
    command += ["--workers", str(workers)]
    with cluster(nodes, workers) as address:
        command += ["--engine", "ray", "--ray-address", address] if address else []
        cost = measured([str(part) for part in command], folder / "log")
    manifests = [json.loads((workspace / name / "manifest.json").read_bytes()) for name in ("tokens", "counts")]
    if (workspace / "tokens" / "tokenizer.json").exists():
        shutil.copyfile(workspace / "tokens" / "tokenizer.json", folder / "tokenizer.json")
    return cost, tuple(str(stamp["sha256"]) for each in manifests for _, stamp in sorted(each["files"].items()))


@contextmanager
def cluster(num_nodes: int, num_cores: int) -> Iterator[str]:
    """The address of a new cluster; empty without nodes."""
    if not num_nodes:
        yield ""
        return
    from ray.cluster_utils import Cluster  # noqa: PLC0415 - an extra

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    started = Cluster(initialize_head=True, connect=False, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(num_nodes):
            started.add_node(num_cpus=num_cores, object_store_memory=100 * _MIB)
        yield started.address
    finally:
        started.shutdown()


def measured(command: list[str], log: Path) -> dict[str, float]:
    """Run a command; its wall seconds, those without and with work, and the peak memory of its processes and of Ray's."""
    peaks, ended = {"processes": 0.0, "ray": 0.0}, threading.Event()

    def watch(root: int) -> None:
        while not ended.wait(0.25):
            for name, value in zip(peaks, memory_of(root), strict=True):
                peaks[name] = max(peaks[name], value / _MIB)

    with log.open("wb") as output:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        watcher = threading.Thread(target=watch, args=(process.pid,))
        watcher.start()
        status = process.wait()
        wall = time.perf_counter() - started
    ended.set()
    watcher.join()
    text = log.read_text()
    if status:
        sys.exit(f"{' '.join(command)}\nended with {status}:\n{text[-3000:]}")
    steps = {
        what: float(seconds) for what, seconds in re.findall(r"^([a-z -]+): done, .* in ([\d.]+) s", text, re.MULTILINE)
    }
    work = sum(
        steps.get(name, 0)
        for name in ("tokenising", "dealing n-grams into buckets", "counting buckets", "putting n-grams in order")
    )
    return {"seconds": wall, "of work": work, "MiB": peaks["processes"], "MiB of Ray": peaks["ray"]}


def memory_of(root: int) -> tuple[int, int]:
    """Bytes of the process `root`, of all below it and of Ray's workers; and of Ray's services."""
    own, services, parents, names = 0, 0, {}, {}
    for process in Path("/proc").iterdir():
        if (entry := process.name).isdecimal():
            try:
                status = Path(f"/proc/{entry}/stat").read_text()
                names[int(entry)] = (
                    Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
            except OSError:
                continue
            parents[int(entry)] = int(status.rpartition(")")[2].split()[1])
    for pid, name in names.items():
        above, is_below = pid, False
        while above in parents and not is_below:
            is_below, above = above == root, parents[above]
        is_worker = name.startswith("ray::_Worker")
        if is_below or is_worker:
            own += _pss(pid)
        elif "ray/" in name or name.startswith("ray::"):
            services += _pss(pid)
    return own, services


def _pss(pid: int) -> int:
    try:
        found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) << 10 if found else 0


# ---- Ray Data --------------------------------------------------------------------------------------------------


def beside_ray_data(chosen: argparse.Namespace, folder: Path) -> None:
    """Count n-grams of 2 to 5 tokens on two nodes of a core, by scone and by Ray Data, and compare the counts."""
    stream = folder / "stream"
    num_tokens = write_stream(chosen.ray_data, int(chosen.tokens), stream)
    with cluster(2, 1) as address:
        workspace = folder / "work"
        command = [sys.executable, "-m", "scone_cli", "--workspace", str(workspace), "count-ngrams", str(stream)]
        command += ["--held-out", "0", "--engine", "ray", "--ray-address", address, "--memory", chosen.memory]
        ours = measured(command, folder / "log")
    print(f"scone on Ray: {ours}", flush=True)
    with cluster(2, 1) as address:
        theirs = measured(
            [sys.executable, __file__, "--as-ray-data", str(stream), str(folder / "counts"), address], folder / "log"
        )
    print(f"Ray Data: {theirs}", flush=True)
    expected = _sorted([pq.read_table(path) for path in sorted((workspace / "counts").glob("n=[2-5].parquet"))])
    found = _sorted([pq.read_table(folder / "counts")])
    same = expected.equals(found)
    finish(
        "n-grams by the group-by of Ray Data",
        chosen.ray_data,
        tokens=num_tokens,
        ngrams=len(expected),
        same_counts=same,
        scone=ours,
        ray_data=theirs,
    )


def write_stream(workspace: Path, num_tokens: int, out: Path) -> int:
    """Write documents of a workspace, about `num_tokens` tokens, as Parquet files of token lists; returns the tokens."""
    out.mkdir()
    written = 0
    for number, (_, shard) in enumerate(iter_shards(workspace / "tokens", TRAIN)):
        most = int(np.searchsorted(shard.starts, num_tokens - written, "right")) - 1
        for part, first in enumerate(range(0, most, 500)):
            starts = shard.starts[first : min(first + 500, most) + 1]
            lists = pa.ListArray.from_arrays(
                (starts - starts[0]).astype(np.int32), shard.tokens[starts[0] : starts[-1]]
            )
            pq.write_table(pa.table({"tokens": lists}), out / f"{number:05d}-{part:04d}.parquet")
        written += int(shard.starts[most])
        if most < len(shard.starts) - 1:
            break
    return written


def count_by_ray_data(stream: Path, out: Path, address: str) -> None:
    """All n-grams that occur five times, counted by Ray Data: each block is counted alone, and the groups are added up."""
    import ray  # noqa: PLC0415 - an extra
    from ray.data.aggregate import Sum  # noqa: PLC0415

    ray.init(address=address, log_to_driver=False)
    counted = ray.data.read_parquet(str(stream)).map_batches(_count_block, batch_format="pyarrow", batch_size=None)
    added = counted.groupby("ngram").aggregate(Sum("count", alias_name="count"), Sum("docs", alias_name="docs"))
    added.filter(expr="count >= 5").write_parquet(str(out))


def _count_block(block: pa.Table) -> pa.Table:
    lists = block["tokens"].combine_chunks()
    tokens, ends = lists.flatten().to_numpy(), lists.offsets.to_numpy()[1:] - lists.offsets[0].as_py()
    docs = np.repeat(np.arange(len(ends), dtype=np.int64), np.diff(ends, prepend=0))
    tables = []
    for n in range(2, 6):
        rows = len(tokens) - n + 1
        inside = docs[:rows] == docs[n - 1 :]
        columns = {f"t{i}": tokens[i : i + rows][inside] for i in range(n)}
        by_doc = (
            pa.table(columns | {"doc": docs[:rows][inside]}).group_by([*columns, "doc"]).aggregate([([], "count_all")])
        )
        found = by_doc.group_by(list(columns)).aggregate([("count_all", "sum"), ([], "count_all")])
        keys = np.stack([found[name].to_numpy() for name in columns], 1).astype("<u4")
        ngram = pa.array([row.tobytes() for row in keys], pa.binary())
        tables.append(pa.table({"ngram": ngram, "count": found["count_all_sum"], "docs": found["count_all"]}))
    return pa.concat_tables(tables)


def _sorted(tables: list[pa.Table]) -> pa.Table:
    """N-grams as bytes with counts and documents, in the order of the bytes."""
    kinds = pa.schema([("ngram", pa.binary()), ("count", pa.int64()), ("docs", pa.int64())])
    whole = pa.concat_tables([_with_bytes(table).select(kinds.names).cast(kinds) for table in tables])
    return whole.combine_chunks().sort_by("ngram")


def _with_bytes(table: pa.Table) -> pa.Table:
    if "ngram" in table.column_names:
        return table
    tokens = table["tokens"].combine_chunks().flatten().to_numpy()
    keys = [row.tobytes() for row in tokens.reshape(len(table), -1).astype("<u4")]
    return table.append_column("ngram", pa.array(keys, pa.binary()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--as-ray-data"]:
        count_by_ray_data(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
    else:
        main()
