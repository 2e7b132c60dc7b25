"""The cache of fetched files: a folder that holds at most so many bytes, shared by all processes.

`index.sqlite` knows which files are whole, which are being fetched and when each was last used, and the SHA-256 of every file
that was ever fetched: that stays when the file is dropped, so a later run need not fetch it to know its content. A file
appears whole, by a rename. Readers hold it open, so a file that is dropped meanwhile is read to its end. Nothing here knows
of URLs: a file is known by a key.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

from scone_cli.corpus import compression, formats
from scone_cli.corpus.formats import Format
from scone_cli.errors import BadSetting, StorageFailure
from scone_cli.private import check_private
from scone_cli.settings import Quantity, parse_bytes

CACHE_SIZE = Quantity("20GiB")
CACHE_DIR_HELP = "Folder that keeps the files of URLs.  [default: scone/corpus in the user's cache]"
CACHE_SIZE_HELP = (
    "Most bytes that it keeps; files used longest ago are dropped, and fetched again when they are needed."
)

# The time stamp of every kept file. A file that was edited has another, and is not taken.
STAMP_NS = 1_000_000_000 * 10**9

_NOWHERE = Path()
_WAIT = 0.1  # seconds between two looks whether another fetch has ended
_TOUCH = 60.0  # seconds in which a file is noted as used once
_TABLES = """
create table if not exists kept (key text primary key, bytes integer not null, used real not null);
create table if not exists fetching (part text primary key, bytes integer not null);
create table if not exists known (key text primary key, sha256 text not null);
create table if not exists formats (key text primary key, rules text not null, kind text not null, compression text not null);
"""


@dataclass(frozen=True)
class FileCache:
    """The folder of fetched files, and the bytes it may hold."""

    folder: Path
    limit: int

    @classmethod
    def of(cls, folder: Path | None, size: str) -> FileCache:
        """The cache that two settings describe.

        Raises:
            BadSetting: not a size.
        """
        limit = parse_bytes(size, "--cache-size")
        if folder is not None:
            return cls(folder.absolute(), limit)
        try:
            users = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
        except RuntimeError:
            return cls(_NOWHERE, limit)  # an error only where a URL is given
        return cls(users / "scone" / "corpus", limit)

    # ---- what is known -------------------------------------------------------------------------------------------

    def known(self, keys: Iterable[str]) -> dict[str, str]:
        """The SHA-256 of those files that were fetched before."""
        with self._index() as index:
            found = ((key, index.execute("select sha256 from known where key = ?", (key,)).fetchone()) for key in keys)
            return {key: row[0] for key, row in found if row is not None}

    def format(self, key: str) -> Format | None:
        """The format of a file, if the present rules found it."""
        with self._index() as index:
            asked = "select kind, compression from formats where key = ? and rules = ?"
            row = index.execute(asked, (key, _rules())).fetchone()
            return None if row is None else Format(*row)

    def note_format(self, key: str, found: Format) -> None:
        """Keep the format of a file."""
        with self._index() as index:
            index.execute("insert or replace into formats values (?, ?, ?, ?)", (key, _rules(), *found))

    # ---- files ---------------------------------------------------------------------------------------------------

    def open(self, key: str, size: int) -> int | None:
        """Open a kept file for reading: a descriptor; None if it is not kept, or was changed by somebody."""
        try:
            descriptor = os.open(self._path(key), os.O_RDONLY)
        except FileNotFoundError:
            return None
        found = os.fstat(descriptor)
        if (found.st_size, found.st_mtime_ns) != (size, STAMP_NS):
            os.close(descriptor)
            return None
        with self._index() as index:
            now = time.time()
            index.execute("update kept set used = ? where key = ? and used < ?", (now, key, now - _TOUCH))
        return descriptor

    def fetch(self, key: str, size: int, write: Callable[[BinaryIO], str]) -> int:
        """Open a file, which `write` fetches if it is not kept; of several processes, one fetches it and the others wait.

        `write` gets an empty file, and returns the SHA-256 of what it wrote. The result is a descriptor.

        Raises:
            StorageFailure: the folder cannot be written; what `write` raises.
        """
        self._make_folder()
        (self.folder / "locks").mkdir(exist_ok=True)
        lock = self.folder / "locks" / key
        with FileLock(lock):
            descriptor = self.open(key, size)
            if descriptor is None:
                descriptor = self._fetch(key, size, write)
            # Another process may wait for this file, and a third make a new one: then both fetch, which harms nothing.
            lock.unlink(missing_ok=True)
        return descriptor

    def _fetch(self, key: str, size: int, write: Callable[[BinaryIO], str]) -> int:
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.parent / f"{key}.{os.getpid()}.{time.monotonic_ns()}"
        while (file := self._reserve(part, size)) is None:
            time.sleep(_WAIT)
        with file:
            try:
                sha256 = write(file)
                file.flush()
                os.fsync(file.fileno())  # a file with the right size and no content would be taken for whole
                os.utime(part, ns=(STAMP_NS, STAMP_NS))
                descriptor = os.open(part, os.O_RDONLY)
                with self._index(alone=True) as index:
                    index.execute("delete from fetching where part = ?", (self._name(part),))
                    index.execute("insert or replace into kept values (?, ?, ?)", (key, size, time.time()))
                    index.execute("insert or replace into known values (?, ?)", (key, sha256))
                    part.rename(path)
            except BaseException:
                part.unlink(missing_ok=True)  # the next fetch of any process sees that nobody writes it
                raise
        return descriptor

    def _reserve(self, part: Path, size: int) -> BinaryIO | None:
        """Make the empty file `part`, locked while it is open, and room for it; None while other fetches have that room."""
        with self._index(alone=True) as index:
            busy = 0
            for name, taken in index.execute("select part, bytes from fetching").fetchall():
                if self._is_left(name):
                    (self.folder / name).unlink(missing_ok=True)
                    index.execute("delete from fetching where part = ?", (name,))
                else:
                    busy += taken
            if busy and busy + size > self.limit:
                return None
            (total,) = index.execute("select coalesce(sum(bytes), 0) from kept").fetchone()
            if total + busy + size > self.limit:
                for key, taken in index.execute("select key, bytes from kept order by used, key").fetchall():
                    self._path(key).unlink(missing_ok=True)
                    index.execute("delete from kept where key = ?", (key,))
                    total -= taken
                    if total + busy + size <= self.limit:
                        break
            file = part.open("xb")
            fcntl.flock(file, fcntl.LOCK_EX)
            index.execute("insert into fetching values (?, ?)", (self._name(part), size))
            return file

    def _is_left(self, name: str) -> bool:
        """Whether nobody writes a file any more: its fetch failed, or its process was killed."""
        try:
            with (self.folder / name).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except FileNotFoundError:
            return True
        return True

    def _name(self, part: Path) -> str:
        return str(part.relative_to(self.folder))

    def _path(self, key: str) -> Path:
        return self.folder / "files" / key[:2] / key

    @contextlib.contextmanager
    def _index(self, alone: bool = False) -> Iterator[sqlite3.Connection]:
        """The index, opened for one piece of work: a connection must not be used in a forked process, or in two threads.

        `alone`: no other process reads or writes it meanwhile.
        """
        try:
            self._make_folder()
            with contextlib.closing(sqlite3.connect(self.folder / "index.sqlite", timeout=600)) as index:
                index.execute("pragma synchronous = off")  # only a loss of power could damage it, and then it is told
                index.executescript(_TABLES)
                with index:
                    if alone:
                        index.execute("begin exclusive")
                    yield index
        except sqlite3.Error as error:
            raise StorageFailure(
                f"{self.folder}: the cache of fetched files cannot be used ({error})",
                "name another folder (--cache-dir), or remove this one: what it holds can be fetched again",
            ) from error

    def _make_folder(self) -> None:
        if self.folder == _NOWHERE:
            raise BadSetting("no home folder, so there is no cache for fetched files", "name one: --cache-dir")
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            check_private(self.folder)
        except OSError as error:
            raise StorageFailure(
                f"{self.folder}: the cache of fetched files cannot be made ({error.strerror})",
                "name another folder: --cache-dir",
            ) from error


def _rules() -> str:
    """A hash of the code that finds the format of a file: what other rules found is not taken."""
    digest = hashlib.sha256()
    for module in (formats, compression):
        digest.update(Path(str(module.__file__)).read_bytes())
    return digest.hexdigest()[:16]
