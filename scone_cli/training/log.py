"""The log of a training run: a JSON line a step, written as it goes, and whether the loss still goes where it should.

`log.jsonl` can be followed while the run goes on (`tail -f`). A resumed run cuts it back to the step from which it
continues. The table that is published is made of it (`schemas.LOG`).
"""

from __future__ import annotations

import json
import math
import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import pyarrow as pa

from scone_cli.artifacts.publish import write_atomically
from scone_cli.artifacts.schemas import LOG
from scone_cli.errors import BadSetting

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


Row = dict[str, Any]  # of `schemas.LOG`

LAST_STEPS = 50  # whose mean is the training loss that people are shown
RECENT = 20  # steps over which a loss is averaged to judge it: a single batch says little
_LEAST_RISE = 0.5  # nats; less is the noise of small batches


def last_loss(losses: Sequence[float]) -> float:
    """The training loss as it is shown while the training runs and when it has ended: the mean of the last steps."""
    last = losses[-LAST_STEPS:]
    return sum(last) / len(last) if last else math.nan


class TrainingLog:
    """Rows of `schemas.LOG`, in memory and in a file of JSON lines, which only one process writes."""

    def __init__(self, path: Path, step: int, writes: bool = True) -> None:
        """Take up the rows up to `step` that the file holds; the others, and a last half line, are cut off."""
        self.rows: list[Row] = []
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        for line in lines:
            row = _row(line)
            if row and len(self.rows) < row["step"] <= step:
                self.rows.append(row)
        self._path = path
        self._file = self._rewritten() if writes else None

    def add(self, row: Row) -> None:
        """Append a row; whoever follows the file sees it at once."""
        self.rows.append(row)
        if self._file:
            self._file.write(_line(row))
            self._file.flush()

    def amend(self, **changes: Any) -> Row:
        """Put other values into the last row, and return it."""
        self.rows[-1] |= changes
        if self._file:
            self._file.close()
            self._file = self._rewritten()
        return self.rows[-1]

    def _rewritten(self) -> BinaryIO:
        """The file with exactly the rows there are, at its end."""
        write_atomically(self._path, b"".join(_line(row) for row in self.rows))
        return self._path.open("ab")

    def sync(self) -> None:
        """Return when all rows are on the disk: a checkpoint must not be ahead of its log."""
        if self._file:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()

    def table(self) -> pa.Table:
        """All rows, as they are published."""
        return pa.Table.from_pylist(self.rows, LOG)


def _line(row: Row) -> bytes:
    return json.dumps(row).encode() + b"\n"


def _row(line: bytes) -> Row | None:
    """A row, or None for a line that a crash cut off."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and row.keys() == set(LOG.names) else None


class Course:
    """Whether a loss still goes where it should.

    What had been learned by a step is the fall from the first loss to the lowest mean of `RECENT` losses so far. The loss
    has exploded when the mean of the last `RECENT` has given back more than half of that, and at least half a nat.
    """

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=RECENT)
        self.first = self.lowest = self.mean = 0.0
        self.lowest_step = 0  # the last step at which the run was as well as it ever was

    def add(self, step: int, loss: float) -> None:
        """Take note of the loss of the next step."""
        if not self._recent:
            self.first = self.lowest = loss
        self._recent.append(loss)
        self.mean = sum(self._recent) / len(self._recent)
        if len(self._recent) == RECENT and self.mean <= self.lowest:
            self.lowest, self.lowest_step = self.mean, step

    @property
    def has_exploded(self) -> bool:
        """Whether it makes no sense to go on."""
        return len(self._recent) == RECENT and self.has_ended_badly

    @property
    def has_ended_badly(self) -> bool:
        """The same of a run that is over, however few its steps: it makes no sense to keep what it has learned."""
        return self.mean - self.lowest > max((self.first - self.lowest) / 2, _LEAST_RISE)


# ---- the log for TensorBoard, while it grows ----------------------------------------------------------------------


class TensorBoard:
    """Writes the columns of each row of the log as scalars into event files in `folder`; use it as a context manager.

    A resumed run purges from TensorBoard what the one before wrote of steps that are now taken again.

    Raises:
        BadSetting: tensorboard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - an extra, and slow to load
        except ImportError as error:
            raise BadSetting(
                f"--tracker tensorboard: it is not installed ({error})", "run: pip install 'scone-cli[tracking]'"
            ) from error
        self._folder, self._make = folder, SummaryWriter
        self._writer: SummaryWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer:
            self._writer.close()

    def __call__(self, row: dict[str, Any]) -> None:
        """Write one row; at the first it is known from which step on."""
        if self._writer is None:
            self._writer = self._make(str(self._folder), purge_step=row["step"])
        for name, value in row.items():
            if name != "step" and value is not None:
                self._writer.add_scalar(name, value, row["step"])
