"""Turn SIGINT and SIGTERM into an exception with an exit code, now or at the end of a step."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """Raised on SIGINT or SIGTERM. Not an `Exception`, and not KeyboardInterrupt, which click turns into exit code 1."""

    continues = False  # whether the same command, given again, continues the work

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


@dataclass
class StopNote:
    """The number of the signal that asked the process to stop; 0 until one arrives."""

    signum: int = 0


_notes: list[StopNote] = []


@contextlib.contextmanager
def noting_stops() -> Iterator[StopNote]:
    """Delay `Stopped` to the end of `with`, so that a step can be finished and saved.

    Has no effect without `stop_signals`: the program handles signals, and the library leaves them alone.
    """
    note = StopNote()
    _notes.append(note)
    try:
        yield note
    finally:
        _notes.remove(note)
    if note.signum:
        raise Stopped(note.signum)


def is_stop_noted() -> bool:
    """Whether a signal has arrived that `noting_stops` delays."""
    return any(note.signum for note in _notes)


@contextlib.contextmanager
def stop_signals() -> Iterator[StopNote]:
    """Raise `Stopped` when SIGINT or SIGTERM arrives; a second signal ends the process at once.

    Yields a note with the number of the signal, which is set even if another error is raised before `Stopped`.
    A signal that was ignored from the start stays ignored (a shell does that to background jobs). A forked worker, which
    inherits the handler, is ended by the signal.
    """
    owner, came = os.getpid(), StopNote()
    before = {signum: signal.getsignal(signum) for signum in _STOP_SIGNALS}
    mine = [signum for signum in _STOP_SIGNALS if before[signum] is not signal.SIG_IGN]

    def stop(signum: int, _frame: FrameType | None) -> None:
        for each in mine:
            signal.signal(each, signal.SIG_DFL)
        if os.getpid() != owner:
            os.kill(os.getpid(), signum)
        came.signum = signum
        if _notes:
            _notes[-1].signum = signum
            return
        raise Stopped(signum)

    for signum in mine:
        signal.signal(signum, stop)
    try:
        yield came
    finally:
        for signum in mine:
            signal.signal(signum, before[signum])
