"""Progress on stderr: bars on a terminal, a few lines in a log.

Bars are drawn only when work reports progress: there is no background thread, so a stage may fork workers at any time.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, TaskID, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bars
from rich.table import Column

from scone_cli.console.output import is_terminal, say
from scone_cli.formatting import amount_text, bytes_text, count_text, harmless, is_bytes, seconds_text
from scone_cli.progress import Progress, compilation, silent

PLAIN_INTERVAL = 30.0  # seconds between two lines about the same piece of work, in a log
BAR_INTERVAL = 0.1  # seconds between two redraws, on a terminal
BAR_WIDTH = 12
COMPILING = "compiling kernels (once)"


@dataclass
class Piece:
    """One piece of work as last reported; `first` is what was done before, by an earlier run that was interrupted."""

    what: str
    unit: str
    first: float
    started: float
    done: float = 0
    total: float | None = None
    detail: str = ""
    shown: float = 0
    reported: float = 0
    ended: float | None = None
    again: bool = False  # it was shown before, and is shown once only
    waited: float = 0  # seconds spent waiting for kernels to compile; not counted in the speed

    def amount(self) -> str:
        """The amount done, and the total if it is known."""
        if self.total is None:
            return amount_text(self.done, self.unit)
        done = bytes_text(self.done) if is_bytes(self.unit) else count_text(self.done)
        return f"{done} of {amount_text(self.total, self.unit)}"  # the unit only once: lines are short

    def pace(self, now: float) -> str:
        """The average speed, and the time left at that speed."""
        elapsed, progressed = now - self.started - self.waited, self.done - self.first
        if elapsed <= 0 or progressed <= 0:
            return ""
        speed = progressed / elapsed
        rate = f"{amount_text(speed, self.unit)}/s"
        if self.total is None:
            return rate
        return f"{rate}, {seconds_text((self.total - self.done) * elapsed / progressed)} left"

    def end_line(self) -> str:
        """The line that stays when it has ended; for a message without work (total 0) the message."""
        if self.total == 0 and self.detail:
            return f"{self.what}: {self.detail}"
        took = seconds_text((self.ended or self.started) - self.started)
        if self.total is None and not self.done:  # nothing was counted
            return f"{self.what}: done in {took}"
        return _joined(f"{self.what}: done", f"{amount_text(self.done, self.unit)} in {took}", self.detail)


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


class PlainProgress:
    """Progress for a log: a line when a piece of work starts, one when it ends, and one every 30 seconds."""

    interval = PLAIN_INTERVAL

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.pieces: dict[str, Piece] = {}
        self.seconds: dict[str, float] = {}
        self._clock = clock
        self._compiling: float | None = None  # since when

    def __call__(self, what: str, done: float, total: float | None = None, unit: str = "", detail: str = "") -> None:
        """Record a report, and show it if the last one is long enough ago."""
        now = self._clock()
        self._count_waiting(now)
        ends = total is not None and done >= total
        piece = self.pieces.get(what)
        if piece is None or (piece.ended is not None and not ends):
            piece = self.pieces[what] = Piece(what, unit, done, now, done, total, detail, shown=now)
            if not ends:
                self._show_start(piece)
        elif piece.ended is not None:
            return
        piece.done, piece.total, piece.detail, piece.reported = done, total, detail, now
        if ends:
            self._end(piece, now)
        elif now - piece.shown >= self.interval:
            piece.shown = now
            self._show(piece, now)

    def compiles(self, begins: bool) -> None:
        """Record that compiling kernels begins or ends; shown as one piece of work until other work reports progress."""
        now = self._clock()
        piece = self.pieces.get(COMPILING)
        if begins:
            if piece is None or piece.ended is not None:
                piece = self.pieces[COMPILING] = Piece(COMPILING, "", 0, now, shown=now, again=piece is not None)
                self._show_start(piece)
            self._compiling = now
        elif piece is not None and piece.ended is None:
            self._count_waiting(now)
            self._compiling, piece.reported = None, now

    def _count_waiting(self, now: float) -> None:
        """Add the time spent compiling to the waiting time of all pieces; end that piece when compiling has ended."""
        compiling = self.pieces.get(COMPILING)
        if compiling is None or compiling.ended is not None:
            return
        if self._compiling is None:
            self._end(compiling, compiling.reported)
            return
        for each in self.pieces.values():
            if each.ended is None:
                each.waited += now - max(self._compiling, each.started)
        self._compiling = now

    def close(self, failed: bool) -> None:
        """End the pieces whose total is unknown; not after a failure, as they are not done."""
        for piece in self.pieces.values():
            if piece.ended is None and not failed:
                self._end(piece, piece.reported)

    def _end(self, piece: Piece, now: float) -> None:
        piece.ended = now
        if piece.total != 0 or not piece.detail:  # a message took no time
            self.seconds[piece.what] = self.seconds.get(piece.what, 0) + now - piece.started
        self._show_end(piece)

    def _show_start(self, piece: Piece) -> None:
        if piece.again:
            return
        size = "" if piece.total is None else amount_text(piece.total, piece.unit)
        already = f"{amount_text(piece.first, piece.unit)} already done" if piece.first else ""
        say(harmless(_joined(f"{piece.what}: started", size, already, piece.detail)))

    def _show(self, piece: Piece, now: float) -> None:
        say(harmless(_joined(f"{piece.what}: {piece.amount()}", piece.pace(now), piece.detail)))

    def _show_end(self, piece: Piece) -> None:
        if not piece.again:
            say(harmless(piece.end_line()))


class BarProgress(PlainProgress):
    """Progress for a terminal: a bar while a piece of work goes on, one line when it has ended."""

    interval = BAR_INTERVAL

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._tasks: dict[str, TaskID] = {}
        self._console = Console(file=sys.stderr, force_terminal=True, highlight=False, markup=False, emoji=False)
        self._bars = Bars(
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
            BarColumn(BAR_WIDTH),
            TaskProgressColumn(),
            # It takes the rest of the line and is cut off there; the amount stands last, as the bar shows it too.
            TextColumn(
                "{task.fields[note]}", "dim", markup=False, table_column=Column(ratio=1, no_wrap=True, overflow="crop")
            ),
            console=self._console,
            auto_refresh=False,
            transient=True,
            expand=True,
        )
        self._bars.start()

    def close(self, failed: bool) -> None:
        """End the work, and remove the bars."""
        super().close(failed)
        self._bars.stop()

    def _show_start(self, piece: Piece) -> None:
        self._tasks[piece.what] = self._bars.add_task(piece.what, total=piece.total, note=piece.detail)
        self._show(piece, piece.started)

    def _show(self, piece: Piece, now: float) -> None:
        note = _joined(piece.pace(now), piece.detail, piece.amount())
        self._bars.update(self._tasks[piece.what], completed=piece.done, total=piece.total, note=note, refresh=True)

    def _show_end(self, piece: Piece) -> None:
        if (task := self._tasks.pop(piece.what, None)) is not None:
            self._bars.remove_task(task)
            self._bars.refresh()  # else it is drawn again below the line, and stays until the next report
        if not piece.again:
            self._console.print(harmless(piece.end_line()), style="dim", soft_wrap=True)


@contextlib.contextmanager
def listening(quiet: bool, verbose: bool) -> Iterator[Progress]:
    """The listener for stderr: bars on a terminal, lines in a log, silent if `quiet`; `verbose` adds the time per piece."""
    if quiet:
        yield silent
        return
    progress = BarProgress() if is_terminal(sys.stderr) else PlainProgress()
    compilation.listener = progress.compiles
    try:
        yield progress
    except BaseException:
        progress.close(failed=True)
        raise
    finally:
        compilation.listener = lambda _: None
    progress.close(failed=False)
    if verbose:
        say("seconds for each piece of work:")
        for what, seconds in progress.seconds.items():
            say(f"  {seconds:10.1f}  {what}")
