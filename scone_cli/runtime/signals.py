"""Signals that ask a run to stop, made into an exception with an exit code."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """SIGINT or SIGTERM arrived. Not an `Exception`, and not KeyboardInterrupt, which click makes into exit code 1."""

    continues = False  # whether what it stopped continues when it is asked for again

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


@dataclass
class StopNote:
    """That somebody wants the process to end: the number of the signal, 0 until one arrives."""

    signum: int = 0


_notes: list[StopNote] = []


@contextlib.contextmanager
def noting_stops() -> Iterator[StopNote]:
    """Within it a signal to stop is only noted, so that a step can be finished and saved; at its end `Stopped` is raised.

    It changes nothing where `stop_signals` is not in force: signals are the business of a program, not of a library.
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
    """Whether a signal to stop waits for the work to come to a good place."""
    return any(note.signum for note in _notes)


@contextlib.contextmanager
def stop_signals() -> Iterator[StopNote]:
    """Raise `Stopped` where the work is when SIGINT or SIGTERM arrives; a second one ends the process at once.

    What it gives has the number of the signal even where another error came before `Stopped` could be raised.
    A signal that was ignored from the start stays ignored (a shell does that to background jobs), and a forked worker,
    which inherits the handler, simply dies of the signal.
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
