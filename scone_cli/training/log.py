"""The log of a training run: one JSON line per step, written at once; and the test whether the loss has exploded.

`log.jsonl` can be followed during the run (`tail -f`). A run that continues cuts it back to the step of the checkpoint. The
published `log.parquet` has the same rows (`schemas.LOG`).
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

LAST_STEPS = 50  # the training loss that is shown is their mean
RECENT = 20  # steps over which the loss is averaged before it is judged: the loss of one batch is noisy
_LEAST_RISE = 0.5  # nats per token; a smaller rise is the noise of small batches


def last_loss(losses: Sequence[float]) -> float:
    """The training loss that is shown during and after training: the mean of the last `LAST_STEPS` steps."""
    last = losses[-LAST_STEPS:]
    return sum(last) / len(last) if last else math.nan


class TrainingLog:
    """Rows of `schemas.LOG`, in memory and in a file of JSON lines; only one process writes the file."""

    def __init__(self, path: Path, step: int, writes: bool = True) -> None:
        """Read the rows of the file up to `step`; later rows, and an incomplete last line, are removed from it."""
        self.rows: list[Row] = []
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        for line in lines:
            row = _row(line)
            if row and len(self.rows) < row["step"] <= step:
                self.rows.append(row)
        self._path = path
        self._file = self._rewritten() if writes else None

    def add(self, row: Row) -> None:
        """Append a row and flush it, so that `tail -f` shows it at once."""
        self.rows.append(row)
        if self._file:
            self._file.write(_line(row))
            self._file.flush()

    def amend(self, **changes: Any) -> Row:
        """Change values of the last row, and return it."""
        self.rows[-1] |= changes
        if self._file:
            self._file.close()
            self._file = self._rewritten()
        return self.rows[-1]

    def _rewritten(self) -> BinaryIO:
        """Write the file anew with the rows in memory; return it open for appending."""
        write_atomically(self._path, b"".join(_line(row) for row in self.rows))
        return self._path.open("ab")

    def sync(self) -> None:
        """Sync all rows to the disk: a checkpoint must not be ahead of its log."""
        if self._file:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()

    def table(self) -> pa.Table:
        """All rows as the table that is published."""
        return pa.Table.from_pylist(self.rows, LOG)


def _line(row: Row) -> bytes:
    return json.dumps(row).encode() + b"\n"


def _row(line: bytes) -> Row | None:
    """The row of a line; None if a crash left it incomplete."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and row.keys() == set(LOG.names) else None


class Course:
    """Detects that the training loss has exploded.

    The loss has fallen by the difference between the first loss and the lowest mean of `RECENT` losses so far. It has
    exploded when the mean of the last `RECENT` losses has risen by more than half of that fall, and more than half a nat.
    """

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=RECENT)
        self.first = self.lowest = self.mean = 0.0
        self.lowest_step = 0  # the last step with the lowest mean

    def add(self, step: int, loss: float) -> None:
        """Add the loss of the next step."""
        if not self._recent:
            self.first = self.lowest = loss
        self._recent.append(loss)
        self.mean = sum(self._recent) / len(self._recent)
        if len(self._recent) == RECENT and self.mean <= self.lowest:
            self.lowest, self.lowest_step = self.mean, step

    @property
    def has_exploded(self) -> bool:
        """Whether to stop the run now."""
        return len(self._recent) == RECENT and self.has_ended_badly

    @property
    def has_ended_badly(self) -> bool:
        """The same test after the last step, also with fewer than `RECENT` steps: the model is not worth keeping."""
        return self.mean - self.lowest > max((self.first - self.lowest) / 2, _LEAST_RISE)


# ---- the log for TensorBoard, while it grows ----------------------------------------------------------------------


class TensorBoard:
    """Writes each row of the log as scalars into TensorBoard's event files in `folder`; use it as a context manager.

    A run that continues purges the steps that are taken again.

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
        """Write one row; the first one tells from which step on to purge."""
        if self._writer is None:
            self._writer = self._make(str(self._folder), purge_step=row["step"])
        for name, value in row.items():
            if name != "step" and value is not None:
                self._writer.add_scalar(name, value, row["step"])
