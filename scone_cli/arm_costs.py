"""What each arm keeps on the accelerator and off it, what a token costs it, and what looking rows up takes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from scone_cli import metrics
from scone_cli.evaluation import Arm
from scone_cli.ngrams import U32
from scone_cli.progress import Progress
from scone_cli.table import Table

LOOKUP_BATCHES = (1, 16, 4096)

Row = dict[str, Any]


def model_costs(arms: Sequence[Arm], shares: Sequence[float]) -> list[Row]:
    """The cost of each arm; `shares` [K + 1] are those of positions whose match has 0, 1, ... tokens."""
    rows = []
    for arm in arms:
        config, resident = arm.model.config, list(arm.model.main.parameters())
        flops = metrics.forward_flops(config.dim, config.hidden, config.layers, config.vocab_size, config.context)
        live = 0.0
        if arm.trie is not None and arm.model.fgram is not None:
            resident += arm.model.fgram.parameters()
            live = _live_flops(arm, shares)
        rows.append(
            {
                "arm": arm.name,
                "resident_parameters": sum(weight.numel() for weight in resident),
                "resident_bytes": sum(weight.numel() * weight.element_size() for weight in resident),
                **_offloaded(arm),
                "prefill_flops": flops + live,
                "decode_flops": flops + live,
                "kv_bytes_a_token": 2 * config.layers * config.dim * 4,
                "training_flops": None,
            }
        )
    return rows


def _offloaded(arm: Arm) -> Row:
    """Rows off the accelerator: a table's, the learned ones of a live model, or those of hashed n-grams."""
    index = 0
    if arm.table is not None:
        rows, size, index = arm.table.num_rows, arm.table.num_rows * arm.table.row_bytes, arm.table.index.nbytes
    else:
        kept = arm.model.hashed if arm.model.hashed is not None else arm.model.learned if arm.trie is not None else None
        rows, size = (len(kept.weight), kept.weight.nbytes) if kept is not None else (0, 0)
    return {
        "offloaded_rows": rows,
        "offloaded_bytes_ram": size + index,
        "offloaded_bytes_disk": size + index,
        "index_bytes": index,
    }


def _live_flops(arm: Arm, shares: Sequence[float]) -> float:
    """A_f-gram's cost a token when every match is computed by itself: n token-forwards for an f-gram of n tokens."""
    config = arm.model.config
    nodes = [
        metrics.fgram_forward_flops(config.dim, config.hidden, config.fgram_layers, n)
        for n in range(1, config.max_n + 1)
    ]
    return float(sum(share * sum(nodes[:n]) for n, share in enumerate(shares) if n >= 2))


def lookup_costs(table: Table, tokens: U32, progress: Progress) -> list[Row]:
    """Microseconds a token of matching and fetching rows from the mapped table, page cache warm."""
    rows = []
    progress("timing look-ups", 0, len(LOOKUP_BATCHES), "batch sizes")
    for number, batch in enumerate(LOOKUP_BATCHES):
        measured = lookup_microseconds(table, tokens, batch)
        rows.append({"placement": "mmap", "batch": batch, "median_us": measured["median"], "p99_us": measured["p99"]})
        progress("timing look-ups", number + 1, len(LOOKUP_BATCHES), "batch sizes")
    return rows


def lookup_microseconds(table: Table, tokens: U32, batch: int, seconds: float = 1.0) -> dict[str, float]:
    """Median and 99th percentile of one look-up (match the next `batch` tokens, fetch their rows), a token."""
    matcher, times = table.matcher(), list[float]()
    deadline, at = time.perf_counter() + seconds, 0
    while (begin := time.perf_counter()) < deadline or not times:
        table.rows(matcher.match(tokens[at : at + batch]))
        times.append(time.perf_counter() - begin)
        at = at + batch if at + 2 * batch <= tokens.size else 0
    used = np.array(times[min(len(times) - 1, 5) :]) * 1e6 / batch
    return {"median": float(np.median(used)), "p99": float(np.percentile(used, 99))}
