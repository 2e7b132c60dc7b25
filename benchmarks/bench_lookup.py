"""Benchmark of table look-ups from RAM, mapped files and a cold disk, against LMDB, RocksDB, a dict and searchsorted.

    pip install -e '.[bench]'
    python benchmarks/bench_lookup.py --workspace demo/scone-work --folder scratch

A look-up matches the next tokens of a stream, and fetches the rows of the matches into one array. The f-grams are those of
the workspace, filled up to `--fgrams` with other bigrams; the rows are random, and all stores hold the same rows. Two
streams: `text`, the held-out split, and `uniform`, f-grams drawn with equal probability, so that no row is more frequent
than others. Every store is measured alone: warm after its files have been read once, cold after they were closed and
dropped from the page cache (posix_fadvise; the index of f-grams stays in memory, as the dict does). Per batch size:
median and 99th percentile by the clock, and CPU time, in microseconds per token. It needs three times the size of the
rows on disk, and twice in memory: with less, the warm figures are not warm.
"""

from __future__ import annotations

import itertools
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lookup_rivals import FINDERS, STORES, Finder, LmdbFinder, Store, drop, key_bytes, read_through
from measuring import arguments, finish

from scone_cli.arrays import U32, U64
from scone_cli.artifacts.manifest import FileStamp, Manifest, read_manifest
from scone_cli.artifacts.schemas import HELD_OUT
from scone_cli.corpus.token_stream import read_tokens
from scone_cli.table.layout import write_index, write_rows
from scone_cli.table.table import Table
from scone_cli.vocab.index import NONE
from scone_cli.vocab.trie import FgramTrie
from scone_cli.vocab.vocabulary import Vocabulary

BATCHES = (1, 16, 256, 4096)
PREFILL = 32_768
MOST_LOOK_UPS = 100_000  # timed per store, stream and batch size
POOL = 65_536  # different random rows; each row also begins with its own number

# The next tokens; the keys of the f-grams that match; the bytes of these tokens and of some before them.
Batch = tuple[U32, list[bytes], bytes]


@dataclass(frozen=True)
class Stream:
    """A stream of tokens, its matches, and the keys of the matched f-grams, which a store is asked for."""

    tokens: U32
    ids: U32
    keys: U64  # by f-gram
    max_n: int

    def batches(self, size: int) -> Iterator[Batch]:
        for first in range(0, self.tokens.size - size + 1, size):
            ids = self.ids[first : first + size]
            read = self.tokens[max(0, first - self.max_n + 1) : first + size].tobytes()
            yield self.tokens[first : first + size], key_bytes(self.keys[ids[ids != NONE]]), read


def with_bigrams(trie: FgramTrie, size: int) -> FgramTrie:
    """The first `size` f-grams, filled up with other bigrams if there are fewer; the vocabulary stays closed."""
    if size <= trie.num_fgrams:
        return FgramTrie(
            trie.prefix_nodes[:size], trie.last_tokens[:size], trie.lengths[:size], trie.num_tokens, trie.max_n
        )
    is_bigram = trie.lengths == 2
    known = trie.prefix_nodes[is_bigram].astype(np.int64) * trie.num_tokens + trie.last_tokens[is_bigram]
    others = np.setdiff1d(np.arange(trie.num_tokens**2), known, assume_unique=True)
    more = np.random.default_rng(0).permutation(others)[: size - trie.num_fgrams]
    return FgramTrie(
        np.concatenate([trie.prefix_nodes, (more // trie.num_tokens).astype(np.uint32)]),
        np.concatenate([trie.last_tokens, (more % trie.num_tokens).astype(np.uint32)]),
        np.concatenate([trie.lengths, np.full(more.size, 2, np.uint8)]),
        trie.num_tokens,
        trie.max_n,
    )


def make_rows(path: Path, num_rows: int, row_bytes: int) -> None:
    """Write a file of random rows; each begins with its row number, so that all are different."""
    pool = np.random.default_rng(0).integers(1, 256, (POOL, row_bytes), np.uint8)
    with path.open("wb") as file:
        for first in range(0, num_rows, POOL):
            part = pool[: min(POOL, num_rows - first)]
            part[:, :8] = np.arange(first, first + len(part), dtype=np.uint64)[:, None].view(np.uint8)
            part.tofile(file)


def make_table(folder: Path, trie: FgramTrie, rows: Path, dim: int) -> float:
    """Write a table of float16 rows as `precompute` would; returns the CPU seconds to build its index."""
    folder.mkdir()
    write_rows(folder, np.memmap(rows, np.uint8, "r").reshape(-1, 2 * dim))
    trie_of_some = with_bigrams(trie, 1000)
    trie_of_some.index()  # compiled
    started = time.process_time()
    index = trie.index()
    seconds = time.process_time() - started
    write_index(folder, index, dim, "float16")
    settings = {"dtype": "float16", "dim": dim, "num_fgrams": trie.num_fgrams}
    settings |= {"num_tokens": trie.num_tokens, "max_n": trie.max_n}
    stamps = {path.name: FileStamp(path.stat().st_size, "") for path in folder.iterdir()}
    made_by: dict[str, Any] = {
        "stage": "precompute",
        "stage_version": 0,
        "fingerprint": "",
        "inputs": {},
        "tokenizer": "",
    }
    manifest = Manifest.new("table", **made_by, settings=settings, summary={}, files=stamps)
    (folder / "manifest.json").write_text(json.dumps(asdict(manifest)))
    return seconds


def timed(
    batches: Iterator[Batch], look_up: Callable[[U32, list[bytes], bytes], object], seconds: float, is_warm: bool = True
) -> dict[str, float]:
    """Microseconds per token of a look-up: median and 99th percentile by the clock, and CPU time.

    The CPU time is from a second pass over the same batches that reads no clock between them; a cold measurement has only
    one pass.
    """
    done, clock = list[Batch](), list[float]()
    deadline, cpu_before = time.perf_counter() + seconds, time.process_time()
    for batch in itertools.islice(batches, MOST_LOOK_UPS):
        begin = time.perf_counter()
        look_up(*batch)
        end = time.perf_counter()
        clock.append((end - begin) / batch[0].size)
        done.append(batch)
        if end > deadline:
            break
    if is_warm:
        cpu_before = time.process_time()
        for batch in done:
            look_up(*batch)
    cpu = (time.process_time() - cpu_before) / sum(piece.size for piece, *_ in done)
    median, p99 = np.percentile(clock, [50, 99]) * 1e6
    return {"median": float(median), "p99": float(p99), "cpu": cpu * 1e6, "look-ups": float(len(clock))}


def of_table(table: Table, batch: int) -> Callable[[U32, list[bytes], bytes], object]:
    matcher, out = table.matcher(), torch.zeros(batch, table.dim, dtype=table.dtype)
    return lambda tokens, *_: table.rows(matcher.match(tokens), out)


def measure_table(folder: Path, streams: dict[str, Stream], seconds: float) -> dict[str, Any]:
    files = sorted(folder.iterdir())
    found: dict[str, Any] = {"disk bytes": sum(path.stat().st_blocks * 512 for path in files)}
    for placement in ("ram", "mmap"):
        read_through(files)
        started = time.perf_counter()
        table = Table.open(folder, placement)
        found[f"{placement}: seconds to open"] = time.perf_counter() - started
        for (name, stream), batch in itertools.product(streams.items(), (*BATCHES, PREFILL)):
            look_up = of_table(table, batch)
            timed(stream.batches(batch), look_up, seconds)
            found[f"{placement}, {name}, {batch}"] = timed(stream.batches(batch), look_up, seconds)
        stream = streams["text"]
        table.index.match(stream.tokens)
        started = time.process_time()
        table.index.match(stream.tokens)
        found[f"{placement}: matching alone, nanoseconds per token"] = (
            (time.process_time() - started) / stream.tokens.size * 1e9
        )
        del table, look_up
    for batch in (*BATCHES, PREFILL):
        drop(files)
        table = Table.open(folder)
        table.index.match(streams["uniform"].tokens)  # reads the index into memory again
        found[f"cold, uniform, {batch}"] = timed(
            streams["uniform"].batches(batch), of_table(table, batch), seconds, is_warm=False
        )
        del table
    return found


def measure_store(store: Store, streams: dict[str, Stream], seconds: float) -> dict[str, Any]:
    found: dict[str, Any] = {"disk bytes": store.disk_bytes()}
    read_through(store.files)
    store.open()
    for (name, stream), batch in itertools.product(streams.items(), BATCHES):
        timed(stream.batches(batch), lambda _, keys, __: store.fetch(keys), seconds)
        found[f"warm, {name}, {batch}"] = timed(stream.batches(batch), lambda _, keys, __: store.fetch(keys), seconds)
    store.close()
    for batch in BATCHES:
        drop(store.files)
        store.open()
        found[f"cold, uniform, {batch}"] = timed(
            streams["uniform"].batches(batch), lambda _, keys, __: store.fetch(keys), seconds, is_warm=False
        )
        store.close()
    return found


def measure_finder(finder: Finder, streams: dict[str, Stream], seconds: float) -> dict[str, Any]:
    def find(tokens: U32, _: list[bytes], read: bytes) -> object:
        return finder.find(read, tokens.size)

    found: dict[str, Any] = {}
    read_through(finder.files)
    for (name, stream), batch in itertools.product(streams.items(), BATCHES):
        timed(stream.batches(batch), find, seconds)
        found[f"warm, {name}, {batch}"] = timed(stream.batches(batch), find, seconds)
    if isinstance(finder, LmdbFinder):
        for batch in BATCHES:
            finder.close()
            drop(finder.files)
            finder.open()
            found[f"cold, uniform, {batch}"] = timed(streams["uniform"].batches(batch), find, seconds, is_warm=False)
    return found


def check_same(folder: Path, store: Store, stream: Stream) -> None:
    """Exit with an error unless a store returns the same bytes as the table."""
    table = Table.open(folder)
    tokens, keys, _ = next(stream.batches(256))
    ids = table.matcher().match(tokens)
    mine = table.rows(ids[ids != NONE]).view(torch.uint8).numpy()
    store.open()
    if not np.array_equal(mine, store.fetch(keys)):
        raise SystemExit(f"{type(store).__name__} has other rows")
    store.close()


def check_found(folder: Path, finder: Finder, stream: Stream) -> None:
    """Exit with an error unless a finder, which matches by itself, returns the same bytes as the table."""
    table = Table.open(folder)
    tokens, _, read = next(stream.batches(256))
    ids = table.matcher().match(tokens)
    if not np.array_equal(table.rows(ids[ids != NONE]).view(torch.uint8).numpy(), finder.find(read, tokens.size)):
        raise SystemExit(f"{type(finder).__name__} finds other rows")


def measure(folder: Path, trie: FgramTrie, text: U32, dim: int, seconds: float) -> dict[str, Any]:
    """All figures for one number of f-grams and one width."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rows = folder / "rows.raw"
    make_rows(rows, trie.num_fgrams, 2 * dim)
    index_seconds = make_table(folder / "table", trie, rows, dim)
    keys = trie.prefix_nodes.astype(np.uint64) << np.uint64(32) | trie.last_tokens
    index = Table.open(folder / "table").index
    drawn = np.random.default_rng(1).integers(trie.num_fgrams, size=200_000)
    uniform = np.array([token for fgram in trie.tokens_of(drawn) for token in fgram], np.uint32)
    streams = {
        name: Stream(tokens, index.match(tokens)[0], keys, trie.max_n)
        for name, tokens in (("text", text), ("uniform", uniform))
    }
    raw_bytes = trie.num_fgrams * 2 * dim
    found: dict[str, Any] = {
        "index, keys per CPU second": trie.num_fgrams / index_seconds,
        "index, bytes per f-gram": index.nbytes / trie.num_fgrams,
        "text that matches": float((streams["text"].ids != NONE).mean()),
        "uniform that matches": float((streams["uniform"].ids != NONE).mean()),
    }
    del index
    for name, kind in STORES.items():
        store = kind(folder / name.replace(" ", "-"), keys, rows, 2 * dim)
        check_same(folder / "table", store, streams["text"])
        for what, value in measure_store(store, streams, seconds).items():
            found[f"{name}, {what}"] = value
        found[f"{name}, disk over raw rows"] = found[f"{name}, disk bytes"] / raw_bytes
        del store
        shutil.rmtree(folder / name.replace(" ", "-"))
    fgrams = [np.array(tokens, np.uint32).tobytes() for tokens in trie.tokens_of(np.arange(trie.num_fgrams))]
    for name, finding in FINDERS.items():
        finder = finding(folder / "finder", fgrams, rows, 2 * dim, trie.max_n)
        check_found(folder / "table", finder, streams["text"])
        for what, value in measure_finder(finder, streams, seconds).items():
            found[f"{name}, {what}"] = value
        del finder
        shutil.rmtree(folder / "finder", ignore_errors=True)
    del fgrams
    for what, value in measure_table(folder / "table", streams, seconds).items():
        found[f"scone {what}"] = value
    found["scone disk over raw rows"] = found["scone disk bytes"] / raw_bytes
    for batch in BATCHES:
        for what in ("text", "uniform"):
            ours = found[f"scone ram, {what}, {batch}"]["cpu"]
            for rival in ("lmdb", *FINDERS):
                found[f"{rival} over scone, warm, {what}, {batch}"] = (
                    found[f"{rival}, warm, {what}, {batch}"]["cpu"] / ours
                )
        for rival in ("lmdb", "lmdb, finding"):
            theirs, ours = found[f"{rival}, cold, uniform, {batch}"], found[f"scone cold, uniform, {batch}"]
            found[f"{rival} over scone, cold, {batch}"] = theirs["median"] / ours["median"]
    shutil.rmtree(folder)
    return found


def main() -> None:
    chosen = arguments(__doc__ or "", folder=Path("bench-lookup"), fgrams=10e6, wide_fgrams=1e6, seconds=2.0)
    settings = read_manifest(chosen.workspace / "vocab", "vocab").settings
    trie = Vocabulary.read(chosen.workspace / "vocab", settings["num_tokens"], settings["max_n"]).trie
    text = read_tokens(chosen.workspace / "tokens", HELD_OUT).tokens[:1_000_000]
    figures: dict[str, Any] = {}
    for size, dim in ((chosen.fgrams, 256), (chosen.wide_fgrams, 2048)):
        part = with_bigrams(trie, int(size))
        found = measure(chosen.folder, part, text, dim, chosen.seconds)
        figures |= {f"{part.num_fgrams} x {dim}: {name}": value for name, value in found.items()}
    finish("what does a look-up cost", chosen.workspace, **figures)


if __name__ == "__main__":
    main()
