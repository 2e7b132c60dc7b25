"""The log of a training run for TensorBoard, while it grows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from scone_cli.errors import BadSetting

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


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
