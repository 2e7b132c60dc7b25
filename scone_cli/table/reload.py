"""What becomes of an open table: another version takes its place, or it is closed."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from scone_cli.artifacts.registry import CURRENT, link_of

if TYPE_CHECKING:
    from scone_cli.table.table import Table


class Reopening:
    """Where and how a table was opened; shared by the tables of all versions that follow one another.

    Of several threads that see a new version, one opens its table, and the others get the same.
    """

    def __init__(self, path: Path, open_now: Callable[[Path, Reopening], Table]) -> None:
        """Tables of the REGISTRY/NAME `path`, all of which `open_now` opens with the same arguments."""
        self._path = Path(os.path.abspath(path))  # noqa: PTH100 - the current folder may change, links stay as they are
        self._link, self._open_now = os.fspath(self._path / CURRENT), open_now
        self._newest: weakref.ref[Table] | None = None
        self._lock, self._owner = threading.Lock(), os.getpid()

    def open(self) -> Table:
        """Open the table of the current version. Raises: see `Table.open`."""
        return self._open_now(self._path, self)

    def has_moved(self, link: str) -> bool:
        """Whether `current` no longer says `link`: one call of the system.

        Raises:
            InputMissing, StorageFailure: there is no link that can be read.
        """
        try:
            return os.readlink(self._link) != link  # noqa: PTH115 - every request pays for this
        except OSError:
            return link_of(self._path) != link

    def newest(self) -> Table:
        """The table of the version that is current: one that is open already, else a new one.

        Raises: see `Table.open`.
        """
        if self._owner != os.getpid():  # in a forked child another thread of the parent may hold it for ever
            self._lock, self._owner = threading.Lock(), os.getpid()
        with self._lock:
            newest = self._newest() if self._newest is not None else None
            if newest is None or newest.is_closed or self.has_moved(newest.link):
                newest = self.open()
                self._newest = weakref.ref(newest)
            return newest


class Closed:
    """Stands in for the parts of a closed table: every use of it raises ValueError."""

    def __init__(self, says: str) -> None:
        self.__says = says

    def __getattr__(self, _: str) -> NoReturn:
        raise ValueError(self.__says)
