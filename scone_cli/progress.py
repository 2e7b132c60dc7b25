"""How long work tells that it goes on, without knowing who listens; and what it has to say besides."""

import contextlib
import sys
import time
from collections import Counter
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


class Clock:
    """Adds the processor time of this thread since the last call to what it was spent on."""

    def __init__(self, seconds: Seconds) -> None:
        self._seconds, self._last = seconds, time.thread_time()

    def __call__(self, what: str) -> None:
        """What was done since then."""
        now = time.thread_time()
        self._seconds[what] += now - self._last  # type: ignore[assignment] # mypy knows counters of int only
        self._last = now
