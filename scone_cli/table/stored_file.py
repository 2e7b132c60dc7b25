"""One file of a table, open for reading: mapped where its file system is local, read where it is not.

A published artifact is never rewritten: another takes its place by a rename, and who has the old one open keeps it. So a mapped
file stays what it was. Over a network that cannot be relied on, and a mapped page that is no longer there ends the process
(SIGBUS): such files are read with `pread`, which says what went wrong.
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

# Types in /proc/self/mountinfo; `fuse` stands for all of its kind (sshfs, s3fs, gcsfuse), which are served by a process.
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
_WARMED = 4 << 20  # bytes at a time


class StoredFile:
    """A file of which the size is known and the bytes can be had, mapped where that is safe (`is_local`) or read.

    Raises:
        StorageFailure: it cannot be opened.
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
        """All of it, uint8 [size]: mapped if it can be, else read.

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
        """Read the file from the byte `start` on, as much as `memory` takes.

        Raises:
            DamagedArtifact: it has become shorter.
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
        """Read so many bytes from `start` on for nothing but that the page cache has them then. Raises: see `read_into`."""
        memory, end = np.empty(min(size, _WARMED), np.uint8), start + size
        for at in range(start, end, _WARMED):
            self.read_into(memory[: end - at], at)

    def failure(self) -> SconeError:
        """What to say when a read of the file has failed."""
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
    """Some bytes of a file."""

    file: StoredFile
    start: int
    size: int


def is_local(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Whether a file lies on a file system of this machine; true where `mounts` does not tell (it is Linux's)."""
    if not mounts.is_file():
        return True
    place, kind = Path(path).resolve(), ""
    longest = -1
    for line in mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        point = Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), before.split(" ")[4]))  # a blank is \040
        if place.is_relative_to(point) and len(point.parts) >= longest:  # of two on one place the later hides the other
            longest, kind = len(point.parts), after.split(" ")[0]
    return kind.partition(".")[0] not in _REMOTE
