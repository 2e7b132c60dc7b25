"""How long work tells that it goes on, without knowing who listens; and what it has to say besides."""

import contextlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from scone_cli.formatting import harmless

Seconds = Counter[str]  # of processor time, by what they were spent on


class Progress(Protocol):
    """Called by stages and their rooms from time to time, always with the same `what` for one piece of work."""

    def __call__(self, what: str, done: float, total: float | None = None, unit: str = "", detail: str = "") -> None:
        """Report that `done` of `total` units of `what` are complete; `total` is None when it cannot be known.

        With a `total` of 0 there is nothing to do, and `detail` is something to say before the work.
        """


def silent(what: str, done: float, total: float | None = None, unit: str = "", detail: str = "") -> None:
    """A listener that ignores everything: for tests and for use as a library."""


def notice(message: str) -> None:
    """Say something that is no error on stderr, in one line; that it cannot be said does not stop the work."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{harmless(message)}\n")


class Compilation:
    """Whether kernels are being compiled, in this process or in its workers.

    It happens once, when a kernel is first called after an installation or an upgrade, takes seconds to a minute, and says
    nothing about the pace of the work in which it happens. `begin` and `end` come in pairs, from any thread; a kernel that
    is made of others is compiled with them. `listener` is told when the first begins and when the last has ended.
    """

    def __init__(self) -> None:
        self.listener: Callable[[bool], None] = lambda _: None
        self._depth, self._lock = 0, threading.Lock()

    def begin(self) -> None:
        """A kernel is compiled from now on."""
        self._step(+1)

    def end(self) -> None:
        """That kernel has been compiled."""
        self._step(-1)

    def _step(self, by: int) -> None:
        with self._lock:
            was, self._depth = self._depth, self._depth + by
            now = self._depth
        if (was == 0) != (now == 0):
            self.listener(now > 0)


compilation = Compilation()  # one a process: numba has one compiler


class Clock:
    """Adds the processor time of this thread since the last call to what it was spent on."""

    def __init__(self, seconds: Seconds) -> None:
        self._seconds, self._last = seconds, time.thread_time()

    def __call__(self, what: str) -> None:
        """What was done since then."""
        now = time.thread_time()
        self._seconds[what] += now - self._last  # type: ignore[assignment] # mypy knows counters of int only
        self._last = now
