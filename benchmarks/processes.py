"""Measures a command: wall time, and the processor time and peak memory of all its processes. Linux only.

It waits for every process that the command starts, also for those whose parent ended first, so no processor time is
missed. Memory is sampled from /proc every 20 ms: resident sets (RSS, which count a page that two processes share twice)
and, on request, proportional sets (PSS, which count it once). Reading PSS stops the process for a moment: do not time
such a run.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_SAMPLE_SECONDS = 0.02
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Cost:
    """Time and peak memory of one run; memory is the sum over all its processes.

    `largest_bytes` is the peak of the largest process alone, from the kernel's high-water mark (VmHWM). `ru_maxrss` cannot
    be used: a child inherits it from this process.
    """

    wall_seconds: float
    cpu_seconds: float
    largest_bytes: int
    rss_bytes: int
    pss_bytes: int


def run_cold(command: Sequence[str], cores: Sequence[int], env: Mapping[str, str], log: Path, pss: bool) -> Cost:
    """Run a command on the given cores and return its cost; its output goes to `log`. Exits if the command fails."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # we become the parent of the command's orphans
    own = os.sched_getaffinity(0)
    with log.open("wb") as output:
        started = time.perf_counter()
        os.sched_setaffinity(0, cores)  # the command inherits it
        process = subprocess.Popen(command, env=dict(env), stdout=output, stderr=subprocess.STDOUT)
        os.sched_setaffinity(0, own)
        with _Sampler(pss) as sampler:
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    cpu = usage.ru_utime + usage.ru_stime
    for orphan in _reap():
        cpu += orphan.ru_utime + orphan.ru_stime
    if process.returncode:
        sys.exit(f"{' '.join(command)}\nended with {process.returncode}:\n{log.read_text(errors='replace')[-4000:]}")
    return Cost(wall, cpu, sampler.largest, sampler.rss, sampler.pss)


def _reap() -> Iterator[os.struct_rusage]:  # type: ignore[name-defined] # what os.wait4 returns has no public name
    while True:
        try:
            yield os.wait4(-1, 0)[2]
        except ChildProcessError:
            return


class _Sampler:
    """Samples the memory of all descendants of this process, in a thread."""

    def __init__(self, with_pss: bool) -> None:
        self.rss = self.pss = self.largest = 0
        self._with_pss = with_pss
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(_SAMPLE_SECONDS):
            below = list(_below(os.getpid()))
            now = [_kilobytes(pid, "status", "VmRSS:") for pid in below]
            self.rss = max(self.rss, sum(now))
            self.largest = max([self.largest, *(_kilobytes(pid, "status", "VmHWM:") for pid in below)])
            if self._with_pss:
                self.pss = max(self.pss, sum(_kilobytes(pid, "smaps_rollup", "Pss:") for pid in below))


def _below(pid: int) -> Iterator[int]:
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, _read(tasks).split()):
            yield child
            yield from _below(child)


def _kilobytes(pid: int, file: str, name: str) -> int:
    """Read a figure in KiB from a file in /proc, in bytes; 0 if the process has ended."""
    lines = _read(Path(f"/proc/{pid}/{file}")).splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return ""
