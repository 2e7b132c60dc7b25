"""Benchmark of generation: what the table costs in decoding and in prefill, against the same model without a table.

    python benchmarks/bench_generate.py --workspace demo/scone-work
    python benchmarks/bench_generate.py --workspace demo/scone-work --layers 12    # a deeper model, of random weights

Decode: every arm decodes the same held-out text, one token per stream and step; the order of the arms is random in every
step. `plain` embeds only tokens; `ram`, `mmap` (page cache warm) and `cold` (rows dropped from the page cache before each
round) read the table. Prefill: the time of 32,768 look-ups as a share of the main model's time for the same tokens.
"""

from __future__ import annotations

import gc
import os
import shutil
import statistics
import time
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from measuring import arguments, finish
from torch import Tensor

from scone_cli.artifacts.schemas import HELD_OUT
from scone_cli.corpus.token_stream import iter_shards
from scone_cli.evaluation.speed import Server
from scone_cli.model.model import SconeModel
from scone_cli.serving.embedding import SconeEmbedding
from scone_cli.serving.generate import Embed
from scone_cli.table.table import Table
from scone_cli.vocab.index import NONE

STREAMS = (1, 16)
NEW_TOKENS = 32_768
LINES = 16  # sequences per forward pass of the main model in prefill
ARMS = ("plain", "ram", "mmap", "cold")
COLD = ".cold-table"  # a second copy of the table in the workspace, removed after the benchmark
CACHED: list[float] = []  # share of the rows left in the page cache, each time they were dropped from it


def main() -> None:
    chosen = arguments(__doc__, needs="table", repeats=7, tokens=128, layers=0)
    work = chosen.workspace
    torch.manual_seed(0)
    model = SconeModel.load(work / "model")
    if chosen.layers:
        model = SconeModel(replace(model.config, layers=chosen.layers))
    context = model.config.context
    wanted = max(NEW_TOKENS, max(STREAMS) * min(chosen.tokens, context))
    shards = (stream.tokens for _, stream in iter_shards(work / "tokens", HELD_OUT))
    text = np.fromiter(chain.from_iterable(shards), np.int64, wanted)
    figures: dict[str, float] = {}
    try:
        with torch.inference_mode():
            for streams in STREAMS:
                figures |= decode(work, model, text, streams, min(chosen.tokens, context), chosen.repeats)
            figures |= prefill(work, model, text[:NEW_TOKENS].reshape(-1, context), max(3, chosen.repeats // 2))
    finally:
        shutil.rmtree(work / COLD, ignore_errors=True)
    table = Table.open(work / "table")
    finish(
        "what does reading the table cost",
        work,
        threads=torch.get_num_threads(),
        layers=model.config.layers,
        dim=model.config.dim,
        resident_parameters=sum(weight.numel() for weight in model.main.parameters()),
        rows=table.num_rows,
        matched=float((table.matcher().match(text.astype(np.uint32)) != NONE).mean()),
        in_page_cache_when_cold=max(CACHED),
        **figures,
    )


# ---- decode ------------------------------------------------------------------------------------------------------


def decode(work: Path, model: SconeModel, text: np.ndarray, streams: int, steps: int, repeats: int) -> dict[str, float]:
    """Tokens per second of all streams together, and as a share of plain's, from the median step; also other quantiles.

    A shared machine takes the processor away for longer than a step lasts, so means say nothing. If that happens in every
    other step, medians say nothing either; the fastest quarter of the steps is then undisturbed.
    """
    lines = torch.from_numpy(text[: streams * steps].reshape(streams, steps))
    one_round(work, model, lines)
    wall, processor = (
        {arm: np.concatenate([each[kind][arm] for each in rounds]) for arm in ARMS}
        for rounds in [[one_round(work, model, lines) for _ in range(repeats)]]
        for kind in (0, 1)
    )
    figures: dict[str, float] = {}
    for arm in ARMS:
        name = f"decode_{streams}_{arm}"
        figures[f"{name}_tokens_per_second"] = streams / float(np.median(wall[arm]))
        figures[f"{name}_p99_milliseconds"] = float(np.percentile(wall[arm], 99)) * 1e3
        if arm != "plain":
            figures[f"{name}_share_of_plain"] = float(np.median(wall["plain"]) / np.median(wall[arm]))
            quarters = (float(np.percentile(wall[each], 25)) for each in ("plain", arm))
            figures[f"{name}_share_of_plain_fastest_quarter"] = next(quarters) / next(quarters)
            figures[f"{name}_share_of_plain_processor"] = float(
                np.median(processor["plain"]) / np.median(processor[arm])
            )
    return figures


def one_round(work: Path, model: SconeModel, lines: Tensor) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Wall seconds and processor seconds of each arm for each step of decoding the lines."""
    embed: dict[str, Embed] = {"plain": model.main.embed_tokens}
    embed["ram"] = SconeEmbedding(model.main, Table.open(work / "table", "ram"), len(lines))
    embed["mmap"] = SconeEmbedding(model.main, warm_table(work, lines), len(lines))
    embed["cold"] = SconeEmbedding(model.main, cold_table(work, lines), len(lines))
    servers = {arm: Server(model, embed[arm], *lines.shape) for arm in ARMS}
    wall, processor = ({arm: list[float]() for arm in ARMS} for _ in range(2))
    random = np.random.default_rng(0)  # a fixed order might keep step with the system's scheduler
    for step in range(lines.shape[1]):
        for arm in random.permutation(ARMS).tolist():
            seconds = servers[arm].timed(lines[:, step : step + 1])
            wall[arm].append(seconds[0])
            processor[arm].append(seconds[1])
    return wall, processor


# ---- prefill -----------------------------------------------------------------------------------------------------


def prefill(work: Path, model: SconeModel, text: np.ndarray, repeats: int) -> dict[str, float]:
    """Time to match many new tokens and fetch their rows, in seconds and as a share of the main model's time for them."""
    lines = torch.from_numpy(text)
    seconds: dict[str, list[float]] = {name: [] for name in ("main", "ram", "mmap", "cold")}
    for _ in range(repeats):
        started = time.perf_counter()
        for part in lines.split(LINES):
            model.main(model.main.embed_tokens(part))
        seconds["main"].append(time.perf_counter() - started)
        tables = {"ram": Table.open(work / "table", "ram"), "mmap": warm_table(work, lines)}
        for arm in ("ram", "mmap", "cold"):
            table = tables.pop(arm, None) or cold_table(work, lines)
            matcher, starts = table.matcher(len(lines)), np.arange(len(lines) + 1) * lines.shape[1]
            tokens, out = text.astype(np.uint32).reshape(-1), torch.zeros(lines.numel(), table.dim)
            started = time.perf_counter()
            table.rows(matcher.match(tokens, starts), out)
            seconds[arm].append(time.perf_counter() - started)
    shares = {
        f"prefill_{arm}_share_of_main": statistics.median(
            look_up / main for look_up, main in zip(seconds[arm], seconds["main"], strict=True)
        )
        for arm in ("ram", "mmap", "cold")
    }
    return {f"prefill_{name}_seconds": statistics.median(values) for name, values in seconds.items()} | shares


# ---- tables, warm and cold ---------------------------------------------------------------------------------------


def warm_table(work: Path, lines: Tensor) -> Table:
    """Open a mapped table whose rows for the lines are all in the page cache."""
    table = Table.open(work / "table")
    table.rows(table.matcher().match(lines.numpy().astype(np.uint32).reshape(-1)))
    return table


def cold_table(work: Path, lines: Tensor) -> Table:
    """Open a mapped table with no rows in the page cache; its index has been read.

    It is a copy of the other table, because mapped pages of an open table cannot be dropped from the page cache.
    """
    copy = work / COLD
    if not copy.exists():
        shutil.copytree(work / "table", copy)
    paths = sorted(copy.glob("rows-*.parquet"))
    gc.collect()  # a table that is still open keeps its pages
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())  # unwritten pages cannot be dropped
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    table = Table.open(copy)
    table.matcher().match(lines.numpy().astype(np.uint32).reshape(-1))
    CACHED.append(statistics.mean(cached_share(path) for path in paths))
    return table


def cached_share(path: Path, count: int = 200) -> float:
    """Share of a random sample of a file's pages that are in the page cache."""
    found = 0
    with path.open("rb") as file:
        for page in np.random.default_rng(0).integers(path.stat().st_size // 4096, size=count).tolist():
            try:
                found += os.preadv(file.fileno(), [bytearray(1)], page * 4096, os.RWF_NOWAIT)
            except BlockingIOError:
                continue
    return found / count


if __name__ == "__main__":
    main()
