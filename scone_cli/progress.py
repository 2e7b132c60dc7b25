"""Progress reports and notices of long work, without knowing who displays them."""

import contextlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from scone_cli.formatting import harmless

Seconds = Counter[str]  # seconds of processor time for each kind of work


class Progress(Protocol):
    """The callback with which a stage reports its progress; one piece of work always passes the same `what`."""

    def __call__(self, what: str, done: float, total: float | None = None, unit: str = "", detail: str = "") -> None:
        """Report that `done` of `total` units of `what` are complete; `total` is None when it cannot be known.

        With a `total` of 0 nothing is counted: `detail` is a message to show before the work starts.
        """


def silent(what: str, done: float, total: float | None = None, unit: str = "", detail: str = "") -> None:
    """Ignore all progress reports: the default in tests and in library use."""


def notice(message: str) -> None:
    """Print a message on stderr in one line. If stderr cannot be written to, the work continues."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{harmless(message)}\n")


class Compilation:
    """Tracks whether kernels are being compiled, in this process or in its workers.

    A kernel is compiled once, at its first call after an installation or an upgrade. That takes 8 to 20 seconds, so the
    speed of the work in that time says nothing. `begin` and `end` come in pairs, from any thread; pairs nest, because a
    kernel that calls others compiles them too. `listener` is called with True when the first compilation begins, and with
    False when the last one has ended.
    """

    def __init__(self) -> None:
        self.listener: Callable[[bool], None] = lambda _: None
        self._depth, self._lock = 0, threading.Lock()

    def begin(self) -> None:
        """Note that the compilation of a kernel begins."""
        self._step(+1)

    def end(self) -> None:
        """Note that the compilation of a kernel has ended."""
        self._step(-1)

    def _step(self, by: int) -> None:
        with self._lock:
            was, self._depth = self._depth, self._depth + by
            now = self._depth
        if (was == 0) != (now == 0):
            self.listener(now > 0)


compilation = Compilation()  # one per process: numba has one compiler


class Clock:
    """Measures the processor time of this thread, and adds it up for each kind of work."""

    def __init__(self, seconds: Seconds) -> None:
        self._seconds, self._last = seconds, time.thread_time()

    def __call__(self, what: str) -> None:
        """Add the time since the last call (or since the start) to `what`."""
        now = time.thread_time()
        self._seconds[what] += now - self._last  # type: ignore[assignment] # mypy knows counters of int only
        self._last = now
