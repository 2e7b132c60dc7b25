"""One file of a table, open for reading: mapped if its file system is local, else read with `pread`.

A published artifact is never rewritten: a new one takes its place by a rename, and a process that has the old one open
keeps it. So a mapped file does not change. A network file system does not guarantee that, and a mapped page that has
disappeared ends the process (SIGBUS); `pread` returns an error instead.
"""

from __future__ import annotations

import mmap
import os
import re
import weakref
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from scone_cli.arrays import U8
from scone_cli.errors import DamagedArtifact, SconeError, StorageFailure

# Types in /proc/self/mountinfo; `fuse` covers fuse.sshfs, fuse.s3fs and so on, which are served by a process.
_REMOTE = {
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "fuse",
    "gpfs",
    "glusterfs",
    "lustre",
    "nfs",
    "nfs4",
    "smb3",
    "smbfs",
    "vboxsf",
    "virtiofs",
}
_WARMED = 4 << 20  # bytes per read while warming the page cache


class StoredFile:
    """An open file with its size and its bytes, which are mapped if that is safe (see `is_local`), else read.

    Raises:
        StorageFailure: the file cannot be opened.
    """

    def __init__(self, path: Path, can_be_mapped: bool) -> None:
        self.path, self.can_be_mapped = path, can_be_mapped
        try:
            self.descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            weakref.finalize(self, os.close, self.descriptor)
            self.size = os.fstat(self.descriptor).st_size
        except OSError as error:
            raise StorageFailure(f"{path}: cannot be read ({error.strerror})") from error

    @cached_property
    def bytes(self) -> U8:
        """The whole content, uint8 [size]: mapped if that is safe, else read into memory.

        Raises:
            DamagedArtifact, StorageFailure: see `read_into`.
        """
        if self.can_be_mapped and self.size:
            try:
                return np.frombuffer(mmap.mmap(self.descriptor, self.size, access=mmap.ACCESS_READ), np.uint8)
            except OSError as error:
                raise StorageFailure(f"{self.path}: cannot be mapped ({error.strerror})") from error
        content = np.empty(self.size, np.uint8)
        self.read_into(content, 0)
        return content

    def read_into(self, memory: U8, start: int) -> None:
        """Fill `memory` with the bytes of the file from offset `start` on.

        Raises:
            DamagedArtifact: the file has become shorter.
            StorageFailure: the disk fails.
        """
        done = 0
        while done < memory.size:
            try:
                piece: Any = memory[done : done + (1 << 30)]
                count = os.preadv(self.descriptor, [piece], start + done)
            except OSError as error:
                raise StorageFailure(f"{self.path}: cannot be read ({error.strerror})") from error
            if not count:
                raise self.failure()
            done += count

    def warm(self, start: int, size: int) -> None:
        """Read `size` bytes from `start` on, only to bring them into the page cache. Raises: see `read_into`."""
        memory, end = np.empty(min(size, _WARMED), np.uint8), start + size
        for at in range(start, end, _WARMED):
            self.read_into(memory[: end - at], at)

    def failure(self) -> SconeError:
        """The error for a read of the file that has failed."""
        try:
            size = os.fstat(self.descriptor).st_size
        except OSError as error:
            return StorageFailure(f"{self.path}: cannot be read ({error.strerror})")
        if size < self.size:
            problem = f"{self.path}: cut short while it was read, from {self.size:,} bytes to {size:,}"
            return DamagedArtifact(problem, "make the table again: scone precompute --force")
        return StorageFailure(f"{self.path}: cannot be read, the disk failed")


@dataclass(frozen=True)
class Piece:
    """A range of bytes of a file."""

    file: StoredFile
    start: int
    size: int


def is_local(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Whether a file lies on a local file system; True on systems without `mounts` (all but Linux)."""
    if not mounts.is_file():
        return True
    place, kind = Path(path).resolve(), ""
    longest = -1
    for line in mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        point = Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), before.split(" ")[4]))  # a space is \040
        if place.is_relative_to(point) and len(point.parts) >= longest:  # a later mount hides an earlier one
            longest, kind = len(point.parts), after.split(" ")[0]
    return kind.partition(".")[0] not in _REMOTE
