"""Shared code of the benchmarks: options, paired timing, and printing the figures with one JSON line at the end."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def arguments(description: str, needs: str = "vocab", **more: Any) -> argparse.Namespace:
    """Parse `--workspace` and more options; exit unless the workspace has the artifact `needs`.

    The default workspace is that of `make demo`. Further options are given as name=default, and have the default's type.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--workspace", type=Path, default=Path("demo/scone-work"), help="a finished workspace [demo/scone-work]"
    )
    for name, default in more.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default, help=f"[{default}]")
    chosen = parser.parse_args()
    if not (chosen.workspace / needs / "manifest.json").is_file():
        sys.exit(f"{chosen.workspace}: no finished workspace here; run `make demo` first, or give --workspace")
    return chosen


def side_by_side(rivals: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each rival, run in turn A B A B … after one warm-up each, so that a slow phase hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for round_number in range(repeats + 1):
        for name, run in rivals.items():
            started = time.perf_counter()
            run()
            if round_number:
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def finish(question: str, workspace: Path, **figures: Any) -> None:
    """Print the figures, one per line, then all of them as one line of JSON."""
    for name, value in _flat(figures):
        print(f"{name:45} {value:>14,.4g}" if isinstance(value, float) else f"{name:45} {value!s:>14}")
    machine = {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    print(json.dumps({"question": question, "workspace": str(workspace), **machine, **figures}))


def _flat(figures: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in figures.items():
        yield from (
            ((f"{name} {inner}", each) for inner, each in value.items()) if isinstance(value, dict) else [(name, value)]
        )


def in_turn(rivals: dict[str, Callable[[], object]], repeats: int) -> tuple[dict[str, float], dict[str, float]]:
    """Median wall seconds and processor seconds of each rival, run in turn A B A B … after one warm-up each."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in rivals}
    for round_number in range(repeats + 1):
        for name, run in rivals.items():
            wall, processor = time.perf_counter(), time.process_time()
            run()
            if round_number:
                times[name].append((time.perf_counter() - wall, time.process_time() - processor))
    walls, processors = (
        {name: statistics.median(pair[which] for pair in pairs) for name, pairs in times.items()} for which in (0, 1)
    )
    return walls, processors
