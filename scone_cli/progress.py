"""How long work tells that it goes on, without knowing who listens."""

from typing import Protocol


class Progress(Protocol):
    """Called by stages and their rooms from time to time, always with the same `what` for one piece of work."""

    def __call__(self, what: str, done: float, total: float | None = None, unit: str = "", detail: str = "") -> None:
        """Report that `done` of `total` units of `what` are complete; `total` is None when it cannot be known."""


def silent(what: str, done: float, total: float | None = None, unit: str = "", detail: str = "") -> None:
    """A listener that ignores everything: for tests and for use as a library."""
